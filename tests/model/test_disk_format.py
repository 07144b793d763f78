"""Models saved here load in plain transformers without this package, and the other way round.

The other process has only transformers: Auto classes, both pipelines, no remote code.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from support.patience import PATIENCE

from deit_hf import DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher, DeiTModel
from deit_hf.model.image_processing_deit import make_processor

# the three cases: our class, whether it has the distillation token, and transformers' class on disk
ROWS: dict[str, tuple[Any, bool, str]] = {
    "distilled": (DeiTForImageClassificationWithTeacher, True, "DeiTForImageClassificationWithTeacher"),
    "one_head": (DeiTForImageClassification, True, "DeiTForImageClassification"),
    "plain": (DeiTForImageClassification, False, "ViTForImageClassification"),
}
SIZES = {"patch_size": 8, "hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 72, "num_hidden_layers": 2}
SIZES |= {"image_size": 32, "num_labels": 5, "id2label": dict(enumerate("abcde"))}

WITHOUT_PACKAGE = """
import os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
sys.modules["deit_hf"] = None  # importing it fails here
from pathlib import Path
import torch, transformers
from PIL import Image
root, image = Path(sys.argv[1]), Image.open(Path(sys.argv[1], "image.png"))
"""

USE = """
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline
answers = {}
for directory in sorted(root.glob("ours-*")):
    processor = AutoImageProcessor.from_pretrained(directory)
    pixel_values = processor(image, return_tensors="pt")["pixel_values"]
    model, info = AutoModelForImageClassification.from_pretrained(directory, output_loading_info=True)
    base = AutoModel.from_pretrained(directory)
    half = AutoModelForImageClassification.from_pretrained(directory, dtype=torch.bfloat16)
    old_name = AutoModelForImageClassification.from_pretrained(directory, torch_dtype="bfloat16")
    with torch.no_grad():
        logits, features = model(pixel_values).logits, base(pixel_values).last_hidden_state
    answers[directory.name] = {
        "class": type(model).__name__,
        "left over": [sorted(info[name]) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")],
        "dtypes": [str(half.dtype), str(old_name.dtype)],
        "pixel_values": pixel_values,
        "logits": logits,
        "features": features,
        "classified": pipeline("image-classification", model=str(directory))(image, top_k=5),
        "extracted": pipeline("image-feature-extraction", model=str(directory), return_tensors=True)(image),
    }
torch.save(answers, root / "answers.pt")
"""

SAVE = """
torch.manual_seed(3)
sizes = eval(sys.argv[2])
logits = {}
for row, name in eval(sys.argv[3]).items():
    native = getattr(transformers, name)
    model = native(native.config_class(**sizes, attn_implementation="eager")).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(root / f"native-{row}", max_shard_size="60KB" if row == "distilled" else "5GB")
    with torch.no_grad():
        logits[row] = model(torch.load(root / "pixels.pt")).logits
torch.save(logits, root / "native-logits.pt")
"""


def run_without_package(code: str, *arguments: str) -> None:
    command = [sys.executable, "-c", WITHOUT_PACKAGE + code, *arguments]
    process = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert process.returncode == 0, process.stderr[-3000:]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outputs of plain transformers for the three cases, with our own models."""
    root = tmp_path_factory.mktemp("disk-format")
    torch.manual_seed(0)
    image = Image.effect_noise((50, 70), 120).convert("RGB")
    image.save(root / "image.png")
    models = {}
    for row, (ours, has_token, _) in ROWS.items():
        model = ours(DeiTConfig(**SIZES, use_distillation_token=has_token)).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(root / f"ours-{row}", max_shard_size="60KB" if row == "distilled" else "5GB")
        make_processor(32).save_pretrained(root / f"ours-{row}")
        models[row] = model
    assert len(list((root / "ours-distilled").glob("model-*.safetensors"))) > 1
    run_without_package(USE, str(root))
    return {"models": models, "theirs": torch.load(root / "answers.pt", weights_only=False)}


@pytest.mark.parametrize("row", ROWS)
def test_plain_transformers_gives_the_same_logits(answers: dict[str, Any], row: str):
    theirs, model = answers["theirs"][f"ours-{row}"], answers["models"][row]
    assert theirs["class"] == ROWS[row][2]
    assert theirs["left over"] == [[], [], []]
    assert theirs["dtypes"] == ["torch.bfloat16"] * 2
    with torch.no_grad():
        torch.testing.assert_close(theirs["logits"], model(theirs["pixel_values"]).logits, rtol=0, atol=1e-5)
    assert theirs["logits"].std() > 0.1  # zeros would always be equal


@pytest.mark.parametrize("row", ROWS)
def test_plain_pipelines_classify_and_give_features(answers: dict[str, Any], row: str):
    theirs, model = answers["theirs"][f"ours-{row}"], answers["models"][row]
    with torch.no_grad():
        scores = model(theirs["pixel_values"]).logits[0].softmax(dim=-1)
        features = model.base_model(theirs["pixel_values"]).last_hidden_state
    assert [entry["label"] for entry in theirs["classified"]] == ["abcde"[i] for i in scores.argsort(descending=True)]
    for entry in theirs["classified"]:
        assert entry["score"] == pytest.approx(scores["abcde".index(entry["label"])].item(), abs=1e-5)
    torch.testing.assert_close(theirs["features"], features, rtol=0, atol=1e-5)
    torch.testing.assert_close(theirs["extracted"], features, rtol=0, atol=1e-5)


def test_checkpoints_of_plain_transformers_load_here_with_the_same_logits(tmp_path: Path):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, 32, 32, generator=generator)
    torch.save(pixels, tmp_path / "pixels.pt")
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    run_without_package(SAVE, str(tmp_path), repr(SIZES), repr({row: name for row, (*_, name) in ROWS.items()}))
    expected = torch.load(tmp_path / "native-logits.pt")
    for row, (ours, _, native) in ROWS.items():
        directory = tmp_path / f"native-{row}"
        model, info = ours.from_pretrained(directory, output_loading_info=True)
        assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        with torch.no_grad():
            torch.testing.assert_close(model(pixels).logits, expected[row], rtol=0, atol=1e-5)
        assert DeiTModel.from_pretrained(directory).config.use_distillation_token == (row != "plain"), native
    assert transformers.AutoConfig.from_pretrained(tmp_path / "native-plain").model_type == "vit"
