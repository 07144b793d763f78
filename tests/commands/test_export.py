"""The command that exports to ONNX: what it writes, prints and refuses."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from support.models import NAMES, make_model, save
from transformers import PreTrainedModel, TimmWrapperConfig, TimmWrapperForImageClassification

from deit_hf import DeiTConfig
from deit_hf.commands.export import main
from deit_hf.evaluation.predict import predict
from deit_hf.model import export
from deit_hf.model.build import load_classifier
from deit_hf.model.image_processing_deit import make_processor


@pytest.fixture
def folder(tmp_path: Path, tiny_config: DeiTConfig, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with model/, and photos/val with eight images whose class is the model's own answer for six of them."""
    monkeypatch.chdir(tmp_path)
    save(make_model("distilled", tiny_config), tmp_path / "model")
    random = np.random.default_rng(0)
    for i in range(8):
        patch = Image.fromarray(random.integers(0, 256, (3, 4, 3), dtype=np.uint8))
        patch.resize((48, 36 + i), Image.Resampling.BICUBIC).save(f"{i}.png")
    for i, prediction in enumerate(predict([f"{i}.png" for i in range(8)], "model", num_best=2)):
        label, _ = prediction.classes[0 if i < 6 else 1]
        Path("photos/val", label).mkdir(parents=True, exist_ok=True)
        Path(f"{i}.png").rename(f"photos/val/{label}/{i}.png")
    return tmp_path


def exit_code(*arguments: str) -> int:
    try:
        main(arguments)
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def python_of(readme: Path) -> str:
    return readme.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]


def test_export_equals_the_model_for_any_batch_and_its_readme_runs(
    folder: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    assert exit_code("model", "-o", "out", "--int8", "--data", "photos") == 0
    shown = capfd.readouterr()
    assert len(shown.out.splitlines()) == 7
    assert "matches the model on 8 images of the data: largest difference of a logit" in shown.out
    assert "top-1 of the model: 75.00% (8 images)" in shown.out
    rows = {line.split()[0]: line.split()[1:] for line in shown.out.splitlines() if line.startswith("onnx/model")}
    assert rows["onnx/model.onnx"][-1] == "75.00%"
    assert rows["onnx/model_quantized.onnx"][-1].endswith("%")
    assert "Warning" not in shown.err
    assert sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*") if path.is_file()) == [
        "README.md",
        "config.json",
        "onnx/model.onnx",
        "onnx/model_quantized.onnx",
        "preprocessor_config.json",
    ]
    for name in ("config.json", "preprocessor_config.json"):  # what plain transformers and transformers.js read
        assert json.loads(Path("out", name).read_text()) == json.loads(Path("model", name).read_text())
    model, _ = load_classifier("model")
    for file, tolerance in (("model.onnx", 1e-4), ("model_quantized.onnx", 1.0)):
        session = onnxruntime.InferenceSession(f"out/onnx/{file}")
        assert [output.name for output in session.get_outputs()][0] == "logits"
        for batch_size in (1, 2, 5):
            pixel_values = torch.randn(batch_size, 3, 32, 32)
            with torch.no_grad():
                expected = model.eval()(pixel_values=pixel_values).logits.numpy()
            found = session.run(["logits"], {"pixel_values": pixel_values.numpy()})[0]
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    image = next(Path("photos").rglob("0.png"))
    (prediction,) = predict([str(image)], "model", num_best=1)
    Path("out/photo.jpg").write_bytes(image.read_bytes())
    monkeypatch.chdir("out")
    exec(python_of(Path("README.md")), {})
    label, probability = capfd.readouterr().out.split()
    assert label == prediction.classes[0][0]
    assert float(probability) == pytest.approx(
        prediction.classes[0][1], abs=0.02
    )  # Pillow's and torchvision's bicubic


