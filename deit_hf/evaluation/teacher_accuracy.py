"""Accuracy of a teacher on the student's evaluation views."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .metrics import HeadAccuracy


@torch.no_grad()
def teacher_accuracy(
    teacher: Callable[[Tensor], Tensor],
    batches: Iterable[dict[str, Any]],
    gather: Callable[[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]],
) -> dict[str, float]:
    """Top-1, top-5 and loss of a teacher.

    Args:
        teacher: `pixel_values` (B, channels, height, width) of the student's view -> logits (B, C) in its label order.
        batches: of `pixel_values` and `labels`, (B,) or (B, K), on the teacher's device.
        gather: joins the logits and labels of all processes, without what fills up the last batch.
    """
    accuracy = HeadAccuracy()
    for batch in batches:
        logits, labels = gather((teacher(batch["pixel_values"]), batch["labels"]))
        accuracy.add((logits.cpu(),), labels.cpu())
    return accuracy.result()
