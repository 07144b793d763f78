"""Table of the published models: python -m deit_hf

Parameters in millions (heads for 1000 classes included), and FLOPs: multiply-adds in 1e9 for the features of one image
(LayerNorm counts five for each element, heads are left out: the rule of the published tables).
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
