"""The accuracy of a teacher includes the images of all processes."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deit_hf.evaluation.teacher_accuracy import teacher_accuracy

LOGITS = torch.tensor([[4.0, 0, 0, 0, 0, 1], [0, 3, 0, 0, 0, 1], [0, 5, 0, 0, 0, 1], [9.0, 8, 7, 6, 5, 4]])
LABELS = torch.tensor([0, 1, 2, 5])


def test_images_of_all_processes_count_once_each():
    """Red when each process reports only its own images; here the other process has all but the first image."""

    def gather(own: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        logits, labels = own
        return torch.cat([logits, LOGITS[1:]]), torch.cat([labels, LABELS[1:]])

    batches = [{"pixel_values": LOGITS[:1], "labels": LABELS[:1]}]
    found = teacher_accuracy(lambda pixels: pixels, batches, gather)
    assert found["top1"] == 0.5
    assert found["top5"] == 0.75  # the last one is wrong five times
    assert found["loss"] == pytest.approx(F.cross_entropy(LOGITS, LABELS).item(), rel=1e-5)
