"""What a model card says of a training, from the trainer that has done it; cards are written in hub/."""

from dataclasses import asdict
from typing import Any

from ..distillation.teacher import Teacher
from ..evaluation.fusion import FUSIONS
from ..hub.model_facts import recipe_facts, training_in_words
from .recipe_file import options_in_force


def run_facts(trainer: Any) -> dict[str, Any]:
    """Fields of `ModelFacts` that a training tells, as far as there was one.

    Args:
        trainer: a DistillationTrainer.
    """
    measured = {"fusion": FUSIONS[trainer.args.eval_fusion], "environment": f"seed {trainer.args.seed}"}
    if not trainer.state.global_step:
        return measured
    recipe: dict[str, Any] = {}
    for group in (*trainer.same_run.groups.values(), trainer.args):
        recipe |= options_in_force(group)
    facts = recipe_facts(recipe)
    if (
        "model" not in trainer.same_run.groups
    ):  # a model that was made in Python, from the weights that it names itself
        facts |= {"base_model": trainer.model.name_or_path or None}
    return {
        **facts,
        **measured,
        "teacher": _teacher_name(trainer.teacher) if trainer.teacher_was_asked else None,
        "training": training_in_words(asdict(trainer.state), loads_best=trainer.args.load_best_model_at_end),
        "in_force": trainer.effective_recipe,
    }


def _teacher_name(teacher: Teacher | None) -> str | None:
    """One that was given without a name is called by its class."""
    if teacher is None or teacher.name != "teacher":
        return None if teacher is None else teacher.name
    return f"a {type(teacher.module).__name__}"
