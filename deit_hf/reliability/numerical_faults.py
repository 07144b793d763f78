"""Steps whose loss or gradient is not finite: found without waiting for the device, and stopped at or skipped.

What the log reports of the good steps is in loss_log.py.
"""

import logging
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from accelerate.utils import reduce
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from transformers import TrainerCallback

from .checkpoints import last_complete_checkpoint

logger = logging.getLogger(__name__)

KINDS = ("loss", "gradient")


class NonFiniteLossError(ArithmeticError):
    """A loss, a gradient or the weights are not finite; nothing after the last good checkpoint was saved."""

    exit_code = 4  # of a command


class NumericalFaults(TrainerCallback):
    """Finds the optimizer steps whose loss, or norm of the gradient, is infinite or not a number.

    Each step leaves two flags on the device. They are looked at, all at once, when the training logs, evaluates, saves
    or ends, and at the latest after `logging_steps` steps; so no checkpoint is written after a bad step, and no step
    waits for the device. All processes stop together, whichever saw the fault.

    With `max_bad_steps` above 0 the flags of each step are looked at before it acts, which waits for the device once
    a step. A bad step is then skipped: weights, batch statistics, the optimizer's moments and the averages stay as
    they are, and only its number, its images and its place in the schedule are used up. The first one above
    `max_bad_steps` ends the training.

    In float16 an infinite gradient is the loss scaler's matter, which skips the step itself: only the loss counts.
    Under DeepSpeed, which keeps the gradient to itself, only the loss counts too.

    Args:
        trainer: a DistillationTrainer, which calls `see`, `check` and `check_before_saving`.

    Attributes:
        bad_steps: that this training skipped, those before a resume included.

    Raises:
        ValueError: `max_bad_steps` cannot be had under DeepSpeed.
    """

    def __init__(self, trainer: Any):
        if trainer.args.max_bad_steps and trainer.is_deepspeed_enabled:
            raise ValueError(
                f"`max_bad_steps` is {trainer.args.max_bad_steps}, but DeepSpeed takes its steps by itself; set it to "
                "0, or train with DDP or FSDP"
            )
        self.trainer = trainer
        self.bad_steps: list[int] = []
        self._losses: list[Tensor] = []  # of the backward passes of the step that is under way
        self._steps: list[int] = []  # that were not looked at yet
        self._flags: list[Tensor] = []  # of these steps, (2,): whether the loss, the gradient is bad
        self._buffers: list[Tensor] = []  # before the step that is under way

    def see(self, loss: Tensor, model: nn.Module) -> None:
        """Takes note of a backward pass, before the gradient is clipped; does not wait for the device.

        Args:
            loss: scalar, of this process.
            model: has the gradient.
        """
        self._losses.append(loss.detach())
        accelerator = self.trainer.accelerator
        if not accelerator.sync_gradients:
            return
        bad_loss = ~torch.stack(self._losses).isfinite().all()
        bad_gradient = torch.zeros_like(bad_loss)
        if accelerator.scaler is None:
            gradient = _norm((p.grad for p in model.parameters() if p.grad is not None), order=2.0)
            bad_gradient = ~gradient.to(bad_loss.device).isfinite()
        self._losses.clear()
        self._steps.append(self.trainer.state.global_step + 1)
        self._flags.append(torch.stack([bad_loss, bad_gradient]))

    def check(self) -> None:
        """Waits for the steps since the last look, on all processes together.

        Raises:
            NonFiniteLossError: one of them was bad.
        """
        bad = self._look()
        if bad:
            raise self._error(_in_words(bad))

    def check_before_saving(self) -> None:
        """As `check`, and the weights too: the last step may have made them infinite with a finite gradient.

        Raises:
            NonFiniteLossError: a step was bad, or a weight is not finite.
        """
        self.check()
        largest = _norm(self.trainer.model.parameters(), order=float("inf"))
        if reduce((~largest.isfinite()).int().to(self.trainer.args.device), "sum").item():
            raise self._error(f"weights after step {self.trainer.state.global_step}")

    def _look(self) -> dict[int, list[str]]:
        """The bad ones of the steps since the last look, and what is not finite in each."""
        if not self._steps:
            return {}
        flags = reduce(torch.stack(self._flags).int(), "sum").tolist()  # (steps, 2): processes that saw it
        found = {
            step: [kind for kind, is_bad in zip(KINDS, row, strict=True) if is_bad]
            for step, row in zip(self._steps, flags, strict=True)
        }
        self._steps, self._flags = [], []
        return {step: kinds for step, kinds in found.items() if kinds}

    def _error(self, faults: str) -> NonFiniteLossError:
        args = self.trainer.args
        checkpoint = last_complete_checkpoint(args.output_dir)
        kept = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint before it"
        skipped = f" (steps {_ranges(self.bad_steps)} were skipped before)" if self.bad_steps else ""
        return NonFiniteLossError(
            f"not finite: {faults}{skipped}; {kept}. Lower `learning_rate` (now {args.learning_rate}) or set "
            "`max_grad_norm`, use bf16 where you use fp16, or skip more such steps with `max_bad_steps` (now "
            f"{args.max_bad_steps}); to resume with another gradient norm or precision pass `allow_changes`, too"
        )

    def _skip(self, step: int, model: nn.Module) -> None:
        """Makes the coming step of the optimizer one that changes nothing."""
        model.zero_grad(set_to_none=True)  # optimizers leave out what has no gradient: no moment moves, nothing decays
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), self._buffers, strict=True):
                buffer.copy_(before)
        if self.trainer.ema is not None:
            self.trainer.ema.skip_next_update()
        self.bad_steps = [*self.bad_steps, step]

    # ---- events of a training ----

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._losses, self._steps, self._flags = [], [], []  # an earlier training may have ended by any error

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if args.max_bad_steps:
            self._buffers = [buffer.clone() for buffer in model.buffers()]

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        bad = self._look() if args.max_bad_steps else {}
        self.trainer.means.end_step(is_good=not bad)
        if not bad:
            return
        if len(self.bad_steps) >= args.max_bad_steps:
            raise self._error(_in_words(bad))
        for step in bad:
            self._skip(step, model)
        if state.is_world_process_zero:
            logger.warning(
                "not finite: %s; skipped (%d of at most %d)", _in_words(bad), len(self.bad_steps), args.max_bad_steps
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if len(self._steps) >= state.logging_steps or control.should_evaluate:
            self.check()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_evaluate:
            self.check()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.check_before_saving()


def _norm(tensors: Iterable[Tensor], *, order: float) -> Tensor:
    """Norm of this process's part of all tensors together, a scalar; does not wait for the device."""
    parts = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    return get_total_norm([part.detach() for part in parts if part.numel()], norm_type=order)


def _in_words(bad: dict[int, list[str]]) -> str:
    """Such as `loss at steps 3, 5-8, gradient at steps 3, 5-8`."""
    by_kind = {kind: [step for step, kinds in bad.items() if kind in kinds] for kind in KINDS}
    return ", ".join(f"{kind} at steps {_ranges(steps)}" for kind, steps in by_kind.items() if steps)


def _ranges(steps: Sequence[int]) -> str:
    """Rising numbers, such as `3, 5-8`."""
    breaks = [i for i, (step, following) in enumerate(pairwise(steps), 1) if following != step + 1]
    runs = [steps[start:stop] for start, stop in pairwise([0, *breaks, len(steps)])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
