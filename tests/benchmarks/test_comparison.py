"""Contenders take turns, ratios compare the same round, and the file has the numbers of the table."""

import json
from pathlib import Path

import pytest
import torch

from deit_hf.benchmarks.comparison import Comparison, check_compiler, in_turn, rows_of

SPEEDS = {
    ("inference", "deit_hf"): [100.0, 300.0, 200.0],
    ("inference", "timm"): [100.0, 200.0, 400.0],
}


def test_each_turn_begins_with_another_contender_and_the_first_turn_does_not_count():
    calls = []

    def call(name: str) -> int:
        calls.append(name)
        return len(calls)

    contenders = {("step", name): (lambda name=name: call(name)) for name in "abc"}
    results = in_turn(contenders, 3)
    assert calls == [*"abc", *"bca", *"cab", *"abc"]
    assert results == {("step", "a"): [6, 8, 10], ("step", "b"): [4, 9, 11], ("step", "c"): [5, 7, 12]}


def test_ratios_compare_the_same_round():
    ours, timm = rows_of(SPEEDS)
    assert ours == {
        "setting": "inference",
        "package": "deit_hf",
        "images_per_second": 200.0,
        "rounds": [100.0, 300.0, 200.0],
    }
    # 1, 1.5 and 0.5: the ratio of the two medians would be 1, too, but not that of sorted rounds (1, 1, 0.75)
    assert (timm["ratio"], timm["ratio_range"]) == (1.0, [0.5, 1.5])
    assert timm["images_per_second"] == 200.0


def test_file_has_the_numbers_of_the_table(tmp_path: Path):
    comparison = Comparison("model", {"batch_size": 8}, rows_of(SPEEDS), ["a note"])
    comparison.write(tmp_path / "result.json")
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["rows"] == comparison.rows
    assert stored["notes"] == ["a note"]
    assert stored["settings"] == {"batch_size": 8}
    assert stored["environment"]["torch"] == torch.__version__.partition("+")[0] or "+" in torch.__version__
    table = str(comparison).splitlines()
    assert table[0] == "|  | package | images/s | deit_hf / package | lowest and highest round |"
    assert table[3] == "| inference | timm | 200.0 | 1.000 | 0.500 to 1.500 |"
    assert "batch_size 8" in table[5]
    assert table[6] == "a note"


def test_missing_compiler_is_named_before_minutes_of_measuring(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="`compile` needs a C\\+\\+ compiler, but there is no `no-such-compiler`"):
        check_compiler(torch.device("cpu"))
