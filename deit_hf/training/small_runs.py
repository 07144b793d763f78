"""Runs that are too small for their options: a smaller batch for few images, and warnings with the numbers."""

import logging
from collections.abc import Sequence, Sized

from ..data.sampling import ViewSampler
from .arguments import DistillationArguments

logger = logging.getLogger(__name__)

SMALLEST_SHARE = 0.9  # of the images that an epoch has views for; a smaller one is warned about


def fit_batch_to_data(args: DistillationArguments, images: Sized | None) -> None:
    """Halves the global batch until an epoch has `min_steps_per_epoch` optimizer steps, as far as possible.

    The accumulation steps are halved first, then `per_device_train_batch_size`, which stays even if images are mixed.
    A learning rate derived from the global batch is derived again.

    Args:
        args: the options; changed in place.
        images: the training data; if it is None, nothing changes.
    """
    if images is None:
        return
    asked, fitted = args.fitted_batch
    # if the batch was fitted before, possibly to other images, start from the given one
    if (args.per_device_train_batch_size, args.gradient_accumulation_steps) == fitted:
        args.per_device_train_batch_size, args.gradient_accumulation_steps = asked
    asked = args.per_device_train_batch_size, args.gradient_accumulation_steps
    num_images, before, smallest = len(images), args.global_batch_size, 2 if args.mixes else 1
    while num_images // args.global_batch_size < args.min_steps_per_epoch:
        if args.gradient_accumulation_steps > 1:
            args.gradient_accumulation_steps //= 2
        elif args.per_device_train_batch_size >= 2 * smallest:
            args.per_device_train_batch_size = args.per_device_train_batch_size // 2 // smallest * smallest
        else:
            break
    args.fitted_batch = asked, (args.per_device_train_batch_size, args.gradient_accumulation_steps)
    args.settle()
    if args.global_batch_size == before:
        return
    if args.process_index == 0:
        logger.info(
            "the global batch is %d instead of %d, which gives %d optimizer steps per epoch of %d images "
            "(`min_steps_per_epoch` is %d)",
            *(args.global_batch_size, before, num_images // args.global_batch_size, num_images),
            args.min_steps_per_epoch,
        )


def warn_of_small_run(
    args: DistillationArguments,
    sampler: ViewSampler,
    *,
    num_steps: int,
    num_warmup_steps: int | None,
    rates: Sequence[float] | None,
    peak: float | None = None,
) -> None:
    """Warns if a run is too small for its options, with the numbers and the options to change.

    It warns if the run ends during its warm-up, if its peak learning rate is below that of the start or end, if it
    does not train `num_train_epochs`, and if an epoch leaves out many images.

    Args:
        args: the options.
        sampler: of the training views.
        num_steps: optimizer steps of the whole training.
        num_warmup_steps: optimizer steps of the warm-up; None for a schedule that was given to the trainer.
        rates: the learning rate at each step and after the last (num_steps + 1,); None if it depends on a metric.
        peak: the learning rate at the end of the warm-up. Default: `args.learning_rate`.
    """
    peak = args.learning_rate if peak is None else peak
    assert peak is not None
    if num_warmup_steps and rates is not None:
        _warn_of_warmup(args, sampler, rates[:num_steps], num_warmup_steps, peak)
    if num_warmup_steps is not None:
        _warn_of_low_peak(args, num_warmup_steps, peak)
    _warn_of_epochs(args, sampler, num_steps)
    _warn_of_batch(args, sampler)


def _warn_of_warmup(
    args: DistillationArguments, sampler: ViewSampler, rates: Sequence[float], num_warmup_steps: int, peak: float
) -> None:
    highest = max(rates)
    if not rates[-1] == highest < peak:
        return
    advice = f"lower `warmup_steps` ({args.warmup_steps:g})"
    if args.warmup_epochs:
        num_epochs = len(rates) * sampler.step_size / len(sampler)
        advice = f"lower `warmup_epochs` ({args.warmup_epochs:g}; the run has {num_epochs:.3g} epochs)"
    logger.warning(
        "the run ends during its warm-up: it has %d steps, but the warm-up has %d, so the learning rate only reaches "
        "%.3g instead of %g; %s, or train for longer",
        *(len(rates), num_warmup_steps, highest, peak, advice),
    )


def _warn_of_low_peak(args: DistillationArguments, num_warmup_steps: int, peak: float) -> None:
    """A schedule never starts or ends above its peak, so a higher first or last learning rate has no effect."""
    ends = {"min_learning_rate": args.min_learning_rate}
    ends |= {"warmup_learning_rate": args.warmup_learning_rate} if num_warmup_steps else {}
    for name, rate in ends.items():
        if rate is not None and rate > peak:
            logger.warning(
                "`%s` is %g, but the peak learning rate is only %g, so %g is used instead; lower `%s`, or raise "
                "`learning_rate`, or the global batch if the learning rate is derived from it",
                *(name, rate, peak, peak, name),
            )


def _warn_of_epochs(args: DistillationArguments, sampler: ViewSampler, num_steps: int) -> None:
    num_epochs = num_steps * sampler.step_size / len(sampler)
    is_default = args.num_train_epochs == type(args).num_train_epochs
    if args.max_steps > 0 and not is_default and round(num_epochs, 2) != round(args.num_train_epochs, 2):
        logger.warning(
            "the run ends after %.4g epochs because `max_steps` is %d, and not after the %g of `num_train_epochs`; "
            "leave one of them out, or set `max_steps` to -1",
            *(num_epochs, args.max_steps, args.num_train_epochs),
        )


def _warn_of_batch(args: DistillationArguments, sampler: ViewSampler) -> None:
    num_images, step_size = sampler.num_images, sampler.step_size
    advice = "`per_device_train_batch_size` or `gradient_accumulation_steps`"
    if not args.min_steps_per_epoch:
        advice += ", or set `min_steps_per_epoch` to 10"
    if step_size > num_images:
        logger.warning(
            "an optimizer step takes %d views, but there are only %d images, so each is shown %.3g times in every "
            "step; lower %s",
            *(step_size, num_images, step_size / num_images, advice),
        )
    elif len(sampler) < SMALLEST_SHARE * num_images:
        streams = "`num_streams`, " if sampler.num_streams > 1 else ""
        logger.warning(
            "an epoch has %d views for %d images (%.1f %%), because it consists of whole optimizer steps of %d views; "
            "the other images are left for later epochs; lower %s%s",
            *(len(sampler), num_images, 100 * len(sampler) / num_images, step_size, streams, advice),
        )
