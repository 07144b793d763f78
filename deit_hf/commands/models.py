"""Table of the published models: deit-hf models

Parameters are in millions and include the heads for 1000 classes. FLOPs are 1e9 multiply-adds for the features of one
image, counted as in the published tables: five per element of a LayerNorm, without the heads.
"""

from collections.abc import Sequence

from ..analysis.model_cost import model_table
from .parser import CommandParser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    CommandParser(prog="deit-hf models", description=__doc__).parse_args(arguments)
    print(model_table())
