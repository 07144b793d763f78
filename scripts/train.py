"""Trains a model by a recipe: python scripts/train.py RECIPE.yaml [--option value ...]

Options override the recipe. Several processes: accelerate launch scripts/train.py RECIPE.yaml
"""

import os
import sys

# this folder has an evaluate.py, which would hide the `evaluate` library
sys.path[:] = [path for path in sys.path if os.path.realpath(path) != os.path.dirname(os.path.realpath(__file__))]


import logging

from deit_hf.arguments import DistillationArguments
from deit_hf.recipes import one_line_errors, parse_recipe
from deit_hf.run_arguments import DataArguments, ModelArguments
from deit_hf.training import train


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("deit_hf").setLevel(logging.INFO)  # the recipe in force is said at the start
    with one_line_errors():
        options = parse_recipe((ModelArguments, DataArguments, DistillationArguments), sys.argv[1:], __doc__)
        train(*options)


if __name__ == "__main__":
    main()
