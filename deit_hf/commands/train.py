"""Trains a model from a recipe: deit-hf train RECIPE [--option value ...]

RECIPE is the name of a recipe of this package (see deit-hf recipes) or a YAML file; options override it. Several
processes: torchrun --nproc_per_node 2 -m deit_hf train RECIPE, or accelerate launch scripts/train.py RECIPE
"""

import logging
import sys
from collections.abc import Sequence

from .errors import one_line_errors
from .help import print_help


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, and writes the run to `output_dir`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if print_help("train", arguments):
        return
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("deit_hf").setLevel(logging.INFO)  # logs the effective recipe at the start
    with one_line_errors():
        import torch

        from ..data.sources.arguments import DataArguments
        from ..model.arguments import ModelArguments
        from ..reliability.numerical_faults import NonFiniteLossError
        from ..training.arguments import DistillationArguments
        from ..training.recipe_file import parse_recipe
        from ..training.run import train

        options = parse_recipe((ModelArguments, DataArguments, DistillationArguments), arguments, __doc__)
        try:
            train(*options)
        except NonFiniteLossError:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()  # all processes get here; without it gloo aborts at exit
            raise
