"""The batches of views that a teacher still has to answer, and the blocks of answers that they make up."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..data.sampling import ViewKey, ViewSampler
from ..data.streaming import StreamSampler
from ..distillation.answer_format import BLOCK, AnswerFormat, Rows


def whole_order(sampler: ViewSampler) -> ViewSampler:
    """A sampler whose keys this process can all use; a stream is otherwise divided between the processes."""
    if isinstance(sampler, StreamSampler):
        sampler.process_index, sampler.num_processes = 0, 1
    return sampler


class MissingBatches:
    """The batches of an epoch in global order, as a training makes them, that have a part of one of the blocks."""

    def __init__(self, sampler: ViewSampler, batch_size: int, blocks: set[int]):
        self.sampler, self.batch_size, self.blocks = sampler, batch_size, blocks

    def __iter__(self) -> Iterator[list[ViewKey]]:
        batch: list[Any] = []
        for key in self.sampler:
            batch.append(key)
            if len(batch) == self.batch_size or key.position == len(self.sampler) - 1:
                if not self.blocks.isdisjoint(range(batch[0].position // BLOCK, key.position // BLOCK + 1)):
                    yield batch
                batch = []

    def __len__(self) -> int:
        size, num_batches = self.batch_size, math.ceil(len(self.sampler) / self.batch_size)
        last = [min((number + 1) * size, len(self.sampler)) - 1 for number in range(num_batches)]
        touched = (range(number * size // BLOCK, end // BLOCK + 1) for number, end in enumerate(last))
        return sum(not self.blocks.isdisjoint(blocks) for blocks in touched)


class BlockParts:
    """Collects the rows of blocks that batches divide."""

    def __init__(self, answer_format: AnswerFormat):
        self.format = answer_format
        self._rows: dict[int, dict[str, np.ndarray]] = {}

    def add(self, positions: Sequence[int], rows: Rows) -> None:
        """Adds the rows at these positions."""
        for block in range(positions[0] // BLOCK, positions[-1] // BLOCK + 1):
            places = self.format.positions(block)
            here = [index for index, position in enumerate(positions) if position in places]
            columns = self._rows.setdefault(block, self._empty(len(places)))
            for name, column in columns.items():
                column[positions[here[0]] - places.start : positions[here[-1]] - places.start + 1] = rows[name][here]

    def pop(self, block: int) -> dict[str, np.ndarray]:
        """The rows of a complete block."""
        return self._rows.pop(block)

    def _empty(self, size: int) -> dict[str, np.ndarray]:
        return {name: np.zeros((size, *row), dtype) for name, (dtype, row) in self.format.answers.items()}
