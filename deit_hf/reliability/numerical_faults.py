"""Finds steps whose loss or gradient is not finite, without waiting for the device, and stops at or skips them."""

import logging
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from accelerate.utils import reduce
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from transformers import TrainerCallback, TrainingArguments

from .checkpoints import last_complete_checkpoint
from .step_outcome import StepOutcome

logger = logging.getLogger(__name__)

KINDS = ("loss", "gradient")


class NonFiniteLossError(ArithmeticError):
    """A loss, a gradient or the weights are not finite; nothing after the last good checkpoint was saved."""

    exit_code = 4  # of a command


class NumericalFaults(TrainerCallback):
    """Finds the optimizer steps whose loss or gradient norm is infinite or NaN.

    Each step leaves two flags on the device. They are read together when the training logs, evaluates, saves or ends,
    and at the latest after `logging_steps` steps. So no checkpoint is written after a bad step, and no step waits for
    the device. All processes stop together, even if only one of them has a bad step.

    With `max_bad_steps` above 0, the flags of each step are read before the optimizer steps, which waits for the
    device once per step. A bad step is then skipped: weights, batch statistics, optimizer moments and averages keep
    their values. The step still counts for the step number, the images and the schedule. One bad step more than
    `max_bad_steps` ends the training.

    In float16 the gradient scaler handles infinite gradients, so only the loss is checked. DeepSpeed does not expose
    the gradient, so there, too, only the loss is checked.

    Args:
        outcome: outcome of the step in progress; this class sets it.
        max_bad_steps: the option of that name.
        checks_gradient: False if a gradient scaler handles infinite gradients.
        steps_itself: whether the model calls the optimizer itself, as under DeepSpeed.

    Raises:
        ValueError: `max_bad_steps` is above 0 under DeepSpeed.
    """

    def __init__(self, outcome: StepOutcome, *, max_bad_steps: int, checks_gradient: bool, steps_itself: bool):
        if max_bad_steps and steps_itself:
            raise ValueError(
                f"`max_bad_steps` is {max_bad_steps}, but DeepSpeed calls the optimizer itself, so no step can be "
                "skipped; set it to 0, or train with DDP or FSDP"
            )
        self.outcome, self.checks_gradient = outcome, checks_gradient
        self._args: TrainingArguments | None = None  # of the training in progress, for errors
        self._losses: list[Tensor] = []  # of the backward passes of the step in progress
        self._steps: list[int] = []  # not yet read
        self._flags: list[Tensor] = []  # of these steps, (2,): whether the loss, the gradient is bad
        self._buffers: list[Tensor] = []  # before the step in progress

    def see(self, loss: Tensor, model: nn.Module, *, step: int, ends_step: bool) -> None:
        """Records loss and gradient of a backward pass, before clipping; does not wait for the device.

        Args:
            loss: a scalar of this process.
            model: with the gradient.
            step: number of the optimizer step.
            ends_step: whether the optimizer steps after this pass.
        """
        self._losses.append(loss.detach())
        if not ends_step:
            return
        bad_loss = ~torch.stack(self._losses).isfinite().all()
        bad_gradient = torch.zeros_like(bad_loss)
        if self.checks_gradient:
            gradient = _norm((p.grad for p in model.parameters() if p.grad is not None), order=2.0)
            bad_gradient = ~gradient.to(bad_loss.device).isfinite()
        self._losses.clear()
        self._steps.append(step)
        self._flags.append(torch.stack([bad_loss, bad_gradient]))

    def check(self) -> None:
        """Reads the flags of the steps since the last check, which waits for the device; all processes call it.

        Raises:
            NonFiniteLossError: one of these steps was bad.
        """
        bad = self._read()
        if bad:
            raise self._error(_in_words(bad))

    def check_before_saving(self, model: nn.Module, step: int) -> None:
        """Like `check`, and also checks the weights: a finite gradient may have made them infinite.

        Args:
            model: the model to save.
            step: number of its last optimizer step.

        Raises:
            NonFiniteLossError: a step was bad, or a weight is not finite.
        """
        self.check()
        assert self._args is not None
        largest = _norm(model.parameters(), order=float("inf"))
        if reduce((~largest.isfinite()).int().to(self._args.device), "sum").item():
            raise self._error(f"weights after step {step}")

    def _read(self) -> dict[int, list[str]]:
        """The bad steps since the last check, and what is not finite in each."""
        if not self._steps:
            return {}
        flags = reduce(torch.stack(self._flags).int(), "sum").tolist()  # (steps, 2): number of processes
        found = {
            step: [kind for kind, is_bad in zip(KINDS, row, strict=True) if is_bad]
            for step, row in zip(self._steps, flags, strict=True)
        }
        self._steps, self._flags = [], []
        return {step: kinds for step, kinds in found.items() if kinds}

    def _error(self, faults: str) -> NonFiniteLossError:
        args = self._args
        assert args is not None
        checkpoint = last_complete_checkpoint(args.output_dir)
        kept = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint before it"
        skipped = self.outcome.skipped_steps
        before = f" (steps {_ranges(skipped)} were skipped before)" if skipped else ""
        return NonFiniteLossError(
            f"NaN or infinite: {faults}{before}; {kept}. Lower `learning_rate` (now {args.learning_rate}) or set "
            "`max_grad_norm`, use bf16 instead of fp16, or skip more such steps with `max_bad_steps` (now "
            f"{args.max_bad_steps}); to resume with another gradient norm or precision, pass `allow_changes` as well"
        )

    def _skip(self, step: int, model: nn.Module) -> None:
        """Makes the optimizer step in progress change nothing."""
        model.zero_grad(set_to_none=True)  # optimizers skip parameters without a gradient: no moment, no decay
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), self._buffers, strict=True):
                buffer.copy_(before)
        self.outcome.skip(step)

    # ---- events of a training ----

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._args = args
        self._losses, self._steps, self._flags = [], [], []  # an earlier training may have ended with any error

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.outcome.begin()
        if args.max_bad_steps:
            self._buffers = [buffer.clone() for buffer in model.buffers()]

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        bad = self._read() if args.max_bad_steps else {}
        if not bad:
            return
        skipped = self.outcome.skipped_steps
        if len(skipped) >= args.max_bad_steps:
            raise self._error(_in_words(bad))
        for step in bad:
            self._skip(step, model)
        if state.is_world_process_zero:
            logger.warning(
                "NaN or infinite: %s; skipped (%d of at most %d)", _in_words(bad), len(skipped), args.max_bad_steps
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if len(self._steps) >= state.logging_steps or control.should_evaluate:
            self.check()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_evaluate:
            self.check()

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.check_before_saving(model, state.global_step)


def _norm(tensors: Iterable[Tensor], *, order: float) -> Tensor:
    """Norm over this process's part of all tensors, a scalar; does not wait for the device."""
    parts = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    return get_total_norm([part.detach() for part in parts if part.numel()], norm_type=order)


def _in_words(bad: dict[int, list[str]]) -> str:
    """Describes bad steps, such as `loss at steps 3, 5-8, gradient at steps 3, 5-8`."""
    by_kind = {kind: [step for step, kinds in bad.items() if kind in kinds] for kind in KINDS}
    return ", ".join(f"{kind} at steps {_ranges(steps)}" for kind, steps in by_kind.items() if steps)


def _ranges(steps: Sequence[int]) -> str:
    """Formats rising numbers, such as `3, 5-8`."""
    breaks = [i for i, (step, following) in enumerate(pairwise(steps), 1) if following != step + 1]
    runs = [steps[start:stop] for start, stop in pairwise([0, *breaks, len(steps)])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
