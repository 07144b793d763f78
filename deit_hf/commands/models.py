"""Table of the published models: python -m deit_hf

Parameters are in millions and include the heads for 1000 classes. FLOPs are 1e9 multiply-adds for the features of one
image, counted as in the published tables: five per element of a LayerNorm, without the heads.
"""

import argparse

from ..analysis.model_cost import model_table
from .parser import CommandParser


def main() -> None:
    """Prints the table."""
    parser = CommandParser(
        prog="python -m deit_hf", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    print(model_table())
