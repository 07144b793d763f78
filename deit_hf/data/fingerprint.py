"""A fingerprint of the training rows, to recognise them in another place, and to detect changes."""

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from .dataset import ImageDataset, TrainingViews
from .streaming import ImageStream, StreamViews

NUM_PICTURES = 256  # images to read, spread evenly over the rows
NUM_SHARDS, ROWS_OF_SHARD = 4, 2  # of a stream, where a row is found only by reading all rows before it


def data_fingerprint(views: TrainingViews) -> dict[str, Any]:
    """Fingerprint of the number of rows, the labels and the images. Paths do not count; draws no random numbers.

    Args:
        views: training views. For a stream, the lengths of all shards and the first rows of a few shards are used.

    Returns:
        `rows` (a count), `labels` and `pictures` (short hashes); for a stream also `shards`.
    """
    if isinstance(views, StreamViews):
        stream = views.images
        rows = list(_first_rows(stream))
        lengths = None if stream.lengths is None else list(stream.lengths)
        return {
            "rows": stream.num_images,
            "shards": stream.num_shards if lengths is None else f"{stream.num_shards} of {_hash(repr(lengths))}",
            "labels": _hash(*(repr(label) for _, label in rows)),
            "pictures": _hash(*(_content(source) for source, _ in rows)),
        }
    return images_fingerprint(views.images)


def images_fingerprint(images: ImageDataset) -> dict[str, Any]:
    """Fingerprint of rows by index: `rows` (a count), `labels` and `pictures` (short hashes)."""
    places = spread_places(len(images), NUM_PICTURES)
    return {
        "rows": len(images),
        "labels": _hash(np.ascontiguousarray(images.labels).tobytes()),
        "pictures": _hash(*(_content(images.source(place)) for place in places)),
    }


def spread_places(length: int, most: int) -> list[int]:
    """At most `most` indices below `length`, spread evenly and starting with 0."""
    number = min(length, most)
    return [i * length // number for i in range(number)]


def file_fingerprint(path: Path, *, chunks: int = 64, chunk_size: int = 65536) -> str:
    """Hash of the size of a file and of chunks spread over it; a small file is hashed completely."""
    size = path.stat().st_size
    parts = [str(size)]
    with path.open("rb") as file:
        if size <= chunks * chunk_size:
            return _hash(*parts, file.read())
        read = []
        for i in range(chunks):  # the last chunk ends at the end of the file
            file.seek(i * (size - chunk_size) // (chunks - 1))
            read.append(file.read(chunk_size))
    return _hash(*parts, *read)


def _first_rows(stream: ImageStream) -> Iterator[tuple[Any, Any]]:
    for shard in spread_places(stream.num_shards, NUM_SHARDS):
        for row in islice(stream.read(shard), ROWS_OF_SHARD):
            yield row.source, row.label


def _content(source: Any) -> bytes | str:
    """The bytes of an undecoded image; for a URL the URL itself, to avoid a download."""
    if isinstance(source, dict):
        source = source["path"] if source.get("bytes") is None else source["bytes"]
    if isinstance(source, Image):
        return source.tobytes()
    if isinstance(source, str) and not source.startswith(("http://", "https://")):
        path = Path(source)
        return path.read_bytes() if path.is_file() else "is missing"  # training reports or skips it
    return source if isinstance(source, bytes) else repr(source)


def _hash(*parts: bytes | str) -> str:
    """Hash of the parts. The length of each part is hashed, too, so that the boundaries between parts count."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(f"{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()[:16]
