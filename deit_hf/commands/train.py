"""Trains a model from a recipe: deit-hf train RECIPE [--option value ...]

RECIPE is the name of a recipe of this package (see deit-hf recipes) or a YAML file; options override it. Several
processes: torchrun --nproc_per_node 2 -m deit_hf train RECIPE, or accelerate launch scripts/train.py RECIPE
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..training.console import set_up_logging
from .errors import one_line_errors
from .help import print_help


@dataclass
class StartArguments:
    """Options of one start of the command, which a recipe does not repeat."""

    dry_run: bool = field(
        default=False,
        metadata={"help": "Check everything up to the first step, measure time, memory and disk, and write nothing."},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, and writes the run to `output_dir`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if print_help("train", arguments):
        return
    set_up_logging(verbose=False)
    with one_line_errors():
        import torch

        from ..data.sources.arguments import DataArguments
        from ..model.arguments import ModelArguments
        from ..reliability.numerical_faults import NonFiniteLossError
        from ..training.arguments import DistillationArguments
        from ..training.recipe_file import parse_recipe
        from ..training.run import train

        groups = (ModelArguments, DataArguments, DistillationArguments, StartArguments)
        *options, start = parse_recipe(groups, arguments, __doc__)
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


def _dry_run(model_args: Any, data_args: Any, args: Any) -> None:
    from ..training.preflight import dry_run

    needs = dry_run(model_args, data_args, args)
    if args.process_index == 0:
        finished = [f"already finished: {args.output_dir}; nothing to do; to repeat it, set `overwrite_output_dir`"]
        print("\n".join(finished if needs is None else ["", "The run will need:", *needs.lines()]))
