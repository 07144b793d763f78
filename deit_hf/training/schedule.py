"""Learning rate schedules: warm-up, cosine, and the peak after a resume (table 9 of the paper).

The options of other schedules are in schedule_options.py.
"""

import logging
import math
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import SchedulerType, get_scheduler

from .arguments import DistillationArguments
from .schedule_options import FOLLOW_A_METRIC, Shape, schedule_shape

logger = logging.getLogger(__name__)


def create_schedule(
    optimizer: Optimizer, args: DistillationArguments, *, num_steps: int, steps_in_epoch: int
) -> LRScheduler:
    """Creates the schedule of the options: the paper's cosine, or one of transformers after the same warm-up.

    Args:
        optimizer: its learning rate is the peak.
        args: the recipe.
        num_steps: optimizer steps of the whole training.
        steps_in_epoch: optimizer steps per epoch.

    Raises:
        ValueError: the schedule needs more steps than the training has.
    """
    name, options = SchedulerType(args.lr_scheduler_type).value, dict(args.lr_scheduler_kwargs or {})
    peak = peak_learning_rate(optimizer)
    if name in FOLLOW_A_METRIC:
        if args.min_learning_rate is not None:
            lowest = min(args.min_learning_rate, peak)
            options["min_lr"] = [lowest * group.get("learning_rate_scale", 1.0) for group in optimizer.param_groups]
        return get_scheduler(name, optimizer, scheduler_specific_kwargs=options)
    warmup: Any = {
        "num_warmup_steps": num_warmup_steps(args, num_steps=num_steps, steps_in_epoch=steps_in_epoch),
        "num_steps": num_steps,
    }
    if name == "cosine" and not options:
        assert args.min_learning_rate is not None
        return cosine_schedule_with_warmup(
            optimizer,
            **warmup,
            warmup_learning_rate=args.warmup_learning_rate,
            min_learning_rate=args.min_learning_rate,
            official_steps_in_epoch=steps_in_epoch if args.learning_rate_stepping == "official" else None,
        )
    factor = partial(
        _factor,
        shape=schedule_shape(name, options, peak=peak, **warmup),
        num_warmup_steps=warmup["num_warmup_steps"],
        first=_share(args.warmup_learning_rate, peak),
        last=_share(args.min_learning_rate or 0.0, peak),
    )
    return LambdaLR(optimizer, factor)


def peak_learning_rate(optimizer: Optimizer) -> float:
    """Returns the peak learning rate of an optimizer, not scaled by layer and not changed by a schedule."""
    group = optimizer.param_groups[0]
    return group.get("initial_lr", group["lr"]) / group.get("learning_rate_scale", 1.0)


def current_learning_rate(optimizer: Optimizer) -> float:
    """Returns the current learning rate of the highest layer."""
    group = optimizer.param_groups[0]
    return float(group["lr"]) / group.get("learning_rate_scale", 1.0)


def _share(learning_rate: float, peak: float) -> float:
    return min(learning_rate / peak, 1.0) if peak else 1.0


def _factor(step: int, *, shape: Shape, num_warmup_steps: int, first: float, last: float) -> float:
    """Returns the learning rate at a step, divided by the peak: warm-up, then the shape, scaled to [`last`, 1]."""
    if step < num_warmup_steps:
        return first + (1 - first) * step / num_warmup_steps
    return last + (1 - last) * shape(step - num_warmup_steps)


def learning_rates(schedule: Any, num_steps: int) -> list[float] | None:
    """Returns the learning rates (num_steps + 1,) at each step and after the last one.

    Returns None if the learning rate is not a function of the step alone.
    """
    schedule = getattr(schedule, "scheduler", schedule)  # inside DeepSpeed's
    if not isinstance(schedule, LambdaLR):
        return None
    peak, factor = float(schedule.base_lrs[0]), schedule.lr_lambdas[0]
    return [peak * factor(step) for step in range(num_steps + 1)]


def num_warmup_steps(args: DistillationArguments, *, num_steps: int, steps_in_epoch: int) -> int:
    """Returns the optimizer steps of the warm-up; the arguments are those of `create_schedule`."""
    if args.warmup_steps:
        return args.get_warmup_steps(num_steps)
    assert args.warmup_epochs is not None
    return int(args.warmup_epochs * steps_in_epoch)


def cosine_schedule_with_warmup(
    optimizer: Optimizer,
    *,
    num_warmup_steps: int,
    num_steps: int,
    warmup_learning_rate: float,
    min_learning_rate: float,
    official_steps_in_epoch: int | None = None,
) -> LambdaLR:
    """Linear warm-up, then a cosine down to a minimum. It depends only on the step, so that a resume is exact.

    Source: table 9; official main.py:77-89, where `warmup_learning_rate` (1e-6) and `min_learning_rate` (1e-5) are
    not scaled with the batch size.
    Differs: unless `official_steps_in_epoch` is given, the learning rate changes at every step and the cosine starts
    where the warm-up ends. The official learning rate changes once per epoch, one epoch late (main.py:432), and its
    cosine counts from the first epoch (test_official_stepping_is_timms_schedule_in_the_official_loop).

    Args:
        optimizer: the learning rate of a group is the peak, times its `learning_rate_scale`. The ratios between
            groups are the same at every step.
        num_warmup_steps: optimizer steps of the warm-up.
        num_steps: optimizer steps of the whole training.
        warmup_learning_rate: learning rate of the first warm-up step; clamped to the peak.
        min_learning_rate: learning rate at the end; clamped to the peak.
        official_steps_in_epoch: optimizer steps per epoch, for the official code's schedule; None for ours.
    """
    peak = peak_learning_rate(optimizer)
    factor = partial(
        _cosine_factor,
        num_warmup_steps=num_warmup_steps,
        num_steps=num_steps,
        first=min(warmup_learning_rate / peak, 1.0) if peak else 1.0,
        last=min(min_learning_rate / peak, 1.0) if peak else 1.0,
        official_steps_in_epoch=official_steps_in_epoch,
    )
    return LambdaLR(optimizer, factor)


def _cosine_factor(
    step: int, *, num_warmup_steps: int, num_steps: int, first: float, last: float, official_steps_in_epoch: int | None
) -> float:
    """Returns the learning rate at a step, divided by the peak."""
    cosine_start = num_warmup_steps
    if official_steps_in_epoch is not None:
        epochs_done = step // official_steps_in_epoch
        # the official loop sets the learning rate of epoch t after that epoch, so epochs 0 and 1 have the same
        step, cosine_start = max(epochs_done - 1, 0) * official_steps_in_epoch, 0
    if step < num_warmup_steps:
        return first + (1 - first) * step / num_warmup_steps
    progress = min((step - cosine_start) / max(1, num_steps - cosine_start), 1.0)
    return last + (1 - last) * (1 + math.cos(math.pi * progress)) / 2


def restore_peak_rates(schedule: LRScheduler, peaks: list[float]) -> None:
    """Sets this run's peak learning rates again after the state of a checkpoint was loaded.

    Args:
        schedule: with the loaded state; one that is not a function of the step is left unchanged.
        peaks: `schedule.base_lrs` before loading.
    """
    if not isinstance(schedule, LambdaLR) or schedule.base_lrs == peaks:
        return
    logger.warning("the peak learning rate is %g from here on; it was %g", max(peaks), max(schedule.base_lrs))
    schedule.base_lrs = [*peaks]
    for group, peak in zip(schedule.optimizer.param_groups, peaks, strict=True):
        group["initial_lr"] = peak
    schedule.last_epoch -= 1
    schedule.step()  # sets the learning rates of the loaded step
