"""Checks the options of a job before anything is loaded."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..argument_checks import nearest_option
from ..training.arguments import DistillationArguments
from ..training.recipe_file import parse_recipe
from .arguments import DEFAULT_STUDENT
from .plan import OPTION_TYPES, uses_digits_settings

# Names of `distill` in Python that stand for options.
NAMES_OF_THE_CALL = {"data", "teacher", "student", "compare", "teacher_epochs", "teacher_train_only"}


def check_options(options: Mapping[str, Any]) -> DistillationArguments:
    """Checks names and values of the options that a user gave for the runs of a job.

    Args:
        options: by name.

    Returns:
        The options of a run, for the processes and the device.

    Raises:
        ValueError: an option is unknown or has a wrong value, or a source is missing or named twice.
    """
    known = {each.name for kind in OPTION_TYPES for each in fields(kind) if each.init}
    for name in options:
        if name not in known:
            raise ValueError(f"unknown option `{name}`{nearest_option(name, known | NAMES_OF_THE_CALL)}")
    if not any(options.get(name) for name in ("dataset_name", "train_dir")):
        raise ValueError("no data is named; name a folder of class folders, a Hub id, or `digits` to try it out")
    if not options.get("teacher_model_name_or_path") and not uses_digits_settings(options):
        raise ValueError(
            "no teacher is named; name one with `--teacher`: a Hub id, a directory, timm/NAME, or timm:NAME@FILE"
        )
    if options.get("streaming"):
        raise ValueError(
            "`streaming` is true, but a distillation job holds all rows; use `deit-hf train` to train from a stream"
        )
    if options.get("teacher_cache"):
        raise ValueError(
            f"`teacher_cache` is {options['teacher_cache']!r}, but a distillation job asks its teacher; use `deit-hf "
            "train` to train with stored answers"
        )
    if options.get("distillation_type") == "none":
        raise ValueError(
            "`distillation_type` is 'none', but this job distils; use 'hard' or 'soft', or `deit-hf train` to train "
            "without a teacher"
        )
    start = {} if options.get("variant") else {"model_name_or_path": DEFAULT_STUDENT}
    groups = parse_recipe(OPTION_TYPES, [], defaults={"output_dir": "unused", **start, **options})
    args: DistillationArguments = groups[-1]
    return args
