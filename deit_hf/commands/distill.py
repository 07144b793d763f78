"""From a dataset and a teacher to a small model: deit-hf distill DATA --teacher SOURCE [--student SOURCE] [-o DIR]

DATA is a folder of class folders (possibly in train/, val/, test/), a directory of parquet files, a Hub id, or digits.
To continue a job that was stopped, run the same command again.
"""

import sys
from collections.abc import Sequence

from ..training.console import set_up_logging
from .errors import one_line_errors
from .help import print_help


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the job, and prints its table and the next commands."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if print_help("distill", arguments):
        return
    set_up_logging(verbose=False)
    with one_line_errors():
        from ..jobs.arguments import JobArguments
        from ..jobs.distill import run_job
        from ..jobs.plan import OPTION_TYPES
        from ..jobs.results import results_table
        from ..training.recipe_file import given_options

        groups, positionals = (JobArguments, *OPTION_TYPES), {"DATA": "dataset_name"}
        given = given_options(groups, arguments, __doc__, positionals=positionals)
        set_up_logging(verbose=bool(given.get("verbose")))
        own = {name: given.pop(name) for name in JobArguments.__dataclass_fields__ if name in given}
        outcome = run_job(JobArguments(**own), given)
        if outcome.is_main_process:
            print(f"\n{results_table(outcome.results)}\n\nNext:")
            print("\n".join(f"  {command}" for command in outcome.next_commands))
