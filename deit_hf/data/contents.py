"""Contents of undecoded images, without decoding them: bytes or paths by row, and digests."""

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

import datasets
import numpy as np

NUM_THREADS = 16  # for reads from the disk
ROWS_AT_A_TIME = 200  # rows whose bytes are in memory together
BLOCK, NUM_BLOCKS = 1 << 16, 4  # block size in bytes, and number of evenly spaced blocks compared of a large file


class UndecodedImages:
    """Undecoded images of a part."""

    def __init__(self, rows: datasets.Dataset, column: str):
        rows = rows.with_format(None).select_columns([column])
        is_image = isinstance(rows.features[column], datasets.Image)
        self._rows = rows.cast_column(column, datasets.Image(decode=False)) if is_image else rows
        self._column = column

    def __len__(self) -> int:
        return len(self._rows)

    def spaced(self, num: int) -> Iterator[tuple[bytes | None, str | None]]:
        """Yields (bytes, path) of at most `num` evenly spaced rows; bytes, path or both may be None."""
        indices = np.linspace(0, len(self) - 1, min(num, len(self)), dtype=np.int64).tolist()
        for start in range(0, len(indices), ROWS_AT_A_TIME):
            for source in self._rows[indices[start : start + ROWS_AT_A_TIME]][self._column]:
                if isinstance(source, dict):
                    yield source.get("bytes"), source.get("path")
                else:
                    yield None, source if isinstance(source, str) else None


def in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Applies `function` to each item, in several threads because each waits for the disk."""
    parts = [items[start::NUM_THREADS] for start in range(NUM_THREADS)]
    results: list[Any] = [None] * len(items)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for start, part in enumerate(pool.map(lambda part: [function(item) for item in part], parts)):
            results[start::NUM_THREADS] = part
    return results


def digest_of(file: BinaryIO) -> bytes:
    """Digest of the size and the bytes of a file; for a large file, of the size and a few blocks."""
    size = file.seek(0, os.SEEK_END)
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    is_large = size > NUM_BLOCKS * BLOCK
    for block in range(NUM_BLOCKS) if is_large else (0,):
        file.seek((size - BLOCK) * block // (NUM_BLOCKS - 1) if is_large else 0)
        digest.update(file.read(BLOCK if is_large else size))
    return digest.digest()


def digests(images: UndecodedImages) -> list[bytes]:
    """Digest of each image, in the order of the rows; of an image that is not on this machine, of its name."""
    found: list[Any] = []
    for content, path in images.spaced(len(images)):
        found.append(str(path) if content is None else digest_of(io.BytesIO(content)))
    return in_threads(lambda each: _digest_of_file(each) if isinstance(each, str) else each, found)


def _digest_of_file(path: str) -> bytes:
    if not os.path.isfile(path):  # a URL, or a missing file, which the training reports
        return hashlib.blake2b(path.encode(), digest_size=16).digest()
    with open(path, "rb") as file:
        return digest_of(file)
