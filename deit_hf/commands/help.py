"""`--help` of the commands that take the options of a training; imports no torch, so that it answers at once."""

import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .option_groups import CHECK, DISTILL, EVALUATE, PREPARE, REPORT, REPRODUCE, STORE, TRAIN, Option


class Help(NamedTuple):
    """What `--help` of a command shows.

    Attributes:
        usage: two lines of arguments.
        groups: options by the title of their group.
        examples: commands that work.
    """

    usage: tuple[str, str]
    groups: Mapping[str, Sequence[Option]]
    examples: tuple[str, ...]


HELP = {
    "distill": Help(
        (
            "deit-hf distill DATA --teacher SOURCE [--student SOURCE | --variant NAME] [-o DIR]",
            "DATA: folder of class folders (also in train/, val/, test/) or parquet files, Hub id, or digits",
        ),
        DISTILL,
        (
            "deit-hf distill digits",
            "deit-hf distill photos/ --teacher microsoft/resnet-50 --compare",
            "deit-hf distill photos/ --teacher teacher/ --variant deit_tiny_distilled_patch16_224",
        ),
    ),
    "train": Help(
        (
            "deit-hf train RECIPE [--option value ...]   (options override the recipe)",
            "RECIPE: a name from deit-hf recipes, or a YAML file",
        ),
        TRAIN,
        (
            "deit-hf train quickstart-plain",
            "deit-hf train small-data --dataset_name photos/ --teacher outputs/flowers/teacher -o outputs/photos",
            "torchrun --nproc_per_node 4 -m deit_hf train distill-hard-tiny --bf16 true",
        ),
    ),
    "cache-teacher": Help(
        (
            "deit-hf cache-teacher RECIPE [--option value ...] --teacher_cache DIR   (options of deit-hf train)",
            "DIR: a new folder, or a store to continue; then deit-hf train RECIPE ... --teacher_cache DIR",
        ),
        STORE,
        (
            "deit-hf cache-teacher distill-hard-tiny --teacher_cache answers",
            "deit-hf cache-teacher distill-hard-tiny --teacher_cache answers --teacher_cache_epochs 50",
            "torchrun --nproc_per_node 4 -m deit_hf cache-teacher distill-soft-base --teacher_cache answers",
        ),
    ),
    "evaluate": Help(
        (
            "deit-hf evaluate MODEL DATA [--option value ...]",
            "MODEL: Hub id or folder; DATA: folder, Hub id or digits",
        ),
        EVALUATE,
        (
            "deit-hf evaluate outputs/quickstart/plain digits",
            "deit-hf evaluate outputs/photos photos/ --per_class_file classes.json",
            "deit-hf evaluate outputs/photos --validation_dir photos/test --crop_ratio 1.0 --output metrics.json",
        ),
    ),
    "report": Help(
        (
            "deit-hf report MODEL... --data DATA [--output report.html] [--option value ...]",
            "MODEL: Hub id or folder, also of a distillation job; DATA: folder, Hub id or digits",
        ),
        REPORT,
        (
            "deit-hf report runs/digits --data digits",
            "deit-hf report outputs/a outputs/b --data photos/ --teacher microsoft/resnet-50",
            "deit-hf report runs/photos/student --validation_dir photos/test --output photos.html",
        ),
    ),
    "check": Help(
        (
            "deit-hf check DATA [--option value ...]",
            "DATA: folder of class folders or parquet files, Hub id, or digits",
        ),
        CHECK,
        (
            "deit-hf check photos/",
            "deit-hf check --train_dir photos/train --validation_dir photos/val",
            "deit-hf check digits",
        ),
    ),
    "reproduce": Help(
        (
            "deit-hf reproduce TABLE [--rows ROW ...] [--seeds N ...] [--option value ...]",
            "TABLE: table2, table3, table4, mixing, peers; transfer, resolution (your data); digits, peers-digits",
        ),
        REPRODUCE,
        (
            "deit-hf reproduce digits",
            "deit-hf reproduce table3 --rows none token-hard --seeds 3",
            "deit-hf reproduce transfer --dataset_name photos/",
            "deit-hf reproduce table3 --show",
        ),
    ),
    "prepare": Help(
        (
            "deit-hf prepare SOURCE DIR [--option value ...]",
            "SOURCE: folder of class folders or parquet files, Hub id, or digits; DIR: a new directory",
        ),
        PREPARE,
        (
            "deit-hf prepare photos/ photos-384/",
            "deit-hf prepare photos/ photos-256/ --short_side 256 --on_bad_image keep",
            "deit-hf prepare --train_dir photos/train --validation_dir photos/val -o photos-384/",
        ),
    ),
}


def help_text(command: str) -> str:
    """The text of `--help` of a command of `HELP`."""
    usage, groups, examples = HELP[command]
    lines = [f"usage: {usage[0]}", f"       {usage[1]}"]
    for title, options in groups.items():
        lines += ["", f"{title}:", *(option.line() for option in options)]
    lines += ["", "examples:", *(f"  {example}" for example in examples)]
    lines += ["", f"All options, with longer descriptions: deit-hf {command} --help-all"]
    return "\n".join(lines) + "\n"


def print_help(command: str, arguments: Sequence[str]) -> bool:
    """Prints the help of a command if the arguments ask for it, and returns whether they do."""
    if not {"-h", "--help"} & {*arguments}:
        return False
    sys.stdout.write(help_text(command))
    return True
