"""Two records of a run are compared, and their differences described."""

from pathlib import Path

import pytest

from deit_hf.reliability.run_identity import (
    RUN_IDENTITY,
    Difference,
    differences,
    read_identity,
    refusal,
    write_identity,
)


def record(facts: dict | None = None, **groups: dict) -> dict:
    return {"options": groups, "facts": facts or {}, "changes": []}


def test_a_record_comes_back_as_it_was_written(tmp_path: Path):
    written = record({"classes": ["é", "b"]}, training={"learning_rate": 1e-3, "seed": None})
    write_identity(tmp_path, written)
    assert read_identity(tmp_path) == written
    assert [path.name for path in tmp_path.iterdir()] == [RUN_IDENTITY]


def test_no_record_is_none_and_a_damaged_one_is_refused_by_name(tmp_path: Path):
    assert read_identity(tmp_path) is None
    for text in ('{"options"', "[]", '{"options": {}, "facts": 3, "changes": []}'):
        (tmp_path / RUN_IDENTITY).write_text(text)
        with pytest.raises(ValueError, match=f"`{tmp_path / RUN_IDENTITY}` is damaged, so what was trained there"):
            read_identity(tmp_path)


def test_differences_are_those_of_options_and_facts_that_both_know():
    stored = record({"classes": ["a"], "data": {"rows": 3}}, training={"seed": 1, "gone": 5, "kept": 2})
    given = record({"classes": ["b"], "student": {}}, training={"kept": 2, "seed": 2}, model={"variant": "deit"})
    assert differences(stored, given, {}) == [Difference("seed", 1, 2), Difference("classes", ["a"], ["b"])]


def test_an_option_that_is_newer_than_the_record_had_its_default():
    stored = record(training={})
    given = record(training={"empty": None, "default": 7, "set": 8})
    assert differences(stored, given, {"empty": 3, "default": 7, "set": 7}) == [Difference("set", 7, 8)]


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (Difference("seed", 1, 2), "`seed` was 1 and is 2"),
        (
            Difference("data", {"rows": 3, "labels": "ab", "images": "x"}, {"rows": 4, "labels": "cd", "images": "x"}),
            "`data` (rows 3, now 4; labels ab, now cd)",
        ),
        (Difference("teacher", None, {"weights": "ab", "image_size": [32, 32]}), "weights ab image_size 32, 32"),
        (Difference("classes", ["a", "b"], ["b", "zz"]), "`classes` were a, b and are b, zz"),
        (
            Difference(
                "classes", [*map(str, range(1000))], [*map(str, range(500)), "new", *map(str, range(501, 1000))]
            ),
            "were 1000, from index 500 on 500, 501, 502, ..., and are 1000, from there on new, 501, 502, ...",
        ),
    ],
)
def test_difference_in_words(difference: Difference, text: str):
    assert text in str(difference)


def test_refusal_names_every_difference_and_each_way_on():
    changed, fixed = Difference("seed", 1, 2), Difference("optim", "sgd", "adamw_torch")
    text = str(refusal("run", [changed, Difference("data", {"rows": 3}, {"rows": 4})], []))
    assert "`run` holds another run: `seed` was 1 and is 2; `data` (rows 3, now 4). Use the stored values" in text
    assert text.endswith("from step 0, or pass --allow_changes seed data to continue it with these changes")
    text = str(refusal("run", [changed], [fixed]))
    assert "`seed` was 1 and is 2; `optim` was sgd and is adamw_torch" in text
    assert "--allow_changes" not in text
    assert text.endswith("its weights, `model_name_or_path` run: `optim` cannot change within a run")
