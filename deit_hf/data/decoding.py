"""Decodes the image of a dataset row, a file or a URL into 8-bit RGB."""

import errno
import io
import os
import stat
import urllib.request
import warnings
from collections.abc import Iterable
from http.client import HTTPException
from typing import Any, NamedTuple

import numpy as np
import PIL.ExifTags
import PIL.Image
from PIL.Image import Image, Transpose

URL_TIMEOUT = 30  # seconds
URL_HEADERS = {"User-Agent": "deit_hf"}  # some sites refuse a client without a name of its own
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
# What a disk or a machine is at fault for, and no picture.
_FAULTS_OF_THE_MACHINE = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT}


class BadImageError(ValueError):
    """An image that cannot be read because of its own content; a missing file is a FileNotFoundError."""


class ImageRow(NamedTuple):
    """A row whose image is not decoded yet.

    Attributes:
        sample: number of the row in the key of a view.
        source: what the row holds: see `decode_image`.
        label: class index of the student; for an evaluation row possibly several.
        where: names the row in errors.
        listed_as: its number and file in the list of bad images.
    """

    sample: int
    source: Any
    label: Any
    where: str
    listed_as: tuple[int, str | None]


def first_decodable(
    rows: Iterable[ImageRow], *, skip_bad_images: bool
) -> tuple[ImageRow, Image, list[dict[str, Any]]]:
    """The first row whose image can be decoded; the others take its place only if `skip_bad_images`.

    Returns:
        The row, its image, and the bad images before it: row, file (None for bytes in the dataset) and reason.

    Raises:
        BadImageError: the first image, or with `skip_bad_images` no image at all can be decoded.
        OSError: the disk or the machine is at fault.
    """
    bad_images: list[dict[str, Any]] = []
    for row in rows:
        try:
            return row, decode_image(row.source, row.where), bad_images
        except (BadImageError, FileNotFoundError) as error:
            if not skip_bad_images:
                raise
            number, file = row.listed_as
            bad_images.append({"row": number, "file": file, "reason": str(error)})
    raise BadImageError(f"none of {len(bad_images)} images can be decoded; the first: {bad_images[0]['reason']}")


def decode_image(source: Any, where: str) -> Image:
    """An RGB picture from what a dataset row, a file path or a URL holds; EXIF rotation is applied.

    Of an animation it is the first frame; transparency is dropped. An EXIF block or colour profile that cannot be
    read does not count against a picture whose pixels can.

    Args:
        source: `{"bytes", "path"}` of an undecoded `datasets.Image`, a PIL image, a path or a URL.
        where: names the source in the error.

    Raises:
        FileNotFoundError: there is no such file.
        BadImageError: it cannot be fetched, read or decoded.
        OSError: the disk or the machine is at fault.
        MemoryError: there is too little.
    """
    path = path_of(source)
    named = f"{where} ({path})" if path and path != where else where
    try:
        image = _to_8_bit(_upright(_open(source)))
        return image if image.mode == "RGB" else image.convert("RGB")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{named}: there is no such file") from error
    except _NotFetchedError as error:
        raise BadImageError(f"{named} could not be fetched: {error}; check the address and the connection") from error
    except PIL.UnidentifiedImageError as error:
        raise BadImageError(f"{named} is empty or of no image format that Pillow knows; mend or remove it") from error
    except MemoryError as error:
        raise MemoryError(f"{named}: there is too little memory to decode it") from error
    except Exception as error:  # Pillow's decoders raise whatever they stumble on, RuntimeError included
        if isinstance(error, OSError) and error.errno in _FAULTS_OF_THE_MACHINE:
            raise OSError(error.errno, f"{named} could not be read: {error.strerror}") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadImageError(
            f"{named} is not an image that can be decoded: {reason[:200]}; mend or remove it"
        ) from error


def path_of(source: Any) -> str | None:
    return source.get("path") if isinstance(source, dict) else source if isinstance(source, str) else None


def _open(source: Any) -> Image:
    if isinstance(source, dict):
        source = source["path"] if source.get("bytes") is None else io.BytesIO(source["bytes"])
    if isinstance(source, Image):
        return source
    if not isinstance(source, str | io.BytesIO):
        raise TypeError(f"it holds {type(source).__name__}, but must hold a picture, a path or a URL")
    with warnings.catch_warnings():
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)  # would decode it all the same
        if isinstance(source, str) and source.startswith(("http://", "https://")):
            source = io.BytesIO(_fetched(source))
        if isinstance(source, str) and os.path.isdir(source):
            raise ValueError("it is no file but a directory; name the pictures in it")
        if isinstance(source, str) and not stat.S_ISREG(os.stat(source).st_mode):
            raise ValueError("it is no file")  # to open a pipe waits for ever
        image = PIL.Image.open(source)
    if image.format == "EPS":
        raise ValueError("it is PostScript, which is a program that Ghostscript would run")
    return image


def _fetched(url: str) -> bytes:
    """What an address answers with.

    Raises:
        _NotFetchedError: it does not, or not with a file.
    """
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=URL_HEADERS), timeout=URL_TIMEOUT) as answer:
            return answer.read()
    except (OSError, HTTPException, ValueError) as error:  # refused, cut off, or no address
        reason = " ".join(str(error).split()).removeprefix("<urlopen error ").rstrip(">")
        raise _NotFetchedError(reason or type(error).__name__) from error


class _NotFetchedError(Exception):
    """Why a picture could not be had from its address."""


def _upright(image: Image) -> Image:
    """The picture as its EXIF orientation says; without a copy where there is nothing to turn."""
    image.load()  # some formats keep EXIF data behind the pixels
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # the block is damaged in one of a dozen ways; the pixels are not
        return image
    return image.transpose(_TO_UPRIGHT[orientation]) if orientation in _TO_UPRIGHT else image


def _to_8_bit(image: Image) -> Image:
    """Grey of 16 bits scaled to 8; Pillow's own conversion would clip nearly all of it to white."""
    if image.mode.startswith("I;16"):
        return PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "F" or (image.mode == "I" and np.any(np.asarray(image) >> 8)):  # 0..255 have no higher bits
        raise ValueError("its grey values are floats or outside of [0, 255]; store 8-bit or 16-bit integers")
    return image
