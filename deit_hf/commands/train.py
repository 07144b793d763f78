"""Trains a model from a recipe: python scripts/train.py RECIPE.yaml [--option value ...]

Options override the recipe. Several processes: accelerate launch scripts/train.py RECIPE.yaml
"""

import sys
from dataclasses import dataclass, field

import torch

from ..data.sources.arguments import DataArguments
from ..model.arguments import ModelArguments
from ..reliability.numerical_faults import NonFiniteLossError
from ..training.arguments import DistillationArguments
from ..training.console import set_up_logging
from ..training.preflight import dry_run
from ..training.recipe_file import parse_recipe
from ..training.run import train
from .errors import one_line_errors


@dataclass
class StartArguments:
    """Options of one start of the command, which a recipe does not repeat."""

    dry_run: bool = field(
        default=False,
        metadata={"help": "Check everything up to the first step, measure time, memory and disk, and write nothing."},
    )


def main() -> None:
    set_up_logging(verbose=False)
    with one_line_errors():
        groups = (ModelArguments, DataArguments, DistillationArguments, StartArguments)
        *options, start = parse_recipe(groups, sys.argv[1:], __doc__)
        set_up_logging(verbose=options[-1].verbose)
        try:
            if start.dry_run:
                _dry_run(*options)
            else:
                train(*options)
        except NonFiniteLossError:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()  # all processes get here; without it gloo aborts at exit
            raise


def _dry_run(model_args: ModelArguments, data_args: DataArguments, args: DistillationArguments) -> None:
    needs = dry_run(model_args, data_args, args)
    if args.process_index == 0:
        finished = [f"already finished: {args.output_dir}; nothing to do"]
        print("\n".join(finished if needs is None else ["", "The run will need:", *needs.lines()]))
