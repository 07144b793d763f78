"""A table of finished runs: python scripts/compare.py OUTPUT_DIR...

Reads eval_results.json of each run. Prints top-1 of its only head, or of class head, distillation head and their mean,
and balanced accuracy and macro-F1 of the model's answer.
"""

import argparse

from ..evaluation.compare import comparison_table
from .errors import one_line_errors
from .parser import CommandParser


def main() -> None:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dirs", nargs="+", metavar="OUTPUT_DIR", help="output_dir of a finished run")
    with one_line_errors():
        print(comparison_table(parser.parse_args().output_dirs))
