"""When a training evaluates, saves and logs, and which checkpoint is the best, also after a change of options.

transformers applies them when the options are made, and never again.
"""

from typing import Any

from transformers import SchedulerType
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ..argument_checks import check, check_choice
from .schedule_options import FOLLOW_A_METRIC

FOLLOWING = ("eval_steps", "metric_for_best_model", "greater_is_better")  # from other options, if they are left out


def left_out(args: Any) -> list[str]:
    """Which of `FOLLOWING` are left out."""
    return [name for name in FOLLOWING if getattr(args, name) is None]


def forget_followed(args: Any, followed: dict[str, Any]) -> None:
    """The options as they were given: what followed from others, and is still there, is None again."""
    for name, value in followed.items():
        if getattr(args, name) == value:
            setattr(args, name, None)


def settle_evaluation(args: Any) -> dict[str, Any]:
    """Checks options that were changed, and derives those that were left out.

    Args:
        args: `DistillationArguments` as they were given; changed in place.

    Returns:
        What follows now.

    Raises:
        ValueError: names the option, its value and what to do.
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
            "`eval_strategy` is 'no', so that it is never measured; set it to 'epoch' or 'steps'"
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
            f"`load_best_model_at_end` is true, `eval_strategy` {args.eval_strategy.value!r} and `save_strategy` "
            f"{args.save_strategy.value!r}, but both must be the same, so that each checkpoint is measured"
        )
    if args.eval_strategy == "steps" and args.save_steps % args.eval_steps:
        raise ValueError(
            f"`load_best_model_at_end` is true, but `save_steps` {args.save_steps:g} is no multiple of `eval_steps` "
            f"{args.eval_steps:g}, so that checkpoints would not be measured; change one of them"
        )
