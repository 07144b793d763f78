"""A table of finished runs: deit-hf compare OUTPUT_DIR...

Reads eval_results.json of each run. Prints top-1 of its only head, or of class head, distillation head and their mean,
and balanced accuracy and macro-F1 of the model's answer.
"""

from collections.abc import Sequence

from .errors import one_line_errors
from .parser import CommandParser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = CommandParser(prog="deit-hf compare", description=__doc__)
    parser.add_argument("output_dirs", nargs="+", metavar="OUTPUT_DIR", help="output_dir of a finished run")
    options = parser.parse_args(arguments)
    with one_line_errors():
        from ..evaluation.compare import comparison_table

        print(comparison_table(options.output_dirs))
