"""Iterators for streams of any items: assign shards to streams, read ahead, interleave, and shuffle in a buffer."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

ROWS_AHEAD = 32  # rows that each open shard reads in advance

T = TypeVar("T")


def deal_shards(num_shards: int, lengths: Sequence[int] | None, num_streams: int) -> list[list[int]]:
    """Assigns shards to streams.

    If the lengths are known, the longest shards come first, and each goes to the stream with the fewest rows.
    """
    if lengths is None:
        return [list(range(stream, num_shards, num_streams)) for stream in range(num_streams)]
    streams: list[list[int]] = [[] for _ in range(num_streams)]
    totals = [0] * num_streams
    for shard in sorted(range(num_shards), key=lambda shard: -lengths[shard]):
        stream = totals.index(min(totals))
        streams[stream].append(shard)
        totals[stream] += lengths[shard]
    return streams


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yields the same items, and reads the next ones in another thread."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        reading = reader.submit(_some, items)
        while some := reading.result():
            reading = reader.submit(_some, items)
            yield from some


def _some(items: Iterator[T]) -> list[T]:
    return list(itertools.islice(items, ROWS_AHEAD))


def take_turns(sources: Iterable[Iterator[T]], num_open: int) -> Iterator[T]:
    """Yields one item of each of `num_open` sources in turn; the next source replaces one that ends."""
    waiting = iter(sources)
    turns = deque(itertools.islice(waiting, num_open))
    while turns:
        source = turns.popleft()
        some = list(itertools.islice(source, 1))
        yield from some
        turns.extend([source] if some else itertools.islice(waiting, 1))


def shuffled(items: Iterator[T], buffer_size: int, generator: np.random.Generator) -> Iterator[T]:
    """Yields all items once, shuffled: each new item replaces a random item of the buffer, which is yielded."""
    buffer = list(itertools.islice(items, buffer_size))
    for item in items:
        place = int(generator.integers(buffer_size))
        yield buffer[place]
        buffer[place] = item
    yield from (buffer[place] for place in generator.permutation(len(buffer)))
