"""Datasets of images and labels as views: a key goes in, normalised pixels come out, the same ones every time.

Takes plain `datasets` with an image and a label column. Which keys come in which order is in sampling.py.
"""

import contextlib
import errno
import io
import os
import random
import re
import stat
import warnings
from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
import PIL.ExifTags
import PIL.Image
import torch
from PIL.Image import Image, Transpose
from torch.utils.data import Dataset, get_worker_info
from transformers.image_utils import load_image

from .bad_images import BadImageError, first_good_view
from .mixing import Mixing
from .sampling import ViewKey
from .transforms import View
from .worker_crashes import WorkerNotes

URL_TIMEOUT = 30  # seconds
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
_STREAM = 0  # keeps the views' random numbers apart from those of the mixing and the sampler


class ImageDataset:
    """Pictures and labels by index, checked once so that training does not find out at step 900.

    Attributes:
        num_classes: classes that labels may take.
        labels: (N,); or with several right labels in a row (N, K), filled up with -1.

    Raises:
        TypeError: not a map-style `datasets.Dataset`, or labels that are not integers.
        ValueError: a missing column, no rows, or a label outside [0, num_classes).
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        *,
        image_column_name: str,
        label_column_name: str,
        num_classes: int,
        several_labels: bool = False,
    ):
        """With `several_labels` a row may hold a list of labels, all of them right."""
        if not isinstance(dataset, datasets.Dataset):
            raise TypeError(
                f"the dataset is a {type(dataset).__name__}, but must be a `datasets.Dataset`; for other sources use "
                "`datasets.Dataset.from_list` or `from_generator` (only training rows can be a stream)"
            )
        for name in (image_column_name, label_column_name):
            if name not in dataset.column_names:
                raise ValueError(
                    f"the dataset has no column `{name}`, only {', '.join(dataset.column_names)}; "
                    "name the columns with `image_column_name` and `label_column_name`"
                )
        if len(dataset) == 0:
            raise ValueError("the dataset has no rows; check the split and `max_train_samples`/`max_eval_samples`")
        dataset = dataset.with_format(None)  # a user's format or transform would change what a row holds
        self.num_classes = num_classes
        self.labels = _checked_labels(dataset, label_column_name, num_classes, several_labels)
        image_column = dataset.select_columns([image_column_name])
        if isinstance(dataset.features[image_column_name], datasets.Image):
            image_column = image_column.cast_column(image_column_name, datasets.Image(decode=False))
        self._image_column = image_column
        self.worker_notes = WorkerNotes()

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image:
        """The picture in row `index`, as RGB.

        Raises:
            FileNotFoundError: the row names a file that does not exist.
            BadImageError: it cannot be decoded; names the row and the file.
            OSError: the disk or the machine is at fault.
        """
        self.worker_notes.take_up(index)  # before reading: a decoder may take the whole process down
        return decode_image(self._source(index), f"row {index} of the dataset")

    def file(self, index: int) -> str | None:
        """The file or URL that row `index` names, None where it names none."""
        return _path_of(self._source(index))

    def place(self, index: int) -> str:
        """Row `index` in words."""
        return f"row {index} of the dataset ({self.file(index) or 'of no file name'})"

    def _source(self, index: int) -> Any:
        # straight from the Arrow table: `datasets` takes a twentieth of the time of a view to look up a row
        order = self._image_column._indices  # of rows that were selected or shuffled
        place = index if order is None else order.column(0)[index].as_py()
        return self._image_column.data.column(0)[place].as_py()


def _checked_labels(dataset: datasets.Dataset, name: str, num_classes: int, several: bool) -> np.ndarray:
    feature, column = dataset.features[name], dataset.select_columns([name])
    if several and re.match(r"u?int\d", getattr(getattr(feature, "feature", None), "dtype", "")):
        return _checked_label_lists(column[:][name], num_classes)
    labels = np.asarray(column.with_format("numpy")[:][name])
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise TypeError(
            f"column `{name}` holds {feature}, but labels must be integers without gaps in the column; "
            f"make class indices with `dataset.class_encode_column('{name}')`"
        )
    _check_range(labels, np.arange(len(labels)), num_classes)
    return labels.astype(np.int64)


def _checked_label_lists(lists: list[list[int]], num_classes: int) -> np.ndarray:
    """(N, K), K being the most labels in a row; filled up with -1."""
    empty = next((row for row, labels in enumerate(lists) if not labels or None in labels), None)
    if empty is not None:
        raise ValueError(f"row {empty} has labels {lists[empty]}; leave out rows that have none")
    lists = [sorted(set(labels)) for labels in lists]
    sizes = [len(labels) for labels in lists]
    rows, places = np.repeat(np.arange(len(lists)), sizes), np.concatenate([np.arange(size) for size in sizes])
    labels = np.concatenate(lists).astype(np.int64)
    _check_range(labels, rows, num_classes)
    padded = np.full((len(lists), max(sizes)), -1)
    padded[rows, places] = labels
    return padded


def _check_range(labels: np.ndarray, rows: np.ndarray, num_classes: int) -> None:
    """Names the first of `labels` outside the classes, and its row."""
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        raise ValueError(
            f"row {rows[outside[0]]} has label {labels[outside[0]]}, but the model has {num_classes} classes, so "
            f"labels must be in [0, {num_classes - 1}] ({len(outside)} such rows); set `num_labels` or mend the data"
        )


def decode_image(source: Any, where: str) -> Image:
    """An RGB picture from what a dataset row, a file path or a URL holds; EXIF rotation is applied.

    Of an animation it is the first frame; transparency is dropped. An EXIF block or colour profile that cannot be
    read does not count against a picture whose pixels can.

    Args:
        source: `{"bytes", "path"}` of an undecoded `datasets.Image`, a PIL image, a path or a URL.
        where: names the source in the error.

    Raises:
        FileNotFoundError: there is no such file.
        BadImageError: it cannot be read or decoded.
        OSError: the disk or the machine is at fault.
        MemoryError: there is too little.
    """
    path = _path_of(source)
    named = f"{where} ({path})" if path and path != where else where
    try:
        image = _to_8_bit(_upright(_open(source)))
        return image if image.mode == "RGB" else image.convert("RGB")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{named}: there is no such file") from error
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


def _path_of(source: Any) -> str | None:
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
            return load_image(source, timeout=URL_TIMEOUT)
        if isinstance(source, str) and not stat.S_ISREG(os.stat(source).st_mode):
            raise ValueError("it is no file")  # to open a pipe waits for ever
        image = PIL.Image.open(source)
    if image.format == "EPS":
        raise ValueError("it is PostScript, which is a program that Ghostscript would run")
    return image


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
    if image.mode in ("I", "F"):
        low, high = np.asarray(image).min(), np.asarray(image).max()
        if not (low >= 0 and high <= 255):  # nor NaN
            raise ValueError(f"its grey values go from {low} to {high}, but must be in [0, 255] or 16-bit integers")
        if image.mode == "F" and 0 < high <= 1:
            raise ValueError(f"its grey values go from {low} to {high}, as fractions do, but must be in [0, 255]")
    return image


@contextlib.contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seeds the random streams that image transforms draw from (python, numpy, torch), and restores them after.

    A data worker's streams are not restored: nobody else draws from them, and numpy's takes longer than the seeding.
    """
    words = np.random.SeedSequence(entropy).generate_state(4)
    in_worker = get_worker_info() is not None
    states = None if in_worker else (random.getstate(), np.random.get_state(), torch.get_rng_state())
    random.seed(int(words[0]) << 32 | int(words[1]))
    np.random.seed(words[2])
    torch.default_generator.manual_seed(int(words[3]))
    try:
        yield
    finally:
        if states is not None:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])


