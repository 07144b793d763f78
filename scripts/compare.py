"""A table of finished runs: python scripts/compare.py OUTPUT_DIR...

Reads each run's eval_results.json: top-1 of its only head, or of class head, distillation head and their mean.
"""

import os
import sys

# this folder has an evaluate.py, which would hide the `evaluate` library
sys.path[:] = [path for path in sys.path if os.path.realpath(path) != os.path.dirname(os.path.realpath(__file__))]

import argparse

from deit_hf.evaluation import comparison_table
from deit_hf.recipes import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dirs", nargs="+", metavar="OUTPUT_DIR", help="what a run of train.py left")
    with one_line_errors():
        print(comparison_table(parser.parse_args().output_dirs))


if __name__ == "__main__":
    main()
