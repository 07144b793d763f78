"""Type and range checks of option values that are set in Python."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from deit_hf import DistillationArguments
from deit_hf.argument_checks import check, check_files, check_flags, check_kinds
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.model.arguments import ModelArguments


@dataclass
class Options:
    name: str | None = None
    number: int = 1
    share: float = 0.5
    on: bool = False
    choice: Literal["a", "b"] = "a"  # checked by its own class
    several: list[str] | None = None
    hub_token: str | None = None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": 5}, "`name` is 5, but must be of type str or None"),
        ({"number": 2.5}, "`number` is 2.5, but must be of type int"),
        ({"number": True}, "`number` is True, but must be of type int"),
        ({"share": "x"}, "`share` is 'x', but must be of type float"),
        ({"share": None}, "`share` is None, but must be of type float"),
        ({"on": "no"}, "`on` is 'no', but must be of type bool"),
        ({"hub_token": 12345}, "`hub_token` is a int, but must be of type str or None"),
    ],
)
def test_value_of_another_kind_is_named_with_its_kind(options: dict[str, Any], message: str):
    with pytest.raises(TypeError, match=message):
        check_kinds(Options(**options))


def test_values_of_the_kind_are_taken_and_others_are_left_to_their_own_checks():
    check_kinds(Options())
    check_kinds(Options("a", 2, 1, True, "c", ["x"], None))  # type: ignore[arg-type]
    check_kinds(Options(Path("a"), np.int64(2), np.float32(0.5)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (DistillationArguments, {"output_dir": "o", "learning_rate": "x"}),
        (DistillationArguments, {"output_dir": "o", "per_device_train_batch_size": 2.5}),
        (DataArguments, {"dataset_name": "d", "max_train_samples": "5"}),
        (ModelArguments, {"variant": 5}),
    ],
)
def test_option_classes_check_the_kinds_of_their_values(make: Any, options: dict[str, Any]):
    name, value = list(options.items())[-1]
    with pytest.raises(TypeError, match=f"`{name}` is {value!r}, but must be of type"):
        make(**options)


def test_number_that_is_none_is_refused_by_name():
    with pytest.raises(TypeError, match="`size` is 'x', but must be a number, 1 or more"):
        check("size", "x", lambda value: value >= 1, "1 or more")  # type: ignore[arg-type]


def test_values_after_two_dashes_and_numbers_are_no_flags():
    check_flags(["--known", "-1", "-.5", "--", "--other"], ["--known"])
    with pytest.raises(ValueError, match="^unknown option --other, -x; see --help for all$"):
        check_flags(["--known", "--other=secret", "-x"], ["--known"])


# ---- files to write ----


def test_files_need_a_writable_folder_and_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "x.json"
    check_files({"output": file, "other": tmp_path / "y.json", "third": None})
    with pytest.raises(FileNotFoundError, match="`output` is .*, but the folder `.*none` does not exist; create it"):
        check_files({"output": tmp_path / "none" / "x.json"})
    with pytest.raises(ValueError, match="which is a folder; name a file in it"):
        check_files({"output": tmp_path})
    with pytest.raises(ValueError, match="`output` and `other` are both .*; name different files"):
        check_files({"output": file, "other": str(tmp_path / "." / "x.json")})
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the tests may be run as root
    with pytest.raises(PermissionError, match="`output` is .*x.json, but the folder `.*` cannot be written to"):
        check_files({"output": file})
