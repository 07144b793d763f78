"""`deit-hf check` prints the report of the data and its warnings."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from deit_hf.commands.check import main


def write_images(root: Path, *parts: str) -> None:
    """Writes four images of two classes in each part; those of all parts are the same."""
    for part in parts:
        generator = np.random.default_rng(0)
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for i in range(4):
                pixels = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                PIL.Image.fromarray(pixels).save(root / part / name / f"{i}.png")


@pytest.mark.parametrize("named", ["by position", "by its flag", "as folders"])
def test_report_and_warnings_are_printed(tmp_path: Path, named: str, capsys):
    write_images(tmp_path, "train", "val")
    folders = ["--train_dir", f"{tmp_path}/train", "--validation_dir", f"{tmp_path}/val"]
    main(
        {"by position": [str(tmp_path)], "by its flag": ["--dataset_name", str(tmp_path)], "as folders": folders}[
            named
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0].split("  ", 1)[1].strip().startswith("8 images in 2 classes (cat 4, dog 4); 8 inspected: 32 pixels")
    )
    assert [line.split()[0] for line in lines] == ["train", "evaluation", "warning:"]
    assert "images of the evaluation part that are also in the train part: 8" in lines[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no data is named; set `dataset_name`"),
        (["none/such/folder"], "`dataset_name` is none/such/folder, but there is no such directory"),
        (["digits", "other"], "no option takes other, and only DATA can be given without one"),
        (["digits", "--dataset_name=digits"], "DATA `digits` and --dataset_name are both given"),
        (["digits", "--train_dri", "x"], "unknown option --train_dri; did you mean `train_dir`"),
        (["digits", "--train_dir", "x"], "`dataset_name` is digits, `train_dir` x"),
        (["empty"], ""),
    ],
)
def test_wrong_data_is_one_line(arguments: list[str], message: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="^2$"):
        main(arguments)
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {message}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
