"""`--help` shows the options that exist, with their real defaults, in lines that fit a terminal."""

import dataclasses
import shlex
from enum import Enum

import pytest

from deit_hf import DistillationArguments
from deit_hf.commands import option_groups
from deit_hf.commands.cache_teacher import StoreArguments
from deit_hf.commands.help import HELP, help_text, print_help
from deit_hf.commands.option_groups import HELP_ALL_ONLY, TRAIN, WIDTH, Option
from deit_hf.data.holdout import FRACTION
from deit_hf.data.prepare import PrepareOptions
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.evaluation.arguments import EvaluationArguments, ReportArguments
from deit_hf.jobs.arguments import DEFAULT_STUDENT, JobArguments, ReproduceArguments
from deit_hf.jobs.plan import TEACHER_EPOCHS
from deit_hf.jobs.settings import (
    FEWEST_EPOCHS,
    LARGEST_BATCH,
    PAPER_BATCH,
    PAPER_LEARNING_RATE,
    SMALL_DATA,
    pretrained_settings,
    scratch_settings,
)
from deit_hf.model.arguments import ModelArguments
from deit_hf.training.recipe_file import given_options, parse_recipe

CLASSES = {
    "distill": (JobArguments, ModelArguments, DataArguments, DistillationArguments),
    "train": (ModelArguments, DataArguments, DistillationArguments),
    "cache-teacher": (StoreArguments, ModelArguments, DataArguments, DistillationArguments),
    "evaluate": (EvaluationArguments, DataArguments),
    "report": (ReportArguments, DataArguments),
    "check": (DataArguments,),
    "prepare": (PrepareOptions, DataArguments),
    "reproduce": (ReproduceArguments, ModelArguments, DataArguments, DistillationArguments),
}
POSITIONALS = {
    "distill": {"DATA": "dataset_name"},
    "train": {},
    "cache-teacher": {},
    "evaluate": {"MODEL": "model_name_or_path", "DATA": "dataset_name"},
    "report": {"MODEL...": "models"},
    "check": {"DATA": "dataset_name"},
    "reproduce": {"TABLE": "table"},
    "prepare": {"SOURCE": "dataset_name", "DIR": "output_dir"},
}
OPTIONS = [(command, option) for command in CLASSES for options in HELP[command].groups.values() for option in options]


def fields_of(command: str) -> dict[str, dataclasses.Field]:
    return {field.name: field for cls in CLASSES[command] for field in dataclasses.fields(cls) if field.init}


@pytest.mark.parametrize(
    ("command", "option"), OPTIONS, ids=lambda value: value if isinstance(value, str) else value.name
)
def test_shown_default_is_that_of_the_option(command: str, option: Option):
    """A job or a table chooses some values itself; its help describes them in words."""
    if command in ("distill", "reproduce") and option.default is None:
        assert option.name in fields_of(command)
        return
    default = fields_of(command)[option.name].default
    default = None if default is dataclasses.MISSING else default.value if isinstance(default, Enum) else default
    assert (option.default, type(option.default)) == (default, type(default))
    assert not (option.default is not None and option.default_text)


def test_every_option_of_this_package_is_shown_or_decided_to_be_in_help_all_only():
    """Fails with the name of a new option: add a line to a group of option_groups.py, or to `HELP_ALL_ONLY`."""
    own = {*DistillationArguments.__annotations__}
    own |= {field.name for cls in (ModelArguments, DataArguments) for field in dataclasses.fields(cls)}
    shown = [option.name for options in TRAIN.values() for option in options]
    assert len(shown) == len(set(shown))
    assert own - {*shown} - HELP_ALL_ONLY == set()
    assert own - {*shown} >= HELP_ALL_ONLY


