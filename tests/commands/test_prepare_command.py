"""`deit-hf prepare` writes data that the other commands take, and refuses wrong input in one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
from support.patience import PATIENCE

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


def has_processes(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_command_leaves_no_directory_and_no_process_and_works_again(photos: Path, number: signal.Signals):
    """Finished images of more than 64 kB in the pipe kept the workers of a killed process alive."""
    pixels = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
    for i in range(80):
        PIL.Image.fromarray(pixels).save(photos / "train" / "cat" / f"large{i}.jpg", quality=95)
    command = [sys.executable, "-m", "deit_hf", "prepare", "photos", "small", "--num_workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, text=True)
    assert process.stdout is not None
    assert "images: about" in process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(number)
    assert process.wait(PATIENCE) == (75 if number == signal.SIGTERM else -number)
    assert not (photos.parent / "small").exists()
    assert (photos.parent / ".small.unfinished").exists() is (number == signal.SIGKILL)
    end = time.monotonic() + 20
    while has_processes(process.pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not has_processes(process.pid)
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert {path.name for path in photos.parent.iterdir()} - {"cache"} == {"photos", "small"}


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
