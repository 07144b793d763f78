"""What to do about a file that could not be written: the cause need not be a full disk."""

import errno
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from deit_hf.reliability.disk_faults import advice_of, check_writable, explained_write_error


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Free disk space, or lower"),
        (errno.EDQUOT, "Free disk space within your quota"),
        (errno.EROFS, "The file system is read-only: mount it for writing"),
        (errno.EACCES, "You have no permission to write there: change the permissions"),
    ],
)
def test_advice_follows_the_reason_however_it_is_told(tmp_path: Path, number: int, advice: str):
    assert advice_of(OSError(number, os.strerror(number)), tmp_path).startswith(advice)
    in_the_text = SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")
    assert advice_of(in_the_text, tmp_path).startswith(advice)
    in_the_cause = RuntimeError("PytorchStreamWriter failed writing file")
    in_the_cause.__cause__ = OSError(number, "it failed")
    assert advice_of(in_the_cause, tmp_path).startswith(advice)


def test_without_a_reason_the_directory_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    error = RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")
    assert advice_of(error, tmp_path).startswith("Free disk space")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root can write anywhere
    assert advice_of(error, tmp_path).startswith("You have no permission to write there")


def test_error_of_writing_names_what_where_and_why(tmp_path: Path):
    message = f"^the model could not be written to {tmp_path}: .*Read-only file system. The file system is read-only: "
    with pytest.raises(OSError, match=message), explained_write_error("the model", tmp_path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_directory_of_a_run_that_cannot_be_made_is_named_with_its_option(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="`output_dir` .*file cannot be created: a file has this name"):
        check_writable(tmp_path / "file")
    with pytest.raises(NotADirectoryError, match="`output_dir` .*file/run cannot be created: Not a directory; name"):
        check_writable(tmp_path / "file" / "run")
    check_writable(tmp_path / "new" / "run")
    assert (tmp_path / "new" / "run").is_dir()
