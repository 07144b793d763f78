"""Turns an out-of-memory error into one line with the options to lower, and values that keep the global batch."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from accelerate.utils.memory import should_reduce_batch_size


class BatchOutOfMemoryError(torch.OutOfMemoryError):
    """A batch does not fit in the memory of the device or the machine; the message names the options to lower."""

    exit_code = 2  # of a command


@contextlib.contextmanager
def explained_out_of_memory(advice: Callable[[], str]) -> Iterator[None]:
    """Adds advice to an out-of-memory error in the block.

    Args:
        advice: returns `training_advice` or `evaluation_advice`; called when the error occurs.

    Raises:
        BatchOutOfMemoryError: instead of torch's error.
    """
    try:
        yield
    except BatchOutOfMemoryError:  # explained by a block inside this one
        raise
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        reason = " ".join(str(error).split())[:160]
        raise BatchOutOfMemoryError(f"out of memory: {advice()} ({reason})") from error


def training_advice(batch_size: int, accumulation_steps: int, *, num_processes: int, even: bool) -> str:
    """Names the options of a training batch, and a smaller pair that keeps the global batch.

    Args:
        batch_size: `per_device_train_batch_size`.
        accumulation_steps: `gradient_accumulation_steps`.
        num_processes: number of processes that train together.
        even: whether a batch must be even, because mixup and cutmix mix pairs.
    """
    in_one_step = batch_size * accumulation_steps
    smaller = smaller_batch(in_one_step, below=batch_size, even=even)
    found = f"`per_device_train_batch_size` is {batch_size} and `gradient_accumulation_steps` {accumulation_steps}"
    if smaller is None:
        return f"{found}, which cannot be lower; use a smaller model or image, or `--gradient_checkpointing true`"
    total = in_one_step * num_processes
    return f"{found}; use {smaller} and {in_one_step // smaller}, which keep the global batch of {total}"


def evaluation_advice(batch_size: int) -> str:
    """Names the option of an evaluation batch, `per_device_eval_batch_size`, and a smaller value."""
    smaller = f"use {batch_size // 2}" if batch_size > 1 else "use a smaller model or image"
    return f"`per_device_eval_batch_size` (`batch_size` of the evaluation command) is {batch_size}; {smaller}"


def smaller_batch(in_one_step: int, *, below: int, even: bool) -> int | None:
    """The largest batch size up to half of `below` that divides the images of a step; None if there is none.

    Args:
        in_one_step: images of one process in one optimizer step.
        below: the batch size that did not fit.
        even: whether a batch must be even.
    """
    sizes = range(min(below // 2, in_one_step), 0, -1)
    return next((size for size in sizes if in_one_step % size == 0 and not (even and size % 2)), None)
