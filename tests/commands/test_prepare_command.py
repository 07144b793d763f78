"""`deit-hf prepare` writes data that the other commands take, and refuses wrong input in one line."""

from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest

from deit_hf.commands.check import main as check
from deit_hf.commands.prepare import main


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("deit_hf.data.prepare.TIMED_SECONDS", 0.05)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for i in range(3):
                coarse = PIL.Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
                coarse.resize((120, 90)).save(tmp_path / "photos" / part / name / f"{i}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("named", ["by position", "by flags"])
def test_prepared_photos_are_checked_like_the_originals(photos: Path, named: str, capsys):
    folders = ["--train_dir", "photos/train", "--validation_dir", "photos/val", "-o", "small"]
    given = ["photos", "small"] if named == "by position" else folders
    main([*given, "--short_side", "64", "--num_workers", "0"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("12 images: about ")
    assert lines[1] == "images  train 6, validation 6: 12 resized, 0 with their original bytes"
    assert [line.split()[0] for line in lines[2:4]] == ["size", "speed"]
    assert lines[-1] == "  deit-hf train RECIPE --dataset_name small"
    check(["small"])
    first, second, *_ = capsys.readouterr().out.splitlines()
    for line in (first, second):
        assert "6 images in 2 classes (cat 3, dog 3); 6 inspected: 85 pixels wide, 64 high, RGB 6" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "DIR is missing; name SOURCE and DIR first"),
        (["photos"], "DIR is missing; name SOURCE and DIR first"),
        (["photos", "photos/small"], "`photos/small` is inside the data `photos`"),
        (["photos", "photos"], "`photos` is not empty; name a new directory, or remove this one"),
        (["none/such/folder", "small"], "`dataset_name` is none/such/folder, but there is no such directory"),
        (["photos", "small", "--quality", "0"], "`quality` is 0, but must be in [1, 100]"),
        (["photos", "small", "--label_file", "x"], "`label_file` is x, but is not used here: pass it to the training"),
        (["photos", "small", "--streaming", "true"], "`streaming` is True, but is not used here"),
        (["photos", "small", "--short_sied", "3"], "unknown option --short_sied; did you mean `short_side`"),
        (["photos", "small", "--image_column_name", "x"], "the dataset has no column `x`, only image, label"),
    ],
)
def test_wrong_input_is_one_line(photos: Path, arguments: list[str], message: str, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        main(arguments)
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {message}")
    assert printed.err.count("\n") == 1
    assert not (photos.parent / "small").exists()
