"""What to do when memory runs out: `auto_find_batch_size` with the global batch kept, or an error that says how.

What does not fit in memory at once is accumulated.

transformers' own search makes the local batch smaller and leaves it at that: another global batch, other views in a
step, a learning rate that belongs to neither; and it goes on from whatever weights the failed attempt has left.
"""

import contextlib
import copy
import logging
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import Trainer

logger = logging.getLogger(__name__)


class BatchOutOfMemoryError(torch.OutOfMemoryError):
    """The memory of the device or the machine does not hold a batch; says which options help."""

    exit_code = 2  # of a command


@contextlib.contextmanager
def names_batch_size(args: Any, *, training: bool) -> Iterator[None]:
    """Gives an error of memory the options that decide about it, with their values and ones that may fit.

    Args:
        args: the options of the run.
        training: whether a training step or an evaluation is in the block.

    Raises:
        BatchOutOfMemoryError: instead of torch's own.
    """
    try:
        yield
    except BatchOutOfMemoryError:
        raise
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        reason = " ".join(str(error).split())[:160]
        advice = _training_advice(args) if training else _evaluation_advice(args)
        raise BatchOutOfMemoryError(f"out of memory: {advice} ({reason})") from error


def _training_advice(args: Any) -> str:
    size, steps = args.per_device_train_batch_size, args.gradient_accumulation_steps
    smaller = next(local_batches(size * steps, at_most=size // 2, even=args.mixes), None)
    found = f"`per_device_train_batch_size` is {size} and `gradient_accumulation_steps` {steps}"
    if smaller is None:
        return f"{found}, which cannot be less; take a smaller model or image, or `--gradient_checkpointing true`"
    return (
        f"{found}; use {smaller} and {size * steps // smaller}, which keep the global batch of "
        f"{args.global_batch_size}, or `--auto_find_batch_size true`, which finds such a pair"
    )


def _evaluation_advice(args: Any) -> str:
    size = args.per_device_eval_batch_size
    smaller = f"use {size // 2}" if size > 1 else "take a smaller model or image"
    return f"`per_device_eval_batch_size` (`batch_size` of an evaluation by itself) is {size}; {smaller}"


def local_batches(in_one_step: int, *, at_most: int, even: bool) -> Iterator[int]:
    """Sizes of a local batch, largest first, of which a whole number makes the views of a process in one step.

    Args:
        in_one_step: views of one process in one optimizer step.
        at_most: largest size.
        even: whether views are mixed in pairs.
    """
    for size in range(min(at_most, in_one_step), 0, -1):
        if in_one_step % size == 0 and not (even and size % 2):
            yield size


def train_in_memory(trainer: Trainer, training_loop: Callable, batch_size: int, **options: Any) -> Any:
    """Runs a training loop; with `auto_find_batch_size` with the largest local batch that fits in memory.

    The global batch stays. Each attempt starts from the same weights and random streams, so that the one that succeeds
    is the training that would have started with its local batch; `args` then holds that batch and its accumulation
    steps. On several processes all must run out of memory at the same step, as equal devices do.

    Args:
        trainer: with the arguments that were asked for.
        training_loop: takes a local batch and `options`.
        batch_size: local batch to begin with.
        options: of the loop.

    Raises:
        BatchOutOfMemoryError: the local batch does not fit, and the option is off.
        ValueError: no local batch fits, or the weights are sharded.
    """
    args = trainer.args
    if not args.auto_find_batch_size:
        with names_batch_size(args, training=True):
            return training_loop(batch_size, **options)
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError(
            "`auto_find_batch_size` is true, but weights that FSDP or DeepSpeed have sharded cannot start anew; set "
            "`per_device_train_batch_size` and `gradient_accumulation_steps` yourself"
        )
    in_one_step = args.per_device_train_batch_size * args.gradient_accumulation_steps
    start = _Start(trainer)
    sizes = list(local_batches(in_one_step, at_most=batch_size, even=args.mixes))
    for size in sizes:
        args.per_device_train_batch_size, args.gradient_accumulation_steps = size, in_one_step // size
        try:
            return training_loop(size, **options)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
        start.restore()  # not above, where the error still holds on to what the attempt had in memory
        logger.warning("a local batch of %d does not fit in memory; starting anew with a smaller one", size)
    pairs = ", an even number as mixup and cutmix mix pairs" if args.mixes else ""
    raise ValueError(
        f"no local batch fits in memory, of {', '.join(map(str, sizes)) or 'none'}; it must divide the {in_one_step} "
        f"views of a process in a step{pairs}; take a smaller model or image, or `gradient_checkpointing`"
    )


class _Start:
    """What a training starts from and changes: weights, optimizer, loss scale and random streams."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.weights = {name: tensor.cpu().clone() for name, tensor in trainer.model.state_dict().items()}
        self.states = {
            name: copy.deepcopy(part.state_dict()) for name, part in self._parts().items() if part is not None
        }
        self.streams = (
            random.getstate(),
            np.random.get_state(),
            torch.get_rng_state(),
            torch.cuda.get_rng_state_all(),
        )

    def _parts(self) -> dict[str, Any]:
        trainer = self.trainer
        return {
            "optimizer": trainer.optimizer,
            "lr_scheduler": trainer.lr_scheduler,
            "scaler": getattr(trainer.accelerator, "scaler", None),
        }

    def restore(self) -> None:
        trainer = self.trainer
        trainer.model_wrapped = trainer.model
        trainer.model.zero_grad(set_to_none=True)
        trainer.model.load_state_dict(self.weights)
        for name, part in self._parts().items():
            if name in self.states:
                part.load_state_dict(copy.deepcopy(self.states[name]))
            elif name != "scaler":
                setattr(trainer, name, None)  # the trainer makes it
        trainer.current_flos = 0
        random.setstate(self.streams[0])
        np.random.set_state(self.streams[1])
        torch.set_rng_state(self.streams[2])
        torch.cuda.set_rng_state_all(self.streams[3])
        clear_device_cache(garbage_collection=True)