@pytest.mark.slow
def test_models_of_other_kinds_are_exported_and_the_readme_says_what_cannot_read_them(
    folder: Path, capsys: pytest.CaptureFixture, tiny_config: DeiTConfig
):
    save(make_model("plain", tiny_config), folder / "plain")
    Path("plain-onnx/onnx").mkdir(parents=True)
    Path("plain-onnx/onnx/model_quantized.onnx").touch()  # of an earlier export
    Path("plain-onnx/mine.txt").touch()
    assert exit_code("plain", "plain-onnx", "--overwrite") == 0
    assert [path.name for path in Path("plain-onnx/onnx").iterdir()] == ["model.onnx"]
    assert Path("plain-onnx/mine.txt").exists()
    session = onnxruntime.InferenceSession("plain-onnx/onnx/model.onnx")
    assert [output.name for output in session.get_outputs()] == ["logits"]
    config = TimmWrapperConfig(architecture="test_efficientnet", num_labels=5, id2label=dict(enumerate(NAMES)))
    TimmWrapperForImageClassification(config).save_pretrained("teacher")
    make_processor(32).save_pretrained("teacher")
    capsys.readouterr()
    assert exit_code("teacher-onnx", "--model_name_or_path", "teacher", "--int8") == 0
    shown = capsys.readouterr().out
    assert "transformers.js cannot read this model: it does not know the type `timm_wrapper`" in shown
    assert "the accuracy with 8-bit weights was not measured; name images with --data" in shown
    assert "transformers.js cannot read this model" in Path("teacher-onnx/README.md").read_text(encoding="utf-8")
    sizes = {path.name: path.stat().st_size for path in Path("teacher-onnx/onnx").iterdir()}
    assert sizes["model_quantized.onnx"] < 0.5 * sizes["model.onnx"]  # convolutions are quantised, too


class WrongSession:
    """Answers like a model whose logits for the second image of a batch are off by `error`."""

    def __init__(self, model: PreTrainedModel, error: float):
        self.model, self.error = model, error

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="logits")]

    def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            logits = self.model(pixel_values=torch.from_numpy(feed["pixel_values"])).logits.numpy()
        logits[1:2] += self.error
        return [logits]


@pytest.mark.parametrize("error", [0.1, float("nan")])
def test_a_file_that_differs_from_the_model_in_a_batch_is_not_written(
    folder: Path, error: float, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    model = load_classifier("model")[0].eval()
    monkeypatch.setattr(export, "_export", lambda model, file, pixel_values: file.touch())
    monkeypatch.setattr(export, "session_of", lambda file: WrongSession(model, error))
    assert exit_code("model", "out") == 2
    shown = capsys.readouterr().err
    assert shown.startswith(
        f"error: the exported file is wrong: its `logits` differ from the model's by {error:.3g} in a"
    )
    assert "in a batch of 3, more than the tolerance of 0.001; nothing was written" in shown
    assert shown.count("\n") == 1
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model"], "an export needs one model and one directory, but is given model: deit-hf export MODEL DIR"),
        (["model", "a", "-o", "b"], "an export needs one model and one directory, but is given b model a"),
        (["model", "photos"], "`photos` is not empty; name another directory, or pass `--overwrite`"),
        (["model", "model", "--overwrite"], "`model` holds a trained model, which an export does not overwrite"),
        (["model", "file"], "`file` is a file; name a directory for the export"),
        (["./none", "out"], "no directory `./none`; name a saved model, or a Hub id"),
        (["model", "out", "--data", "./none"], "`dataset_name` is ./none, but there is no such directory"),
        (["model", "out", "--max_eval_samples", "3"], "`max_eval_samples` is 3, but no data is named"),
    ],
)
def test_wrong_input_is_reported_in_one_line(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture
):
    Path("file").touch()
    assert exit_code(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}"), error
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_missing_extra_is_named_with_the_command(
    folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    find_spec = export.importlib.util.find_spec
    monkeypatch.setattr(
        export.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find_spec(name)
    )
    assert exit_code("model", "out") == 2
    assert capsys.readouterr().err == (
        'error: an export needs onnxscript; install with: pip install "deit_hf[onnx]"\n'
    )
