"""Trains a model from a recipe: python scripts/train.py RECIPE.yaml [--option value ...]

Options override the recipe. Several processes: accelerate launch scripts/train.py RECIPE.yaml
"""

import sys

import torch

from ..data.sources.arguments import DataArguments
from ..model.arguments import ModelArguments
from ..reliability.numerical_faults import NonFiniteLossError
from ..training.arguments import DistillationArguments
from ..training.console import set_up_logging
from ..training.recipe_file import parse_recipe
from ..training.run import train
from .errors import one_line_errors


def main() -> None:
    set_up_logging(verbose=False)
    with one_line_errors():
        options = parse_recipe((ModelArguments, DataArguments, DistillationArguments), sys.argv[1:], __doc__)
        set_up_logging(verbose=options[-1].verbose)
        try:
            train(*options)
        except NonFiniteLossError:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()  # all processes get here; without it gloo aborts at exit
            raise
