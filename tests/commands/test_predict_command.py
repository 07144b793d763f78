"""The command that classifies images: text, files, bad images and wrong input."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.models import make_model, save

from deit_hf import DeiTConfig
from deit_hf.commands.predict import main
from deit_hf.evaluation.predict import predict


@pytest.fixture
def photos(tmp_path: Path, tiny_config: DeiTConfig, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with model/ and seven images in photos/."""
    monkeypatch.chdir(tmp_path)
    save(make_model("distilled", tiny_config), tmp_path / "model")
    Path("photos/cat").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for i in range(7):
        Image.fromarray(noise.integers(0, 256, (40, 40 + i, 3), dtype=np.uint8)).save(f"photos/cat/{i}.png")
    return Path("photos")


def exit_code(*arguments: str) -> int:
    try:
        main(arguments)
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def rows_of(file: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(file).read_text(encoding="utf-8").splitlines()))


def test_several_images_have_a_line_each_and_one_image_a_block(photos: Path, capsys: pytest.CaptureFixture):
    assert exit_code("model", "photos") == 0
    lines = capsys.readouterr().out.splitlines()
    expected = [(p.image, *p.classes[0]) for p in predict([f"photos/cat/{i}.png" for i in range(7)], "model")]
    assert [line.split()[2] for line in lines] == [image for image, _, _ in expected]
    assert [line.split()[:2] for line in lines] == [[f"{value:.1%}", label] for _, label, value in expected]
    assert exit_code("model", "photos/cat/0.png") == 0
    image, *classes = capsys.readouterr().out.splitlines()
    assert image == "photos/cat/0.png"
    assert len(classes) == 5
    assert exit_code("photos/cat/0.png", "--model", "model", "--top_k", "2") == 0  # the form of earlier versions
    assert capsys.readouterr().out.splitlines() == [image, *classes[:2]]


def test_files_hold_path_rank_label_and_probability(photos: Path, capsys: pytest.CaptureFixture):
    assert exit_code("model", "photos", "--csv", "a.csv", "--json", "a.json", "--top_k", "2") == 0
    assert capsys.readouterr().out.splitlines() == [
        "wrote the predictions of 7 images to a.csv",
        "wrote the predictions of 7 images to a.json",
    ]
    expected = list(predict([f"photos/cat/{i}.png" for i in range(7)], "model", num_best=2))
    rows = rows_of("a.csv")
    assert [(row["path"], row["rank"], row["label"]) for row in rows] == [
        (p.image, str(rank + 1), label) for p in expected for rank, (label, _) in enumerate(p.classes)
    ]
    probabilities = [value for p in expected for _, value in p.classes]
    assert [float(row["probability"]) for row in rows] == pytest.approx(probabilities, abs=2e-6)
    records = json.loads(Path("a.json").read_text(encoding="utf-8"))
    assert [(record["path"], len(record["classes"])) for record in records] == [(p.image, 2) for p in expected]
    assert [c["label"] for record in records for c in record["classes"]] == [row["label"] for row in rows]


def test_a_bad_image_among_others_is_reported_and_the_others_are_classified(
    photos: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
):
    (photos / "bad.png").write_text("hello")
    assert exit_code("model", "photos", "--csv", "a.csv") == 1
    assert "1 of 8 images cannot be read: photos/bad.png is empty or not in an image format" in caplog.text
    rows = rows_of("a.csv")
    assert [row["path"] for row in rows if row["error"]] == ["photos/bad.png"]
    assert len([row for row in rows if row["label"]]) == 7
    assert exit_code("model", "photos/bad.png") == 2  # named alone
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith("error: photos/bad.png is empty or not in an image format")
    )


def test_an_image_without_a_class_above_the_threshold_is_shown(photos: Path, capsys: pytest.CaptureFixture):
    assert exit_code("model", "photos", "--threshold", "1", "--csv", "a.csv") == 0
    assert [row["label"] for row in rows_of("a.csv")] == [""] * 7
    capsys.readouterr()
    assert exit_code("model", "photos", "--threshold", "1", "--top_k", "1") == 0
    assert capsys.readouterr().out.count("no class reaches the threshold") == 7


def test_batches_give_the_probabilities_of_single_images(photos: Path):
    images = [f"photos/cat/{i}.png" for i in range(7)]
    alone = list(predict(images, "model", batch_size=1))
    together = list(predict(images, "model", batch_size=4))
    for one, other in zip(alone, together, strict=True):
        assert (one.image, [label for label, _ in one.classes]) == (other.image, [label for label, _ in other.classes])
        assert [p for _, p in one.classes] == pytest.approx([p for _, p in other.classes], abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model"], "no image is named after the model `model`: deit-hf predict MODEL PATH..."),
        (["photos/cat/0.png", "model"], "`photos/cat/0.png` is an image, but the model comes first"),
        (["model", "nowhere"], "`nowhere` does not exist"),
        (["./none", "photos"], "no directory `./none`; name a saved model, or a Hub id"),
        (["model", "photos", "--top_k", "0"], "`num_best` (`--top_k`) is 0, but must be 1 or more"),
        (["model", "photos", "--threshold", "2"], "`threshold` is 2.0, but must be in [0, 1]"),
        (["model", "photos", "--batch_size", "0"], "`batch_size` is 0, but must be 1 or more"),
        (["model", "photos", "--device", "abacus"], "`device` is 'abacus', which this machine does not have"),
        (["model", "photos", "--csv", "away/a.csv"], "`--csv` is away/a.csv, but the folder `away` does not exist"),
        (["model", "photos", "--json", "photos"], "`--json` is photos, which is a folder; name a file in it"),
        (
            ["model", "photos", "--csv", "a", "--json", "photos/../a"],
            "`--csv` and `--json` are both photos/../a, and one would replace the other",
        ),
        (["model", "photos", "--csv", "here.csv"], "`--csv` is here.csv, which already exists; name another file"),
    ],
)
def test_wrong_input_is_one_line(photos: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture):
    Path("here.csv").write_text("kept", encoding="utf-8")
    assert exit_code(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert Path("here.csv").read_text(encoding="utf-8") == "kept"


def test_help_does_not_load_torch():
    code = (
        "import sys\nfrom deit_hf.commands.predict import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n"
        "    print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("usage: deit-hf predict MODEL PATH...")
    assert shown.endswith("\n[]\n")
