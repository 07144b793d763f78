"""When a training evaluates, saves and logs, and which checkpoint is the best.

transformers checks and derives these options only when they are created; this module also does so after a change.
"""

from typing import Any

from transformers import SchedulerType
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ..argument_checks import check, check_choice
from .schedule_options import FOLLOW_A_METRIC

FOLLOWING = ("eval_steps", "metric_for_best_model", "greater_is_better")  # derived from other options if not set


def left_out(args: Any) -> list[str]:
    """Names of the options in `FOLLOWING` that are not set."""
    return [name for name in FOLLOWING if getattr(args, name) is None]


def forget_followed(args: Any, followed: dict[str, Any]) -> None:
    """Resets derived values to None if they were not changed since.

    Args:
        args: `DistillationArguments`; changed in place.
        followed: the derived values by name, from `settle_evaluation`.
    """
    for name, value in followed.items():
        if getattr(args, name) == value:
            setattr(args, name, None)


def settle_evaluation(args: Any) -> dict[str, Any]:
    """Checks the options again, and derives those that are not set.

    Args:
        args: `DistillationArguments` as they were given; changed in place.

    Returns:
        The derived values, by name.

    Raises:
        ValueError: names the option, its value and the next step.
    """
    for name, strategies in (
        ("eval_strategy", IntervalStrategy),
        ("logging_strategy", IntervalStrategy),
        ("save_strategy", SaveStrategy),
    ):
        check_choice(name, getattr(args, name), tuple(each.value for each in strategies))
        setattr(args, name, strategies(getattr(args, name)))
    for name in ("logging", "save"):
        if getattr(args, f"{name}_strategy") == "steps":
            check(f"{name}_steps", getattr(args, f"{name}_steps"), lambda v: v > 0, "greater than 0")
    names = left_out(args)
    if args.eval_strategy == "steps" and not args.eval_steps:
        args.eval_steps = args.logging_steps
    if args.lr_scheduler_type in FOLLOW_A_METRIC and args.eval_strategy == "no":
        raise ValueError(
            f"`lr_scheduler_type` is {SchedulerType(args.lr_scheduler_type).value!r}, which follows a metric, but "
            "`eval_strategy` is 'no', so it is never measured; set `eval_strategy` to 'epoch' or 'steps'"
        )
    follows_metric = args.load_best_model_at_end or args.lr_scheduler_type in FOLLOW_A_METRIC
    if args.metric_for_best_model is None and follows_metric:
        args.metric_for_best_model = "loss"
    if args.greater_is_better is None and args.metric_for_best_model is not None:
        args.greater_is_better = not args.metric_for_best_model.endswith("loss")
    _check_best_checkpoint(args)
    return {name: getattr(args, name) for name in names}


def _check_best_checkpoint(args: Any) -> None:
    if not args.load_best_model_at_end or args.save_strategy == "best":
        return
    if args.eval_strategy.value != args.save_strategy.value:
        raise ValueError(
            f"`load_best_model_at_end` is true, but `eval_strategy` is {args.eval_strategy.value!r} and "
            f"`save_strategy` is {args.save_strategy.value!r}; set both to the same value, so that each checkpoint is "
            "evaluated"
        )
    if args.eval_strategy == "steps" and args.save_steps % args.eval_steps:
        raise ValueError(
            f"`load_best_model_at_end` is true, but `save_steps` {args.save_steps:g} is not a multiple of "
            f"`eval_steps` {args.eval_steps:g}, so some checkpoints would not be evaluated; change one of them"
        )
