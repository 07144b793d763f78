"""Decodes the image of a dataset row, a file or a URL into 8-bit RGB.

For training views, torchvision decodes JPEGs: it gives the same pixels as Pillow in less time, as a tensor that is
resized faster (transforms.py). Pillow decodes all else.
"""

import errno
import io
import os
import stat
import threading
import urllib.request
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import PIL.ExifTags
import PIL.Image
import torch
from PIL.Image import Image, Transpose
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

Decoded: TypeAlias = Image | Tensor  # RGB; a tensor is uint8, (3, height, width)

URL_TIMEOUT = 30  # seconds
URL_HEADERS = {"User-Agent": "deit_hf"}  # some sites refuse Python's default user agent
_ORIENTATION = PIL.ExifTags.Base.Orientation
_TO_UPRIGHT = {  # by EXIF orientation
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_JPEG_TABLES = (b"\xff\xdb", b"\xff\xc4", b"\xff\xdd", b"\xff\xfe")  # quantization, Huffman, restarts, and comments
_WARNING_FILTERS = threading.Lock()  # all threads of a process share the filters
# I/O errors caused by the machine, not by the image.
_MACHINE_ERRORS = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT}


class BadImageError(ValueError):
    """An image that cannot be fetched, read or decoded. A missing file is a FileNotFoundError instead."""


class ImageRow(NamedTuple):
    """A row whose image is not decoded yet.

    Attributes:
        sample: number of the row in the key of a view.
        source: the undecoded image, as `decode_image` takes it.
        label: class index of the student; an evaluation row may have several.
        where: name of the row in error messages.
        listed_as: row number and file in the list of bad images.
    """

    sample: int
    source: Any
    label: Any
    where: str
    listed_as: tuple[int, str | None]


def first_decodable(
    rows: Iterable[ImageRow], *, skip_bad_images: bool
) -> tuple[ImageRow, Decoded, list[dict[str, Any]]]:
    """Decodes the image of the first row; with `skip_bad_images`, of the first row whose image can be decoded.

    See `decode_for_view`.

    Returns:
        The row, its image, and the skipped bad images: row, file (None for bytes in the dataset) and reason of each.

    Raises:
        BadImageError: the first image cannot be decoded; with `skip_bad_images`, none of the images can be decoded.
        FileNotFoundError: the file of the first image does not exist (only without `skip_bad_images`).
        OSError: the machine caused an error, such as a failing disk.
    """
    bad_images: list[dict[str, Any]] = []
    for row in rows:
        try:
            return row, decode_for_view(row.source, row.where), bad_images
        except (BadImageError, FileNotFoundError) as error:
            if not skip_bad_images:
                raise
            number, file = row.listed_as
            bad_images.append({"row": number, "file": file, "reason": str(error)})
    raise BadImageError(f"none of {len(bad_images)} images can be decoded; the first: {bad_images[0]['reason']}")


def decode_image(source: Any, where: str) -> Image:
    """Decodes an image to RGB and applies its EXIF rotation.

    An animation gives its first frame. Transparency is dropped. A damaged EXIF block or colour profile is ignored.

    Args:
        source: `{"bytes", "path"}` of an undecoded `datasets.Image`, a PIL image, a path or a URL.
        where: name of the source in error messages.

    Raises:
        FileNotFoundError: the file does not exist.
        BadImageError: the image cannot be fetched, read or decoded.
        OSError: the machine caused an error, such as a failing disk.
        MemoryError: there is too little memory to decode the image.
    """
    with _named_errors(source, where):
        return _decoded_by_pillow(_open(source))


def decode_for_view(source: Any, where: str) -> Decoded:
    """Like `decode_image`, but a JPEG becomes a uint8 tensor (3, height, width), decoded by torchvision.

    The pixels and the errors are the same. CMYK files, files with an EXIF rotation and damaged files are decoded by
    Pillow, like all other formats.
    """
    with _named_errors(source, where):
        content = _content(source)
        opened = source if content is None else {"bytes": content}
        image = None if content is not None and _is_plain_jpeg(content) else _open(opened)
        if content is not None and (image is None or _is_upright_jpeg(image)):
            try:
                return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)
            except RuntimeError:  # it is damaged, and Pillow decides whether it can be used
                pass
        return _decoded_by_pillow(_open(opened) if image is None else image)


def _is_plain_jpeg(content: bytes) -> bool:
    """Whether the headers of a file are the usual ones of an upright JPEG, for which Pillow need not open it.

    Everything else is for Pillow: EXIF data and other metadata, CMYK, too many pixels, and damaged headers.
    """
    if not content.startswith(b"\xff\xd8\xff\xe0\0\x10JFIF\0"):
        return False
    place, limit = 20, PIL.Image.MAX_IMAGE_PIXELS
    while (marker := content[place : place + 2]) != b"\xff\xda":  # the pixels follow
        if marker in (b"\xff\xc0", b"\xff\xc2"):  # the frame, baseline or progressive
            height, width = (int.from_bytes(content[at : at + 2], "big") for at in (place + 5, place + 7))
            bits, channels = content[place + 4 : place + 5], content[place + 9 : place + 10]
            if bits != b"\x08" or channels not in (b"\1", b"\3") or not width * height:
                return False
            if limit is not None and width * height > limit:
                return False
        elif marker not in _JPEG_TABLES:
            return False
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return True


