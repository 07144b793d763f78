"""Repeats tables of the paper at small scale: deit-hf reproduce TABLE [--rows ROW ...] [--seeds N ...] [options]

Trains each row with each seed, and what it needs, such as its teacher. The same command again continues; started
several times at once, the processes share the runs. With --show it trains nothing, and writes tables and plots of all
results under --output_dir. Options of the data, of the machine and for a shorter trial hold for all runs.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import one_line_errors
from .help import print_help

OUTPUT_DIR = "runs/reproduce"


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what is left of a table, and prints the table."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if print_help("reproduce", arguments):
        return
    from ..training.console import set_up_logging

    set_up_logging(verbose=False)
    logging.getLogger("deit_hf").setLevel(logging.WARNING)  # each training would describe itself
    with one_line_errors():
        from ..jobs.arguments import ReproduceArguments
        from ..jobs.plan import OPTION_TYPES
        from ..jobs.reproduce import reproduce
        from ..jobs.study_report import table_of, write_report
        from ..training.recipe_file import given_options

        groups, positionals = (ReproduceArguments, *OPTION_TYPES), {"TABLE": "table"}
        given = given_options(groups, arguments, __doc__, positionals=positionals)
        own = {name: given.pop(name) for name in ReproduceArguments.__dataclass_fields__ if name in given}
        output_dir = Path(given.pop("output_dir", OUTPUT_DIR))
        if "table" not in own:
            raise ValueError("no table is named; see --help for all tables")
        args = ReproduceArguments(**own)
        if args.show:
            unused = sorted({*own, *given} - {"table", "show"})
            if unused:
                print(f"--show reads results and does not use {', '.join(unused)}", file=sys.stderr)
            print(write_report(output_dir, args.table))
            return
        results = reproduce(args, given, output_dir)
        print(f"\n{table_of(args.table, results)}")
