"""The learning rate: how it follows from the global batch, and how it moves (section 5 and table 9 of the paper)."""

import contextlib
import logging
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedConfig

from ..model.configuration_deit import DeiTConfig

logger = logging.getLogger(__name__)

BATCH_SIZE_OF_BASE_LEARNING_RATE = 512  # table 9: learning rate 0.0005 x batch size / 512
PAPER_GLOBAL_BATCH_SIZE = 1024  # table 9
BASE_WIDTH = 768  # table 1


def scaled_learning_rate(base_learning_rate: float, global_batch_size: int) -> float:
    """The learning rate of a global batch (all processes and accumulation steps); official main.py:349-351."""
    return base_learning_rate * global_batch_size / BATCH_SIZE_OF_BASE_LEARNING_RATE


def warn_of_global_batch(config: PreTrainedConfig, *, global_batch_size: int, num_accumulation_steps: int) -> None:
    """Warns when a base-size DeiT is trained from scratch with another global batch than the paper's 1024.

    Source: users of the official code report 78.8 % top-1 at a batch of 512 instead of 81.8 % for the base size,
    while tiny and small came out as published.

    Args:
        config: the student's; one that was loaded with weights is a fine-tuning.
        global_batch_size: views of one optimizer step.
        num_accumulation_steps: forward passes of one optimizer step.
    """
    is_base = isinstance(config, DeiTConfig) and config.hidden_size == BASE_WIDTH
    if not is_base or config.name_or_path or global_batch_size == PAPER_GLOBAL_BATCH_SIZE:
        return
    in_one_pass = global_batch_size // num_accumulation_steps
    advice = f"set `gradient_accumulation_steps` to {PAPER_GLOBAL_BATCH_SIZE // in_one_pass}"
    if PAPER_GLOBAL_BATCH_SIZE % in_one_pass:
        advice = "choose `per_device_train_batch_size` x processes x `gradient_accumulation_steps` to be that"
    logger.warning(
        "the global batch is %d images, but the paper's results for the base size need %d, even with the learning "
        "rate scaled; %s",
        *(global_batch_size, PAPER_GLOBAL_BATCH_SIZE, advice),
    )


def cosine_schedule_with_warmup(
    optimizer: Optimizer,
    *,
    num_warmup_steps: int,
    num_steps: int,
    warmup_learning_rate: float,
    min_learning_rate: float,
    official_steps_in_epoch: int | None = None,
) -> LambdaLR:
    """Linear warm-up, then a cosine down to a minimum; a pure function of the step, so that a resume is exact.

    Source: table 9; official main.py:77-89, where `warmup_learning_rate` (1e-6) and `min_learning_rate` (1e-5) are
    not scaled with the batch.
    Differs: unless `official_steps_in_epoch` is given, the rate changes every step and the cosine starts where the
    warm-up ends. The official rate changes once an epoch, one epoch late (main.py:432), and its cosine counts from
    the first epoch (test_official_stepping_is_timms_schedule_in_the_official_loop).

    Args:
        optimizer: its learning rate is the peak, times the `learning_rate_scale` of a group; all groups keep their
            ratios at every step.
        num_warmup_steps: optimizer steps of the warm-up.
        num_steps: optimizer steps of the whole training.
        warmup_learning_rate: the rate of the first step, if there is a warm-up; at most the peak.
        min_learning_rate: the rate at the end; at most the peak.
        official_steps_in_epoch: optimizer steps of an epoch, for the official code's rate.
    """
    group = optimizer.param_groups[0]
    peak: float = group["lr"] / group.get("learning_rate_scale", 1.0)
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
    """The learning rate at a step, as a share of the peak."""
    cosine_start = num_warmup_steps
    if official_steps_in_epoch is not None:
        epochs_done = step // official_steps_in_epoch
        # after its epoch t the official loop sets the rate that belongs to t, so that epochs 0 and 1 share one
        step, cosine_start = max(epochs_done - 1, 0) * official_steps_in_epoch, 0
    if step < num_warmup_steps:
        return first + (1 - first) * step / num_warmup_steps
    progress = min((step - cosine_start) / max(1, num_steps - cosine_start), 1.0)
    return last + (1 - last) * (1 + math.cos(math.pi * progress)) / 2


@contextlib.contextmanager
def keeps_rates(scheduler: Any) -> Iterator[None]:
    """A schedule keeps its peak rates while the state of a checkpoint, which has its own, is loaded.

    transformers would go on with the checkpoint's, whatever `learning_rate` says now.

    Args:
        scheduler: of the run that goes on; one without a function of the step is left alone.
    """
    if not isinstance(scheduler, LambdaLR):
        yield
        return
    peaks = list(scheduler.base_lrs)
    yield
    if scheduler.base_lrs == peaks:
        return
    logger.warning("the peak learning rate is %g from here on; it was %g", max(peaks), max(scheduler.base_lrs))
    scheduler.base_lrs = peaks
    groups = scheduler.optimizer.param_groups
    for group, peak, factor in zip(groups, peaks, scheduler.lr_lambdas, strict=True):
        group["initial_lr"], group["lr"] = peak, peak * factor(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in groups]
