"""Files are complete or absent, also after an error while they are written."""

import os
from pathlib import Path

import pytest

from deit_hf.atomic_files import write_text, written_aside


def test_files_arrive_together_and_what_was_there_stays(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "weights").write_text("old")
    with written_aside(tmp_path) as part:
        (part / "weights").write_text("new")
        assert (tmp_path / "weights").read_text() == "old"
    files = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert files == {"notes.txt": "mine", "weights": "new"}


@pytest.mark.parametrize("interrupt", [OSError("disk is full"), KeyboardInterrupt()], ids=repr)
def test_interrupted_writing_leaves_the_directory_as_it_was(tmp_path: Path, interrupt: BaseException):
    (tmp_path / "weights").write_text("old")

    def write_half() -> None:
        with written_aside(tmp_path) as part:
            (part / "weights").write_text("ne")
            raise interrupt

    with pytest.raises(type(interrupt)):
        write_half()
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    assert (tmp_path / "weights").read_text() == "old"


def test_a_folder_replaces_a_folder_of_the_same_name(tmp_path: Path):
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "old").touch()
    with written_aside(tmp_path) as part:
        (part / "onnx").mkdir()
        (part / "onnx" / "new").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["onnx", "onnx/new"]


def test_a_new_directory_is_removed_after_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match="refused"), written_aside(tmp_path / "new"):
        raise ValueError("refused")
    assert list(tmp_path.iterdir()) == []


def test_text_is_written_to_a_pipe_and_through_a_link(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "numbers")
    assert os.read(reader, 99) == b"numbers"
    os.close(reader)
    (tmp_path / "link").symlink_to("file.json")
    write_text(tmp_path / "link", "numbers")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file.json").read_text() == "numbers"


def test_text_that_cannot_be_written_leaves_the_old_file(tmp_path: Path):
    write_text(tmp_path / "new folder" / "card.md", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "new folder" / "card.md", "new, cut \ud800 in the middle")
    assert [(path.name, path.read_text()) for path in (tmp_path / "new folder").iterdir()] == [("card.md", "old")]