class TrainingViews(Dataset):
    """Random views by key; a view is a pure function of (seed, epoch, sample, repeat).

    With `skip_bad_images` a picture that cannot be decoded is replaced (bad_images.py).
    """

    def __init__(self, images: ImageDataset, view: View, *, seed: int, skip_bad_images: bool = False):
        self.images, self.view, self.seed, self.skip_bad_images = images, view, seed, skip_bad_images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: ViewKey) -> dict[str, Any]:
        bad_images: list[dict[str, Any]] = []
        if self.skip_bad_images:
            image, key, bad_images = first_good_view(self.images, key)
        else:
            image = self.images.image(key.sample)
        with self.seeded(key), _named_view(key.sample, image):
            pixel_values = self.view(image)
        labels = self.images.labels[key.sample]
        return {"pixel_values": pixel_values, "labels": labels, "key": key, "bad_images": bad_images}

    def seeded(self, key: ViewKey) -> contextlib.AbstractContextManager[None]:
        """The random streams of a key's view."""
        return seeded(self.seed, _STREAM, key.epoch, key.sample, key.repeat)


class EvaluationViews(Dataset):
    """The one evaluation view of each image, by index."""

    def __init__(self, images: ImageDataset, view: View):
        self.images, self.view = images, view

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.images.image(index)
        with _named_view(index, image):
            return {"pixel_values": self.view(image), "labels": self.images.labels[index]}


@contextlib.contextmanager
def _named_view(index: int, image: Image) -> Iterator[None]:
    """Gives an error of a transform the row and size of the picture that it met."""
    try:
        yield
    except Exception as error:
        raise RuntimeError(
            f"row {index} of the dataset, {image.width}x{image.height} pixels: its view failed with "
            f"{type(error).__name__}: {error}"
        ) from error


class ViewCollator:
    """Batches views; training views are mixed on the way.

    Returns `pixel_values` (B, channels, height, width), `labels` (B,) or, with several right labels, (B, K), and for
    mixed views `mix_ratios` (B,): the share that each image kept, its partner being its neighbour (mixing.py). Where
    bad images were replaced, `bad_images` lists them (bad_images.py).
    """

    def __init__(self, mixing: Mixing):
        self.mixing = mixing

    def __call__(self, views: list[dict[str, Any]]) -> dict[str, Any]:
        pixel_values = torch.stack([view["pixel_values"] for view in views])  # (B, channels, height, width)
        labels = np.asarray([view["labels"] for view in views], dtype=np.int64)  # (B,) or (B, K)
        batch: dict[str, Any] = {"pixel_values": pixel_values, "labels": torch.from_numpy(labels)}
        bad_images = [bad for view in views for bad in view.get("bad_images", ())]
        if bad_images:
            batch["bad_images"] = bad_images
        if "key" in views[0] and self.mixing.is_on:
            positions = [view["key"].position for view in views]
            batch["pixel_values"], batch["mix_ratios"] = self.mixing(pixel_values, views[0]["key"].epoch, positions)
        return batch
