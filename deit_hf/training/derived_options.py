"""Options that are derived from others if they are not set.

A derived value is marked, so that it is derived again when options are copied or changed.
"""

import json
from typing import Any

import torch
from torch.optim import Optimizer

from .global_batch import scaled_learning_rate

PAPER_BASE_LEARNING_RATE = 5e-4  # table 9
DERIVABLE = ("base_learning_rate", "learning_rate", "warmup_epochs", "min_learning_rate")


class DerivedFloat(float):
    """A float that may be derived: the value of an option that was not set.

    `dataclasses.replace` passes a derived value like a given one, and the hyperparameter search of transformers
    converts a given value to this class. Only the attribute `is_derived` distinguishes the two.
    """

    is_derived = False


def derived(value: float) -> DerivedFloat:
    """Marks a value as derived from other options."""
    marked = DerivedFloat(value)
    marked.is_derived = True
    return marked


def is_derived(value: object) -> bool:
    """Whether a value was derived from other options."""
    return isinstance(value, DerivedFloat) and value.is_derived


def unmark_rates(optimizer: Optimizer, schedule: Any) -> None:
    """Converts the derived learning rates of an optimizer and its schedule to plain floats.

    A checkpoint that contains a class of this package cannot be loaded with `weights_only=True`.

    Args:
        optimizer: changed in place.
        schedule: its learning rate schedule, changed in place; None if it does not exist yet.
    """
    for group in optimizer.param_groups:
        group.update({name: float(group[name]) for name in ("lr", "initial_lr") if is_derived(group.get(name))})
    if hasattr(schedule, "base_lrs"):
        schedule.base_lrs = [float(rate) if is_derived(rate) else rate for rate in schedule.base_lrs]


def forget_derived(args: Any) -> None:
    """Resets derived values to None, so that the options are as they were given."""
    for name in DERIVABLE:
        if is_derived(getattr(args, name)):
            setattr(args, name, None)


def settle_learning_rate(args: Any) -> None:
    """Derives the learning rate from the global batch, unless it was given.

    Args:
        args: `DistillationArguments` as they were given; changed in place.

    Raises:
        ValueError: both learning rates were given and do not agree; names both.
    """
    if args.base_learning_rate is None and args.learning_rate is None:
        args.base_learning_rate = derived(PAPER_BASE_LEARNING_RATE)
    if args.base_learning_rate is None:
        return
    scaled = scaled_learning_rate(args.base_learning_rate, args.global_batch_size)
    if args.learning_rate not in (None, scaled):
        raise ValueError(
            f"`learning_rate` is {args.learning_rate}, but `base_learning_rate` {args.base_learning_rate} gives "
            f"{scaled} for a global batch of {args.global_batch_size}; set only one of them"
        )
    args.learning_rate = derived(scaled)


def copy_asynchronously(args: Any) -> None:
    """Sets `non_blocking` in `accelerator_config`, unless it was given, so that the host waits for no copy of a batch.

    It has an effect only on a device that copies from pinned memory: not on CPUs, and not on MPS. In a file, the
    options stay as they are.

    Args:
        args: `DistillationArguments` as they were given; changed in place.
    """
    config, device = args.accelerator_config, torch.accelerator.current_accelerator()
    has_effect = args.dataloader_pin_memory and device is not None and device.type not in ("cpu", "mps")
    if isinstance(config, str) and config.lstrip().startswith("{"):
        config = json.loads(config)
    if has_effect and not args.use_cpu and isinstance(config, dict | None):
        args.accelerator_config = {"non_blocking": True, **(config or {})}
