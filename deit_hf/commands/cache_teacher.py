"""Stores a teacher's answers for a training: deit-hf cache-teacher RECIPE [--option value ...] --teacher_cache DIR

RECIPE and options are those of deit-hf train. The answers are to exactly the views of that training, which can use
them instead of the teacher: deit-hf train RECIPE [--option value ...] --teacher_cache DIR. So can trainings with other
students, learning rates and seeds (with the same --data_seed). To continue after a stop, run the same command again.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..training.console import set_up_logging
from .errors import one_line_errors
from .help import print_help


@dataclass
class StoreArguments:
    """Options of a store."""

    top_k: int | None = field(
        default=None,
        metadata={
            "help": "Logits to store of a view, for soft distillation of more than 128 classes; the others are stored "
            "as one sum. Default: 10. With 128 classes or fewer, all are stored."
        },
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Fills the store `teacher_cache`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if print_help("cache-teacher", arguments):
        return
    set_up_logging(verbose=False)
    with one_line_errors():
        from ..data.sources.arguments import DataArguments
        from ..model.arguments import ModelArguments
        from ..training.answer_filling import store_answers
        from ..training.arguments import DistillationArguments
        from ..training.recipe_file import parse_recipe

        groups = (ModelArguments, DataArguments, DistillationArguments, StoreArguments)
        model_args, data_args, args, store_args = parse_recipe(groups, arguments, __doc__)
        set_up_logging(verbose=args.verbose)
        store_answers(model_args, data_args, args, top_k=store_args.top_k)
