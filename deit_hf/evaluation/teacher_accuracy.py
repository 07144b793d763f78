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
    """Measures top-1, top-5 and loss of a teacher, in the form of `HeadAccuracy` with one head.

    Args:
        teacher: maps the student's `pixel_values` (B, channels, height, width) to logits (B, C) in its label order.
        batches: with `pixel_values`, and `labels` (B,) or (B, K), on the teacher's device.
        gather: joins logits and labels of all processes, without the padding of the last batch.
    """
    accuracy = HeadAccuracy(needs_finite=True)
    for batch in batches:
        logits, labels = gather((teacher(batch["pixel_values"]), batch["labels"]))
        accuracy.add((logits.cpu(),), labels.cpu())
    return accuracy.result()
