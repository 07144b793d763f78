"""A table of finished runs: python scripts/compare.py OUTPUT_DIR...

Reads each run's eval_results.json: top-1 of its only head, or of class head, distillation head and their mean;
balanced accuracy and macro-F1 of the answer.
"""

import argparse

from ..evaluation.compare import comparison_table
from .errors import one_line_errors
from .parser import CommandParser


def main() -> None:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dirs", nargs="+", metavar="OUTPUT_DIR", help="what a run of train.py left")
    with one_line_errors():
        print(comparison_table(parser.parse_args().output_dirs))
