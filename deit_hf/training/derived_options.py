"""Options that were left out and follow from others: marked, so that copied or changed options derive them anew."""

from typing import Any

from torch.optim import Optimizer

from .global_batch import scaled_learning_rate

PAPER_BASE_LEARNING_RATE = 5e-4  # table 9
DERIVABLE = ("base_learning_rate", "learning_rate", "warmup_epochs", "min_learning_rate")


class DerivedFloat(float):
    """The value of an option that was left out.

    `dataclasses.replace` hands it on as if it were given, and transformers' hyperparameter search makes a given value
    of the same class: only the attribute tells which is which.
    """

    is_derived = False


def derived(value: float) -> DerivedFloat:
    """Marks a value as one that followed from other options."""
    marked = DerivedFloat(value)
    marked.is_derived = True
    return marked


def is_derived(value: object) -> bool:
    """Whether a value followed from other options."""
    return isinstance(value, DerivedFloat) and value.is_derived


def unmark_rates(optimizer: Optimizer, schedule: Any) -> None:
    """Makes the rates of an optimizer and its schedule plain numbers.

    A checkpoint that holds a class of ours would count as one that could run code.

    Args:
        optimizer: changed in place.
        schedule: of its learning rate, or None as long as there is none.
    """
    for group in optimizer.param_groups:
        group.update({name: float(group[name]) for name in ("lr", "initial_lr") if is_derived(group.get(name))})
    if hasattr(schedule, "base_lrs"):
        schedule.base_lrs = [float(rate) if is_derived(rate) else rate for rate in schedule.base_lrs]


def forget_derived(args: Any) -> None:
    """The options as they were given: what followed from others is None again."""
    for name in DERIVABLE:
        if is_derived(getattr(args, name)):
            setattr(args, name, None)


def settle_learning_rate(args: Any) -> None:
    """Sets the learning rate, which follows from the global batch unless it was given.

    Args:
        args: `DistillationArguments` as they were given.

    Raises:
        ValueError: two learning rates that do not agree; names both.
    """
    if args.base_learning_rate is None and args.learning_rate is None:
        args.base_learning_rate = derived(PAPER_BASE_LEARNING_RATE)
    if args.base_learning_rate is None:
        return
    scaled = scaled_learning_rate(args.base_learning_rate, args.global_batch_size)
    if args.learning_rate not in (None, scaled):
        raise ValueError(
            f"`learning_rate` is {args.learning_rate} but `base_learning_rate` {args.base_learning_rate} gives "
            f"{scaled} for a global batch of {args.global_batch_size}; give only one of them"
        )
    args.learning_rate = derived(scaled)