def _is_upright_jpeg(image: Image) -> bool:
    return image.format == "JPEG" and image.mode in ("RGB", "L") and _rotation_of(image) is None


def _content(source: Any) -> bytes | None:
    """The bytes of a file in memory or on a disk; None for a PIL image, a URL, and what is not a file."""
    if isinstance(source, dict):
        source = source["path"] if source.get("bytes") is None else source["bytes"]
    if isinstance(source, str) and os.path.isfile(source):
        return Path(source).read_bytes()
    return source if isinstance(source, bytes) else None


def _decoded_by_pillow(image: Image) -> Image:
    image = _to_8_bit(_upright(image))
    return image if image.mode == "RGB" else image.convert("RGB")


@contextmanager
def _named_errors(source: Any, where: str) -> Iterator[None]:
    """Turns the errors of the decoders into those of `decode_image`, with the name of the source."""
    path = path_of(source)
    named = f"{where} ({path})" if path and path != where else where
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{named}: there is no such file") from error
    except _NotFetchedError as error:
        raise BadImageError(f"{named} could not be fetched: {error}; check the address and the connection") from error
    except PIL.UnidentifiedImageError as error:
        raise BadImageError(
            f"{named} is empty or not in an image format that Pillow knows; fix or remove it"
        ) from error
    except MemoryError as error:
        raise MemoryError(
            f"{named}: there is too little memory to decode it; resize it, or lower `dataloader_num_workers`"
        ) from error
    except Exception as error:  # Pillow's decoders raise many types of errors, RuntimeError included
        if isinstance(error, OSError) and error.errno in _MACHINE_ERRORS:
            raise OSError(error.errno, f"{named} could not be read: {error.strerror}") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadImageError(
            f"{named} is not an image that can be decoded: {reason[:200]}; fix or remove it"
        ) from error


def path_of(source: Any) -> str | None:
    return source.get("path") if isinstance(source, dict) else source if isinstance(source, str) else None


def _open(source: Any) -> Image:
    if isinstance(source, dict):
        source = source["path"] if source.get("bytes") is None else io.BytesIO(source["bytes"])
    if isinstance(source, Image):
        return source
    if not isinstance(source, str | io.BytesIO):
        raise TypeError(f"it holds {type(source).__name__}, but must hold an image, a path or a URL")
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        source = io.BytesIO(_fetched(source))
    if isinstance(source, str) and os.path.isdir(source):
        raise ValueError("it is a directory, not a file; name the images in it")
    if isinstance(source, str) and not stat.S_ISREG(os.stat(source).st_mode):
        raise ValueError("it is not a regular file")  # opening a pipe would block forever
    with _WARNING_FILTERS, warnings.catch_warnings():  # only reads the header; threads decode the pixels in parallel
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)  # by default only a warning
        image = PIL.Image.open(source)
    if image.format == "EPS":
        raise ValueError("it is PostScript, which is a program that Ghostscript would execute")
    return image


def _fetched(url: str) -> bytes:
    """Downloads a URL.

    Raises:
        _NotFetchedError: the download failed.
    """
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=URL_HEADERS), timeout=URL_TIMEOUT) as answer:
            return answer.read()
    except (OSError, HTTPException, ValueError) as error:  # refused, interrupted, or not a valid URL
        reason = " ".join(str(error).split()).removeprefix("<urlopen error ").rstrip(">")
        raise _NotFetchedError(reason or type(error).__name__) from error


class _NotFetchedError(Exception):
    """The reason why an image could not be downloaded."""


def _upright(image: Image) -> Image:
    """Applies the EXIF orientation; returns the same image if there is nothing to rotate."""
    image.load()  # some formats store EXIF data after the pixels
    rotation = _rotation_of(image)
    return image if rotation is None else image.transpose(rotation)


def _rotation_of(image: Image) -> Transpose | None:
    try:
        return _TO_UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block raises many types of errors; the pixels are still valid
        return None


def _to_8_bit(image: Image) -> Image:
    """Scales 16-bit grey to 8 bits; Pillow's own conversion would clip nearly all values to white."""
    if image.mode.startswith("I;16"):
        return PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "F" or (image.mode == "I" and np.any(np.asarray(image) >> 8)):  # 0..255 have no higher bits
        raise ValueError("its grey values are floats or outside of [0, 255]; store 8-bit or 16-bit integers")
    return image


def read_url(url: str, where: str) -> bytes:
    """Downloads an image without decoding it.

    Raises:
        BadImageError: the image cannot be fetched.
    """
    try:
        return _fetched(url)
    except _NotFetchedError as error:
        raise BadImageError(
            f"{where} ({url}) could not be fetched: {error}; check the address and the connection"
        ) from error
