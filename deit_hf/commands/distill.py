"""From a folder of images to a small model: deit-hf distill DATA --teacher SOURCE [--student SOURCE] [-o DIR]"""

import logging
import sys
from collections.abc import Sequence

from .errors import one_line_errors


def main(arguments: Sequence[str] | None = None) -> None:
    from ..jobs.arguments import JobArguments
    from ..jobs.distill import run_job
    from ..jobs.plan import OPTION_TYPES
    from ..jobs.results import results_table
    from ..training.recipe_file import given_options

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("deit_hf").setLevel(logging.INFO)
    with one_line_errors():
        given = given_options((JobArguments, *OPTION_TYPES), sys.argv[1:] if arguments is None else arguments)
        own = {name: given.pop(name) for name in JobArguments.__dataclass_fields__ if name in given}
        outcome = run_job(JobArguments(**own), given)
        print(f"\n{results_table(outcome.results)}\n\nNext:")
        print("\n".join(f"  {command}" for command in outcome.next_commands))