@pytest.mark.parametrize("command", CLASSES)
def test_lines_fit_and_each_option_has_one(command: str, capsys):
    assert print_help(command, ["x", "--help"])
    text = capsys.readouterr().out
    assert text == help_text(command)
    lines = text.splitlines()
    assert lines[0].startswith(f"usage: deit-hf {command} ")
    assert [line for line in lines if len(line) > WIDTH] == []
    options = [option for name, option in OPTIONS if name == command]
    assert sum(line.lstrip().startswith("-") for line in lines) == len(options)
    assert all(len(option.line()) > option_groups.COLUMN for option in options)
    assert f"deit-hf {command} --help-all" in lines[-1]


def test_training_shows_about_sixty_options_in_nine_groups():
    assert len(TRAIN) == 9
    assert 55 <= sum(map(len, TRAIN.values())) <= 68
    assert len(help_text("train").splitlines()) < 100


def test_lines_name_the_default_the_symbol_and_the_short_flag():
    text = help_text("train")
    for line in (
        "  --distillation_weight λ           weight of the teacher's loss, in [0, 1]; labels have 1 - λ [0.5]",
        "  --teacher SOURCE                  Hub id, folder, timm/NAME on the Hub, or timm:NAME[@FILE]",
        "  --evaluate_teacher BOOL           measure the teacher before the first step [true]",
        "  --cutmix_alpha ALPHA              parameter of cutmix's Beta distribution; 0 turns it off [1]",
    ):
        assert f"\n{line}\n" in text


@pytest.mark.parametrize("option", [option for _, option in OPTIONS if option.flag], ids=lambda option: option.flag)
def test_flags_that_are_shown_instead_of_the_long_ones_exist(option: Option):
    flags = ["--variant", "deit_tiny_patch16_224", "--dataset_name", "digits"]
    if option.name == "model_name_or_path":
        flags = flags[2:]
    if option.name == "dataset_name":
        flags = flags[:2]
    for flag in option.flag.split(", "):
        groups = parse_recipe(CLASSES["train"], [*flags, flag, "x"])
        assert "x" in [getattr(group, option.name, None) for group in groups]


@pytest.mark.parametrize(
    ("command", "example"), [(name, example) for name in CLASSES for example in HELP[name].examples]
)
def test_examples_are_accepted(command: str, example: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(example)
    arguments = words[words.index(command) + 1 :]
    assert words[: words.index(command)][-1] in ("deit-hf", "deit_hf")
    if command in ("distill", "reproduce"):
        given = given_options(CLASSES[command], arguments, positionals=POSITIONALS[command])
        assert given[next(iter(POSITIONALS[command].values()))] == arguments[0]
        return
    groups = parse_recipe(CLASSES[command], [*arguments], positionals=POSITIONALS[command])
    assert len(groups) == len(CLASSES[command])


def test_help_of_a_job_describes_the_settings_that_it_chooses():
    text = " ".join(help_text("distill").split())
    few, many, scratch = (
        pretrained_settings(SMALL_DATA, is_deit=True),
        pretrained_settings(SMALL_DATA + 1, is_deit=True),
        scratch_settings(1, {}),
    )
    assert (
        f"[{few.options['num_train_epochs']}; {many.options['num_train_epochs']} above {SMALL_DATA:,} images; " in text
    )
    assert f"{FEWEST_EPOCHS} to {scratch.options['num_train_epochs']} from scratch]" in text
    assert few.options["learning_rate"] == 1e-4
    assert f"[{few.options['per_device_train_batch_size']}, from scratch {LARGEST_BATCH}; fewer" in text
    assert f"from scratch {PAPER_LEARNING_RATE:.0e} x sqrt(batch / {PAPER_BATCH})]".replace("e-03", "e-3") in text
    assert f"[{FRACTION}]" in text
    assert f"[{DEFAULT_STUDENT}]" in text
    assert f"[0 if it fits, else {TEACHER_EPOCHS}]" in text


def test_help_all_prints_every_option(capsys):
    for flag in ("--help-all", "--help"):
        with pytest.raises(SystemExit, match="^0$"):
            parse_recipe(CLASSES["train"], [flag], "Trains a model.")
        text = capsys.readouterr().out
        assert "Trains a model." in text
        assert [name for name in fields_of("train") if f"--{name}" not in text] == []
    assert not print_help("train", ["--help-all"])
