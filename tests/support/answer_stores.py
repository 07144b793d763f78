"""Small stores of random answers, for tests."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from deit_hf.distillation.answer_format import BLOCK, AnswerFormat, answer_rows
from deit_hf.distillation.epoch_writer import EpochWriter
from deit_hf.distillation.teacher_cache import AnswerStore

HARD = AnswerFormat("hard", num_classes=1000, num_views=150)
SOFT = AnswerFormat("soft", num_classes=1000, num_views=150, temperature=3.0)
FINGERPRINT = {"data_seed": 3, "views": {"image_size": 32, "repeats": 3}, "teacher": "a1b2"}
FACTS = {"teacher": "timm:regnety_160", "top1": 0.829, "versions": {"torch": "2.9.0", "timm": "1.0.20"}}


def logits_of(answer_format: AnswerFormat, epoch: int = 0) -> torch.Tensor:
    """The logits of all views of an epoch, (N, C)."""
    shape = answer_format.num_views, answer_format.num_classes
    return 4 * torch.randn(shape, generator=torch.Generator().manual_seed(epoch))


def write_blocks(writer: EpochWriter, blocks: list[int]) -> None:
    """Writes these blocks; the sum of the views of block i is i + 7."""
    for block in blocks:
        rows = answer_rows(logits_of(writer.store.format, writer.epoch)[block * BLOCK :][:BLOCK], writer.store.format)
        writer.write(block, rows, block + 7)


def filled_store(directory: Path, answer_format: AnswerFormat = HARD, epochs: int = 1, **facts: Any) -> AnswerStore:
    """A store with its first epochs."""
    store = AnswerStore.create(directory, answer_format, FINGERPRINT, {**FACTS, **facts})
    for epoch in range(epochs):
        writer = EpochWriter(store, epoch)
        write_blocks(writer, writer.missing_blocks())
        writer.finish()
    return store


def flip(path: Path, place: int) -> None:
    """Changes one byte of a file."""
    content = np.fromfile(path, np.uint8)
    content[place] ^= 0x10
    content.tofile(path)
