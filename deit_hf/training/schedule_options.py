"""Options of each learning rate schedule of transformers, and its shape after the warm-up.

All schedules that are functions of the step have the same warm-up (schedule.py). All schedules with an end value
reach `min_learning_rate`. An option that a schedule does not support is refused.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import SchedulerType, get_scheduler

from .derived_options import derived

PAPER_WARMUP_EPOCHS, PAPER_WARMUP_LEARNING_RATE, PAPER_MIN_LEARNING_RATE = 5.0, 1e-6, 1e-5
# Options in `lr_scheduler_kwargs` that set the learning rate at the end, by schedule. If the last one is 0, the shape
# ends at 0.
END_OPTIONS: dict[str, tuple[str, ...]] = {
    "linear": (),
    "cosine": (),
    "cosine_with_restarts": (),
    "polynomial": ("lr_end",),
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
    "warmup_stable_decay": ("min_lr_ratio",),
    "reduce_lr_on_plateau": ("min_lr",),
    "greedy": ("min_lr",),
}
FOLLOW_A_METRIC = ("reduce_lr_on_plateau", "greedy")  # not functions of the step
WITHOUT_END = ("constant", "constant_with_warmup", "inverse_sqrt")
WITHOUT_OPTIONS = ("constant", "constant_with_warmup")  # transformers ignores their `lr_scheduler_kwargs`
# options of transformers' own warm-up and resume, which this package replaces
RESERVED_OPTIONS = ("num_warmup_steps", "num_training_steps", "last_epoch", "warmup_type", "warmup_lr_rate")

Shape = Callable[[int], float]


def settle_schedule(args: Any) -> None:
    """Sets the defaults of the warm-up and the end value, and refuses options that the schedule does not support.

    Args:
        args: `DistillationArguments` whose `learning_rate` is set; changed in place.

    Raises:
        ValueError: an option is not supported; the message says what to do instead.
    """
    name, options = SchedulerType(args.lr_scheduler_type).value, args.lr_scheduler_kwargs or {}
    if args.learning_rate_stepping == "official" and (name != "cosine" or options):
        raise ValueError(
            "`learning_rate_stepping` is 'official', which is a cosine; leave out `lr_scheduler_type` and "
            "`lr_scheduler_kwargs`"
        )
    if name not in (*END_OPTIONS, *WITHOUT_END):
        raise ValueError(
            f"`lr_scheduler_type` is {name!r}, but must be one of {', '.join((*END_OPTIONS, *WITHOUT_END))}"
        )
    _settle_warmup(args, name)
    _settle_end(args, name, options)
    _check_options(name, options, peak=args.learning_rate)


def _settle_warmup(args: Any, name: str) -> None:
    if name in FOLLOW_A_METRIC:
        args.warmup_epochs = derived(0.0) if args.warmup_epochs is None else args.warmup_epochs
        without = {"warmup_epochs": 0.0, "warmup_steps": 0, "warmup_learning_rate": PAPER_WARMUP_LEARNING_RATE}
        for option, value in without.items():
            if getattr(args, option) != value:
                raise ValueError(
                    f"`{option}` is {getattr(args, option)}, but `lr_scheduler_type` {name!r} follows a metric and "
                    "has no warm-up; leave it out, or use another schedule such as 'cosine'"
                )
    elif args.warmup_epochs is None:
        args.warmup_epochs = derived(0.0 if args.warmup_steps else PAPER_WARMUP_EPOCHS)
    elif args.warmup_epochs and args.warmup_steps:
        raise ValueError(
            f"`warmup_epochs` is {args.warmup_epochs} and `warmup_steps` {args.warmup_steps}; give only one"
        )


def _settle_end(args: Any, name: str, options: Mapping[str, Any]) -> None:
    """Sets `min_learning_rate`, which stays None if it is not the end value of the schedule."""
    given = args.min_learning_rate
    if name in WITHOUT_END:
        if given is not None:
            raise ValueError(
                f"`min_learning_rate` is {given}, but `lr_scheduler_type` {name!r} has no end value; leave it out, "
                "or use a schedule such as 'cosine' or 'linear'"
            )
        return
    own = [option for option in END_OPTIONS[name] if option in options]
    if own and given is not None:
        raise ValueError(
            f"`min_learning_rate` is {given} and `lr_scheduler_kwargs` has `{own[0]}`; give only one of them"
        )
    if not own and given is None:
        args.min_learning_rate = derived(PAPER_MIN_LEARNING_RATE)


def _check_options(name: str, options: Mapping[str, Any], *, peak: float) -> None:
    """Refuses `lr_scheduler_kwargs` that the schedule does not support or would ignore."""
    if name in WITHOUT_OPTIONS and options:
        raise ValueError(
            f"`lr_scheduler_kwargs` is {dict(options)}, but `lr_scheduler_type` {name!r} has no options; leave it out"
        )
    for option in RESERVED_OPTIONS:
        if option in options:
            raise ValueError(
                f"`lr_scheduler_kwargs` has `{option}`, but the warm-up is always linear, from "
                "`warmup_learning_rate` over `warmup_epochs` or `warmup_steps`; use these"
            )
    for option, least, most in (
        ("min_lr", 0, peak),
        ("min_lr_rate", 0, 1),
        ("min_lr_ratio", 0, 1),
        ("power", 1e-9, 1e9),
    ):
        value = options.get(option)
        if isinstance(value, int | float) and not least <= value <= most:
            raise ValueError(
                f"`lr_scheduler_kwargs` has `{option}` {value}, but it must be in [{least:g}, {most:g}]: the "
                "learning rate must not rise after the warm-up"
            )
    try:
        if name in FOLLOW_A_METRIC:
            get_scheduler(name, _optimizer(peak), scheduler_specific_kwargs=dict(options))
        else:
            schedule_shape(name, options, peak=peak, num_steps=10**9, num_warmup_steps=0)(1)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"`lr_scheduler_kwargs` is {dict(options)}, which `lr_scheduler_type` {name!r} cannot use: {error}"
        ) from error


def schedule_shape(
    name: str, options: Mapping[str, Any], *, peak: float, num_steps: int, num_warmup_steps: int
) -> Shape:
    """Returns a function of the step after the warm-up: the learning rate divided by the peak.

    It ends at 0 unless an option sets another end value.

    Args:
        name: value of a `SchedulerType` that is a function of the step.
        options: `lr_scheduler_kwargs`.
        peak: learning rate after the warm-up.
        num_steps: optimizer steps of the whole training.
        num_warmup_steps: optimizer steps of the warm-up; step 0 of the shape is the first one after it.

    Raises:
        ValueError: `num_decay_steps` is more than the steps after the warm-up.
    """
    options, num_steps = dict(options), max(0, num_steps - num_warmup_steps)
    ends = END_OPTIONS.get(name, ())
    if ends and not any(end in options for end in ends):
        options[ends[-1]] = 0.0
    if name == "cosine_warmup_with_min_lr":
        name = "cosine_with_min_lr"  # they differ only in the warm-up
    if name == "inverse_sqrt" and num_warmup_steps:
        options.setdefault("timescale", num_warmup_steps)  # the default of transformers with a warm-up
    if options.get("num_decay_steps", 0) > num_steps:
        raise ValueError(
            f"`lr_scheduler_kwargs` has `num_decay_steps` {options['num_decay_steps']}, but only {num_steps} steps "
            "follow the warm-up; lower it, or train for longer"
        )
    schedule: Any = get_scheduler(name, _optimizer(peak), 0, max(1, num_steps), scheduler_specific_kwargs=options)
    return schedule.lr_lambdas[0]


def _optimizer(peak: float) -> torch.optim.Optimizer:
    """Returns an optimizer of a dummy parameter; transformers creates a schedule only for an optimizer."""
    return torch.optim.SGD([torch.zeros(1)], lr=peak or 1.0)
