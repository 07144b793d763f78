"""Deals shards to streams, reads ahead, and shuffles rows in a buffer: iterators that know nothing of images."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

ROWS_AHEAD = 32  # that each open shard reads while others are used

T = TypeVar("T")


def deal_shards(num_shards: int, lengths: Sequence[int] | None, num_streams: int) -> list[list[int]]:
    """The shards of each stream; of known lengths the longest first, each to the stream with fewest rows."""
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
    """The same items, read in another thread while earlier ones are used."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        reading = reader.submit(_some, items)
        while some := reading.result():
            reading = reader.submit(_some, items)
            yield from some


def _some(items: Iterator[T]) -> list[T]:
    return list(itertools.islice(items, ROWS_AHEAD))


def take_turns(sources: Iterable[Iterator[T]], num_open: int) -> Iterator[T]:
    """One item of each of `num_open` sources in turn; when a source ends the next one takes its place."""
    waiting = iter(sources)
    turns = deque(itertools.islice(waiting, num_open))
    while turns:
        source = turns.popleft()
        some = list(itertools.islice(source, 1))
        yield from some
        turns.extend([source] if some else itertools.islice(waiting, 1))


def shuffled(items: Iterator[T], buffer_size: int, generator: np.random.Generator) -> Iterator[T]:
    """All items once; each comes as soon as it is drawn from a buffer that the next one then fills up."""
    buffer = list(itertools.islice(items, buffer_size))
    for item in items:
        place = int(generator.integers(buffer_size))
        yield buffer[place]
        buffer[place] = item
    yield from (buffer[place] for place in generator.permutation(len(buffer)))
