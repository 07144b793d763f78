"""Studies: rows, seeds and teachers become trainings with the right options."""

import re

import pytest

from deit_hf.commands.help import HELP
from deit_hf.jobs.plan import OPTION_TYPES
from deit_hf.jobs.study import Study, find_table, read_study, study_names
from deit_hf.jobs.study_results import recorded
from deit_hf.training.recipe_file import parse_recipe

STUDY = Study(
    name="small",
    title="a study",
    tables={"table": ["plain", "taught", "longer"]},
    data={"dataset_name": "digits"},
    validation=0.2,
    protocols={
        "cpu": {
            "all": {"image_size": 16, "mixup_alpha": 0.8, "num_train_epochs": 4},
            "student": {"learning_rate": 0.1},
            "teachers": {"convnet": {"model_name_or_path": "timm:resnet10t", "mixup_alpha": 0}},
        },
        "gpu": {"student": {"num_train_epochs": 9}},
    },
    rows={
        "plain": {"variant": "deit_tiny_patch16_224"},
        "taught": {"variant": "deit_tiny_distilled_patch16_224", "teacher": "convnet", "against": "plain"},
        "longer": {"start": "taught", "teacher": "convnet", "epochs": 3, "learning_rate": 0.2},
        "weights": {"model_name_or_path": "some/weights", "teacher": "convnet"},
    },
)


def test_runs_are_in_an_order_in_which_each_finds_what_it_needs():
    runs = STUDY.runs(["longer", "plain"], [3, 5], "cpu", {})
    assert [*runs] == [
        "teacher-convnet",
        "taught-seed3",
        "longer-seed3",
        "plain-seed3",
        "taught-seed5",
        "longer-seed5",
        "plain-seed5",
    ]
    assert runs["longer-seed5"].needs == ["teacher-convnet", "taught-seed5"]
    assert (runs["longer-seed5"].seed, runs["teacher-convnet"].seed) == (5, 0)


def test_options_of_the_row_override_those_of_the_protocol_and_those_of_the_user_override_all():
    runs = STUDY.runs(["longer", "plain"], [0], "cpu", {})
    assert runs["plain-seed0"].options == {
        "image_size": 16,
        "mixup_alpha": 0.8,
        "num_train_epochs": 4,
        "learning_rate": 0.1,
        "variant": "deit_tiny_patch16_224",
    }
    assert runs["longer-seed0"].options["learning_rate"] == 0.2
    assert runs["longer-seed0"].options["num_train_epochs"] == 12  # `epochs` is a factor
    assert runs["teacher-convnet"].options == {
        "image_size": 16,
        "mixup_alpha": 0,
        "num_train_epochs": 4,
        "model_name_or_path": "timm:resnet10t",
    }
    given = STUDY.runs(["longer", "plain"], [0], "cpu", {"num_train_epochs": 1})
    assert [run.options["num_train_epochs"] for run in given.values()] == [1, 1, 3, 1]
    assert STUDY.runs(["plain"], [0], "gpu", {})["plain-seed0"].options["num_train_epochs"] == 9


def test_student_and_teacher_of_the_user_replace_the_weights_of_each():
    runs = STUDY.runs(
        ["weights", "plain"], [0], "cpu", {"model_name_or_path": "mine", "teacher_model_name_or_path": "theirs"}
    )
    assert runs["weights-seed0"].options["model_name_or_path"] == "mine"
    assert runs["teacher-convnet"].options["model_name_or_path"] == "theirs"
    assert "model_name_or_path" not in runs["plain-seed0"].options
    assert all("teacher_model_name_or_path" not in run.options for run in runs.values())


@pytest.mark.parametrize(
    ("rows", "protocol", "message"),
    [
        (["plane"], "cpu", "`rows` is 'plane', but must be one of plain, taught, longer, weights"),
        (["plain"], "tpu", "`protocol` is 'tpu', but must be one of cpu, gpu"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(rows, protocol, message):
    with pytest.raises(ValueError, match=message):
        STUDY.runs(rows, [0], protocol, {})


def test_a_table_that_does_not_exist_is_refused_with_all_tables():
    with pytest.raises(ValueError, match="`table` is 'table33', but must be one of .*table3, table4.*digits"):
        find_table("table33")


def test_a_row_whose_name_begins_like_that_of_a_teacher_is_a_row():
    study = read_study("transfer")
    row = "teacher-160-to-224"
    assert study.has_row(row, "cpu")
    assert study.planned_options(row, "cpu", {})["image_size"] == 224
    assert study.planned_options("teacher-convnet-50", "cpu", {})["max_train_samples"] == 50
    assert not study.has_row("teacher-of-nobody", "cpu")


def test_help_names_all_tables():
    tables = {table for name in study_names() for table in read_study(name).tables}
    assert {*re.findall(r"[\w-]+", HELP["reproduce"].usage[1].partition(":")[2])} - {"your", "data"} == tables


@pytest.mark.parametrize("name", study_names())
def test_every_run_of_a_shipped_study_has_options_of_a_training(name: str):
    """Misspelled options, rows and teachers in the files of this package fail here."""
    study = read_study(name)
    assert study.title
    assert {*sum(study.tables.values(), [])} >= {row for row in study.rows if row not in study.disagreement}
    for protocol in study.protocols:
        for table in study.tables.values():
            runs = study.runs(table, [0], protocol, {"dataset_name": "digits"})
            for run in runs.values():
                sources = {"output_dir": "x", "teacher_model_name_or_path": "t" if run.teacher else None}
                sources |= {"model_name_or_path": "s"} if run.start else {}
                given = {key: value for key, value in {**run.options, **sources}.items() if value is not None}
                model, _, args = parse_recipe(OPTION_TYPES, [], defaults=given)
                assert (args.distillation_type != "none") == (run.teacher is not None), run.name
                assert args.num_train_epochs >= 1
    for row in study.rows.values():
        assert row.get("against") in (None, *study.rows)
        assert row["about"]
    assert {row["teacher"] for row in study.rows.values() if "teacher" in row} <= {*study.protocols["cpu"]["teachers"]}


def test_recorded_options_name_no_path(tmp_path):
    (tmp_path / "weights").mkdir()
    for source, name in (
        (str(tmp_path / "weights"), "weights"),
        (f"timm:resnet18@{tmp_path}/file.safetensors", "timm:resnet18@file.safetensors"),
        ("facebook/deit-tiny-patch16-224", "facebook/deit-tiny-patch16-224"),
    ):
        assert recorded({"model_name_or_path": source}) == {"model_name_or_path": name}
