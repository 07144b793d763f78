"""Means of the loss and its terms for the log, over the steps since the last report, without skipped steps."""

from typing import Any

import torch
from accelerate.utils import reduce
from torch import Tensor
from transformers import TrainerCallback

from ..distillation.losses import ObjectiveTerms, TopLogits
from ..reliability.step_outcome import StepOutcome


class LossLog(TrainerCallback):
    """Averages the loss and its terms without waiting for the device; a resumed training reports the same numbers.

    Reports `loss` and `loss_cls`. With a teacher, also reports `loss_distillation` and `teacher_agreement`: the share
    of views for which the head that learns from the teacher predicts the teacher's class.

    Args:
        outcome: outcome of the step in progress; skipped steps are left out.

    Attributes:
        has_terms: whether the recipe's objective was computed; a subclass may compute another one.
    """

    def __init__(self, outcome: StepOutcome):
        self.outcome, self.has_terms = outcome, False
        self.restore(None)

    def state(self) -> dict[str, Any]:
        """Returns the exact sums as numbers for JSON; call it between two steps. Waits for the device."""
        return {"since_report": self._since_report.state(), "training": self._training.state()}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Restores the `state` of another log, or resets the sums if it is None."""
        self._step, self._terms = _Sums(), _Sums()  # of the step in progress
        self._since_report = _Sums(**state["since_report"]) if state else _Sums()
        self._training = _Sums(**state["training"]) if state else _Sums()

    def add_loss(self, loss: Tensor) -> None:
        """Adds the loss of a batch, a scalar; call it once per batch."""
        self._step.add({"loss": loss.detach()}, 1)

    def add_terms(
        self, terms: ObjectiveTerms, student_logits: Tensor, teacher_logits: Tensor | TopLogits | None
    ) -> None:
        """Adds the terms of a batch; not called by a subclass that computes another loss.

        Args:
            terms: scalars.
            student_logits: (B, C), from the head that learns from the teacher.
            teacher_logits: (B, C), or the greatest ones, or None.
        """
        self.has_terms = True
        counted = {"loss_cls": terms.cls.detach()}
        if terms.distillation is not None and teacher_logits is not None:
            counted["loss_distillation"] = terms.distillation.detach()
            if isinstance(teacher_logits, TopLogits):
                answers = teacher_logits.indices[:, 0]
            else:
                answers = teacher_logits.argmax(dim=-1)
            agrees = student_logits.detach().argmax(dim=-1) == answers
            counted["teacher_agreement"] = agrees.float().mean()
        self._terms.add(counted, 1)

    def recent_means(self) -> dict[str, float]:
        """Returns the means since the last report, over all processes, which wait for each other."""
        return self._since_report.means() if self._since_report.count else {}

    def complete(self, logs: dict[str, float], *, step: int) -> None:
        """Adds the means over all processes to a report of the training loss.

        Args:
            logs: the report of `Trainer`, changed in place. Its `loss` and `train_loss` are replaced, because they
                include skipped steps and do not include the steps before a resume. They are removed if all steps
                were skipped.
            step: number of the last step.
        """
        if "loss" in logs:
            logs.pop("loss")
            if step in self.outcome.skipped_steps:
                logs.pop("grad_norm", None)  # belongs to the skipped step
            logs.update(self._since_report.means())
            self._since_report = _Sums()
        if "train_loss" in logs:
            logs.pop("train_loss")
            logs["train_bad_steps"] = len(self.outcome.skipped_steps)
            logs.update({f"train_{name}": value for name, value in self._training.means().items()})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Adds the batches of the step to the sums, unless the step was skipped."""
        if self._step.count and not self.outcome.is_skipped:
            # a subclass may compute the terms more than once per batch
            share = self._step.count / max(self._terms.count, 1)
            terms = {name: total * share for name, total in self._terms.sums.items()}
            self._since_report.add({**self._step.sums, **terms}, self._step.count)
            self._training.add({"loss": self._step.sums["loss"]}, self._step.count)
        self._step, self._terms = _Sums(), _Sums()


class _Sums:
    """Sums of scalars by name, and the number of summands, which is the same for all."""

    def __init__(self, sums: dict[str, Any] | None = None, count: int = 0):
        self.sums: dict[str, Any] = {name: torch.tensor(total) for name, total in (sums or {}).items()}
        self.count = count

    def state(self) -> dict[str, Any]:
        return {"sums": {name: total.item() for name, total in self.sums.items()}, "count": self.count}

    def add(self, sums: dict[str, Any], count: int) -> None:
        self.sums |= {name: self.sums.get(name, 0) + value for name, value in sums.items()}
        self.count += count

    def means(self) -> dict[str, float]:
        """Returns the means over all processes, which wait for each other."""
        return {name: reduce(torch.as_tensor(total) / self.count, "mean").item() for name, total in self.sums.items()}
