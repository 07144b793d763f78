"""An image as `deit-hf prepare` stores it: resized, or with its original bytes."""

import contextlib
import io
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import PIL.Image

from .decoding import BadImageError, decode_image, path_of, read_url
from .sources.image_paths import URL_STARTS

LONGEST_JPEG_SIDE = 65_500  # pixels, a limit of libjpeg


class StoredImage(NamedTuple):
    """An image as it is stored.

    Attributes:
        content: encoded bytes; None if a bad image has none, such as a missing file.
        path: name of the image, without folders of this machine; of a missing file, its path.
        num_bytes_before: size of the original.
        kind: `resized`, `kept` or `bad`.
        fault: why a bad image cannot be decoded; otherwise empty.
    """

    content: bytes | None
    path: str | None
    num_bytes_before: int
    kind: Literal["resized", "kept", "bad"]
    fault: str = ""

    @property
    def num_bytes(self) -> int:
        """Size of the stored image."""
        return len(self.content or b"")


def stored_image(source: Any, where: str, *, short_side: int, quality: int) -> StoredImage:
    """Resizes an undecoded image with an antialiased bicubic filter, as in the training views; drops its metadata.

    An image keeps its bytes if its short side is small enough, if its JPEG would not be smaller, or if it cannot be
    decoded. Every image is decoded, also one that keeps its bytes, so that bad ones are found.

    Args:
        source: `{"bytes", "path"}` of an undecoded `datasets.Image`, a path or a URL.
        where: name of the image in the text about a fault.
        short_side: of the resized image in pixels.
        quality: of the JPEG.

    Raises:
        OSError: the machine caused an error, such as a failing disk.
    """
    path, content = path_of(source), original_bytes(source)
    try:
        if content is None and path is not None and path.startswith(URL_STARTS):
            content = read_url(path, where)
        image = decode_image({"bytes": content, "path": path}, where)
    except (BadImageError, FileNotFoundError) as error:
        name = path if content is None else portable(path)
        return StoredImage(content, name, len(content or b""), "bad", str(error))
    assert content is not None  # decode_image has refused everything without bytes
    kept = StoredImage(content, portable(path), len(content), "kept")
    scale = short_side / min(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if scale >= 1 or max(size) > LONGEST_JPEG_SIDE:
        return kept
    buffer = io.BytesIO()
    resized = image.resize(size, PIL.Image.Resampling.BICUBIC)
    resized.info = {}  # Pillow would write the comment of the original, and fail if it is longer than a JPEG's may be
    resized.save(buffer, "JPEG", quality=quality)
    return kept._replace(content=buffer.getvalue(), kind="resized") if buffer.tell() < len(content) else kept


def original_bytes(source: Any) -> bytes | None:
    """The bytes of an undecoded image in a row or a local file; None if there are none that can be read."""
    if isinstance(source, dict) and source.get("bytes") is not None:
        content: bytes = source["bytes"]
        return content
    path = path_of(source)
    if path is not None and os.path.isfile(path):  # opening a pipe would block forever
        with contextlib.suppress(PermissionError):
            return Path(path).read_bytes()
    return None


def portable(path: str | None) -> str | None:
    """The path of an image without the folders of this machine: of an absolute path or a URL, the last two parts.

    Label files match names by the last parts of the path.
    """
    if path is None or not (os.path.isabs(path) or path.startswith(URL_STARTS)):
        return path
    return "/".join(Path(path).parts[-2:])


def typical_short_side(sources: Iterable[Any]) -> float | None:
    """Median of the short sides of undecoded images in pixels, by their headers; None if none can be opened.

    Images on the web are not fetched.
    """
    sides = []
    for source in sources:
        content = original_bytes(source)
        with contextlib.suppress(Exception), warnings.catch_warnings():  # Pillow's decoders raise many types
            warnings.simplefilter("ignore")
            if content is not None:
                with PIL.Image.open(io.BytesIO(content)) as image:
                    sides.append(min(image.size))
    return median(sides) if sides else None
