"""What the log reports of the objective: means over the good optimizer steps since the last report."""

from typing import Any

import torch
from accelerate.utils import reduce
from torch import Tensor

from ..distillation.losses import ObjectiveTerms


class LossLog:
    """Adds up, without waiting for the device, what the log says beside the parent's `loss`.

    `loss_cls`, and with a teacher `loss_distillation` and `teacher_agreement`: the share of views on which the head
    that learns from the teacher decides as it does.
    """

    def __init__(self, state: dict[str, Any] | None = None):
        """From nothing, or from the `state` that another one had between two steps."""
        self._step = _Sums()  # that is under way
        self._since_report = _Sums(**state["since_report"]) if state else _Sums()
        self._training = _Sums(**state["training"]) if state else _Sums()

    def state(self) -> dict[str, Any]:
        """Numbers that a JSON file holds to the bit; waits for the device."""
        return {"since_report": self._since_report.state(), "training": self._training.state()}

    def add(self, terms: ObjectiveTerms, student_logits: Tensor, teacher_logits: Tensor | None) -> None:
        """Takes in a batch.

        Args:
            terms: scalars.
            student_logits: (B, C), of the head that learns from the teacher.
            teacher_logits: (B, C), or None.
        """
        counted = {"loss": terms.loss.detach(), "loss_cls": terms.cls.detach()}
        if terms.distillation is not None and teacher_logits is not None:
            counted["loss_distillation"] = terms.distillation.detach()
            agrees = student_logits.detach().argmax(dim=-1) == teacher_logits.argmax(dim=-1)
            counted["teacher_agreement"] = agrees.float().mean()
        self._step.add(counted, 1)

    def end_step(self, *, is_good: bool) -> None:
        """Counts the step's batches, or leaves them out if it was skipped."""
        if is_good and self._step.count:  # a loss of a subclass tells no terms
            self._since_report.add(self._step.sums, self._step.count)
            self._training.add({"loss": self._step.sums["loss"]}, self._step.count)
        self._step = _Sums()

    def complete(self, logs: dict[str, float], *, bad_steps: list[int], step: int) -> None:
        """Adds the means over all processes to a report of the training loss.

        Args:
            logs: the parent's report, changed in place. Where steps were skipped its `loss` and `train_loss`, which
                count them too, give way to the means of the others, and are left out where there are no others.
            bad_steps: that were skipped so far.
            step: number of the last step.
        """
        if "loss" in logs:
            means = self._since_report.means()
            self._since_report = _Sums()
            if bad_steps:
                logs.pop("loss")
            else:
                means.pop("loss", None)
            if step in bad_steps:
                logs.pop("grad_norm", None)  # of this step
            logs.update(means)
        if "train_loss" in logs:
            logs["train_bad_steps"] = len(bad_steps)
            if bad_steps:
                logs.pop("train_loss")
                logs.update({f"train_{name}": value for name, value in self._training.means().items()})


class _Sums:
    """Sums of scalars by name, and how many of each there were."""

    def __init__(self, sums: dict[str, Any] | None = None, count: int = 0):
        self.sums: dict[str, Any] = {name: torch.tensor(total) for name, total in (sums or {}).items()}
        self.count = count

    def state(self) -> dict[str, Any]:
        return {"sums": {name: total.item() for name, total in self.sums.items()}, "count": self.count}

    def add(self, sums: dict[str, Any], count: int) -> None:
        self.sums = {name: self.sums.get(name, 0) + value for name, value in sums.items()}
        self.count += count

    def means(self) -> dict[str, float]:
        """Over all processes, which wait for each other."""
        return {name: reduce(torch.as_tensor(total) / self.count, "mean").item() for name, total in self.sums.items()}
