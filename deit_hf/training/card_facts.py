"""Facts about a training for its model card; the card itself is written in hub/."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from transformers import TrainerState

from ..evaluation.fusion import FUSIONS
from ..hub.model_facts import recipe_facts, training_in_words
from .arguments import DistillationArguments
from .recipe_file import effective_options


def evaluation_facts(args: DistillationArguments) -> dict[str, Any]:
    """Fields of `ModelFacts` about how the model was evaluated."""
    return {"fusion": FUSIONS[args.fusion], "environment": f"seed {args.seed}"}


def run_facts(
    args: DistillationArguments,
    groups: Mapping[str, Any],
    state: TrainerState,
    *,
    base_model: str | None,
    teacher: str | None,
    effective_recipe: Mapping[str, str],
) -> dict[str, Any]:
    """Fields of `ModelFacts` about a training.

    Args:
        args: the options of the training.
        groups: instances of other option classes, by name; `model` is a `ModelArguments`.
        state: of the trainer, after at least one step.
        base_model: `name_or_path` of the model that the training started from; not used if `groups` has `model`.
        teacher: name of the teacher of the training, or None.
        effective_recipe: the effective settings (run_summary.py).
    """
    recipe: dict[str, Any] = {}
    for group in (*groups.values(), args):
        recipe |= effective_options(group)
    facts = recipe_facts(recipe)
    if "model" not in groups:  # a model created in Python
        facts |= {"base_model": base_model}
    return {
        **facts,
        **evaluation_facts(args),
        "teacher": teacher,
        "training": training_in_words(asdict(state), loads_best=args.load_best_model_at_end),
        "effective_recipe": effective_recipe,
    }
