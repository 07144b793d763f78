"""The script that breaks the package in single places: which breaks it draws, and its report."""

import ast
import itertools
import subprocess
from pathlib import Path

import pytest
from support import single_breaks
from support.single_breaks import draw_breaks, main, stages_of

CODE = '''"""The module's docstring has the number 7."""

import logging
from typing import Literal

Kind = Literal["soft", "hard"]
logger = logging.getLogger(__name__)


def scaled(value: float, factor: float, kind: Kind = "soft", *, offset: int = 3) -> float:
    """Its docstring has 7 as well."""
    if value > 70 and kind != "hard":
        logger.warning("there are more than %d", 7)
        raise ValueError(f"`value` is {value + 7}")
    logger.info("7")
    largest = max(value, factor)
    return round(-largest * factor + offset, ndigits=1)
'''
SMALL_CODE = "def seen():\n    return 3\n\n\ndef not_seen():\n    return 5\n"
SMALL_TESTS = """from deit_hf.room.module import seen


def test_that_fails_without_a_break():
    assert False


def test_value():
    assert seen() == 3
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A package of one module with one test."""
    root = tmp_path / "checkout"
    for name, text in {
        "deit_hf/__init__.py": "",
        "deit_hf/room/module.py": CODE,
        "tests/room/test_module.py": SMALL_TESTS,
        "tests/room/test_another.py": "",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    return root


def test_a_seed_draws_the_same_breaks_and_each_changes_the_code(checkout: Path):
    drawn = list(draw_breaks(checkout, 0))
    assert drawn == list(draw_breaks(checkout, 0))
    assert drawn[:5] != list(itertools.islice(draw_breaks(checkout, 1), 5))
    codes = {ast.dump(ast.parse(one.applied(CODE.encode()))) for one in drawn}
    assert ast.dump(ast.parse(CODE)) not in codes
    assert len(codes) == len(drawn)
    assert list(draw_breaks(checkout, 0, "another_room")) == []


def test_every_kind_of_break_is_drawn_but_none_of_what_is_said(checkout: Path):
    drawn = {(one.kind, one.before, one.after) for one in draw_breaks(checkout, 0)}
    assert drawn >= {
        ("operator", "value > 70", "(value >= 70)"),
        ("operator", 'kind != "hard"', "(kind == 'hard')"),
        ("operator", 'value > 70 and kind != "hard"', "(value > 70 or kind != 'hard')"),
        ("operator", "-largest", "largest"),
        ("condition", 'value > 70 and kind != "hard"', "(not (value > 70 and kind != 'hard'))"),
        ("constant", "3", "4"),
        ("constant", '"soft"', "'hard'"),
        ("name", "value", "factor"),
        ("call removed", 'logger.info("7")', "pass"),
        ("call removed", "round(-largest * factor + offset, ndigits=1)", "(-largest * factor + offset)"),
        ("argument dropped", "round(-largest * factor + offset, ndigits=1)", "round(-largest * factor + offset)"),
    }
    assert not {before for kind, before, _ in drawn if kind == "constant"} & {"7", '"7"'}


def test_breaks_are_reported_as_seen_or_as_survivors_and_tried_once(checkout: Path, capsys, monkeypatch):
    # a test that fails without a break does not count
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # pytest starts faster
    monkeypatch.setattr(single_breaks, "LIBRARIES", [])
    module, output = checkout / "deit_hf" / "room" / "module.py", checkout / "breaks.jsonl"
    module.write_text(SMALL_CODE)
    main(["-o", str(output)], checkout)
    output_text = capsys.readouterr().out
    test = "tests/room/test_module.py::test"
    assert f"{test}_that_fails_without_a_break also fails without a break" in output_text
    assert f"deit_hf/room/module.py:2  constant: 3 -> 4  seen by {test}_value" in output_text
    assert "deit_hf/room/module.py:6  constant: 5 -> 6  SURVIVED" in output_text
    assert output_text.endswith("1 of 2 breaks were seen; survivors:\ndeit_hf/room/module.py:6  constant: 5 -> 6\n")
    assert module.read_text() == SMALL_CODE

    main(["-o", str(output), "--jobs", "2"], checkout)
    assert capsys.readouterr().out == output_text[output_text.index("1 of 2") :]
    assert len(output.read_text().splitlines()) == 2


def test_the_tests_of_the_module_run_before_those_of_its_room_and_of_others(checkout: Path):
    (checkout / "tests" / "training").mkdir()
    (checkout / "tests" / "training" / "test_trainer.py").touch()
    own, room, others = (
        ["tests/room/test_module.py"],
        ["tests/room/test_another.py"],
        ["tests/training/test_trainer.py"],
    )
    assert stages_of("deit_hf/room/module.py", checkout, wide=False) == [own, room]
    assert stages_of("deit_hf/room/module.py", checkout, wide=True) == [own, room, others]
    assert stages_of("deit_hf/flat.py", checkout, wide=True) == [others]
