"""Trains a model from a recipe: python scripts/train.py RECIPE.yaml [--option value ...]

Options override the recipe. Several processes: accelerate launch scripts/train.py RECIPE.yaml
"""

import logging
import sys

import torch

from ..data.sources.arguments import DataArguments
from ..model.arguments import ModelArguments
from ..reliability.numerical_faults import NonFiniteLossError
from ..training.arguments import DistillationArguments
from ..training.recipe_file import parse_recipe
from ..training.run import train
from .errors import one_line_errors


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("deit_hf").setLevel(logging.INFO)  # logs the effective recipe at the start
    with one_line_errors():
        options = parse_recipe((ModelArguments, DataArguments, DistillationArguments), sys.argv[1:], __doc__)
        try:
            train(*options)
        except NonFiniteLossError:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()  # all processes get here; without it gloo aborts at exit
            raise
