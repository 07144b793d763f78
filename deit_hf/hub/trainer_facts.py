"""The facts for the card of a `Trainer`'s model: its data, and the metrics of its current weights."""

from collections.abc import Mapping
from typing import Any

from transformers import Trainer

from ..evaluation.metric_names import MeasuredSet, measured_sets
from .model_facts import PartFacts, model_facts

TRAINING_SUMMARY = "train_runtime"  # key of the last log entry of a training


def trainer_facts(trainer: Trainer, evaluated: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the facts of a `Trainer`'s model and data.

    Args:
        trainer: a `Trainer` whose datasets are views (data/dataset.py).
        evaluated: the views of each evaluation, by the prefix of its metrics.
    """
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    metrics = metrics_of_weights(trainer.state, loads_best=trainer.args.load_best_model_at_end)
    own = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {"": trainer.eval_dataset}
    views: dict[str, Any] = {"training": trainer.train_dataset}
    views |= {MeasuredSet("eval", part).title: each for part, each in own.items()}
    views |= {each.title: evaluated[each.key] for each in measured_sets(metrics) if each.key in evaluated}
    return {
        **model_facts(model, trainer.processing_class),
        "data": {part: _part_facts(each) for part, each in views.items() if hasattr(each, "images")},
        "metrics": metrics,
    }


def _part_facts(views: Any) -> PartFacts:
    return PartFacts(len(views), views.images.class_counts())


def metrics_of_weights(state: Any, *, loads_best: bool) -> dict[str, Any]:
    """Returns the logged metrics that belong to the current weights of a `Trainer`'s model.

    Args:
        state: of the `Trainer`.
        loads_best: whether the best checkpoint was loaded at the end.
    """
    log = state.log_history
    ends = [index for index, entry in enumerate(log) if TRAINING_SUMMARY in entry]
    end = ends[-1] if ends else len(log)
    step = state.global_step
    if ends and loads_best and state.best_model_checkpoint is not None:
        step = state.best_global_step
    of_weights = [entry for entry in log[:end] if entry.get("step") == step] + log[end + 1 :]
    return {name: value for entry in of_weights for name, value in entry.items()}
