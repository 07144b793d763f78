"""Datasets that turn a key into a view: pixels and a label. Equal keys give equal views.

The input is a `datasets.Dataset` with an image column and a label column. sampling.py decides the order of the keys.
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ..model.labels import check_label_feature
from .decoding import Decoded, ImageRow, decode_image, first_decodable, path_of
from .mixing import Mixing, kept_shares
from .sampling import ViewKey
from .transforms import TrainingView, View, size_of

ROWS_AT_ONCE = (
    16  # read in one call, which takes a quarter of the time; a whole batch of photos could need much memory
)
_STREAM = 0  # separates the random numbers of the views from those of mixing.py and sampling.py


class ImageDataset:
    """Images and labels by index; columns and labels are checked before training starts.

    Attributes:
        num_classes: number of classes; labels are in [0, num_classes).
        labels: (N,), or (N, K) padded with -1 if rows may have several correct labels, or None for rows without
            labels.

    Raises:
        TypeError: the dataset is not a map-style `datasets.Dataset`, or labels are not integers.
        ValueError: a column is missing, there are no rows, or a label is outside [0, num_classes).
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        *,
        image_column_name: str,
        label_column_name: str | None,
        num_classes: int,
        several_labels: bool = False,
        label_indices: Sequence[int] | None = None,
    ):
        """Reads and checks all labels. Reads no image.

        Args:
            dataset: rows with an image and a label.
            image_column_name: column of images.
            label_column_name: column of labels, or None for prediction without labels.
            num_classes: number of classes of the model.
            several_labels: whether a row may have a list of labels, all of them correct.
            label_indices: the model's class index for each class of the data (from `match_labels`); None if both
                count the classes in the same way.
        """
        if not isinstance(dataset, datasets.Dataset):
            raise TypeError(
                f"the dataset is a {type(dataset).__name__}, but must be a `datasets.Dataset`; for other sources use "
                "`datasets.Dataset.from_list` or `from_generator` (only training rows can be a stream)"
            )
        for name in (image_column_name, label_column_name):
            if name is not None and name not in dataset.column_names:
                raise ValueError(
                    f"the dataset has no column `{name}`, only {', '.join(dataset.column_names)}; "
                    "name the columns with `image_column_name` and `label_column_name`"
                )
        if len(dataset) == 0:
            raise ValueError("the dataset has no rows; check the split and `max_train_samples`/`max_eval_samples`")
        _check_no_transform(dataset)
        dataset = dataset.with_format(None)  # a user's format would change the types of the rows
        self.num_classes = num_classes
        self.labels: np.ndarray | None = None
        if label_column_name is not None:
            num_in_data = num_classes if label_indices is None else len(label_indices)
            labels = _checked_labels(dataset, label_column_name, num_in_data, several_labels)
            # the padding stays -1
            self.labels = labels if label_indices is None else np.append(label_indices, -1)[labels]
        rows = dataset.select_columns([image_column_name])
        if isinstance(dataset.features[image_column_name], datasets.Image):
            rows = rows.cast_column(image_column_name, datasets.Image(decode=False))
        self._rows, self._image_column_name = rows, image_column_name

    def __len__(self) -> int:
        return len(self._rows)

    def class_counts(self) -> list[int] | None:
        """Number of images of each class, (num_classes,), or None if images have several labels or none."""
        if self.labels is None or self.labels.ndim > 1:
            return None
        counts: list[int] = np.bincount(self.labels, minlength=self.num_classes).tolist()
        return counts

    def rows(self, indices: Sequence[int]) -> Iterator[ImageRow]:
        """The rows of some indices, with undecoded images; reads several in one call."""
        for start in range(0, len(indices), ROWS_AT_ONCE):
            part = list(indices[start : start + ROWS_AT_ONCE])
            for index, source in zip(part, self._rows[part][self._image_column_name], strict=True):
                label = None if self.labels is None else self.labels[index]
                yield ImageRow(index, source, label, f"row {index} of the dataset", (index, path_of(source)))

    def rows_from(self, index: int) -> Iterator[ImageRow]:
        """All rows once, from row `index` to the last one and then from row 0."""
        return (next(self.rows([(index + step) % len(self)])) for step in range(len(self)))

    def source(self, index: int) -> Any:
        """The undecoded image of row `index`, as `decode_image` takes it."""
        return self._rows[index][self._image_column_name]


def _check_no_transform(dataset: datasets.Dataset) -> None:
    if dataset.format["type"] == "custom":
        raise ValueError(
            "the dataset has a transform (`with_transform` or `set_transform`), which would have no effect because "
            "views are made from the stored images; remove it with `dataset.with_format(None)`, and configure the "
            "views with `random_augment`, `crop_mode` and the other options, or change the images with `dataset.map`"
        )


def _checked_labels(dataset: datasets.Dataset, name: str, num_classes: int, several: bool) -> np.ndarray:
    check_label_feature(dataset.features[name], name, several=several)
    column = dataset.select_columns([name])
    if getattr(dataset.features[name], "feature", None) is not None:
        return _checked_label_lists(column[:][name], num_classes)
    labels = np.asarray(column.with_format("numpy")[:][name])
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise TypeError(f"column `{name}` has rows without a label; remove them, for example with `dataset.filter`")
    _check_range(labels, np.arange(len(labels)), num_classes)
    return labels.astype(np.int64)


def _checked_label_lists(lists: list[list[int]], num_classes: int) -> np.ndarray:
    """Labels (N, K), padded with -1; K is the largest number of labels in a row."""
    empty = next((row for row, labels in enumerate(lists) if not labels or None in labels), None)
    if empty is not None:
        raise ValueError(f"row {empty} has labels {lists[empty]}; remove rows without labels")
    lists = [sorted(set(labels)) for labels in lists]
    sizes = [len(labels) for labels in lists]
    rows, places = np.repeat(np.arange(len(lists)), sizes), np.concatenate([np.arange(size) for size in sizes])
    labels = np.concatenate(lists).astype(np.int64)
    _check_range(labels, rows, num_classes)
    padded = np.full((len(lists), max(sizes)), -1)
    padded[rows, places] = labels
    return padded


def _check_range(labels: np.ndarray, rows: np.ndarray, num_classes: int) -> None:
    """Raises a ValueError that names the first label outside the classes and its row."""
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        raise ValueError(
            f"row {rows[outside[0]]} has label {labels[outside[0]]}, but there are {num_classes} classes, so "
            f"labels must be in [0, {num_classes - 1}] ({len(outside)} such rows); set `num_labels` or fix the data"
        )


@contextlib.contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seeds the global random generators of python, numpy and torch, and restores their states at the end.

    Image transforms draw from these generators. A data worker's generators are not restored (see
    `_restored_generators`).
    """
    with _restored_generators():
        _seed_generators(*entropy)
        yield


@contextlib.contextmanager
def _restored_generators() -> Iterator[None]:
    """Restores the states of the global random generators at the end, which takes longer than seeding them.

    A data worker's generators are not restored: nothing else draws from them.
    """
    if get_worker_info() is not None:
        yield
        return
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _seed_generators(*entropy: int) -> None:
    # numpy makes an array of integers word by word, which takes longer
    array = np.array(entropy, np.uint32) if max(entropy) < 2**32 else entropy
    words = np.random.SeedSequence(array).generate_state(4)
    random.seed(int(words[0]) << 32 | int(words[1]))
    np.random.seed(words[2])
    torch.default_generator.manual_seed(int(words[3]))


class TrainingViews(Dataset):
    """Random views by key, as uint8 pixels; a view is a pure function of (seed, epoch, sample, repeat).

    With `skip_bad_images`, a row whose image cannot be decoded is replaced by the next row whose image can. Epoch,
    position and repeat stay the same, so the view is still a function of its key.
    """

    def __init__(self, images: ImageDataset, view: TrainingView, *, seed: int, skip_bad_images: bool = False):
        self.images, self.view, self.seed, self.skip_bad_images = images, view, seed, skip_bad_images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: ViewKey) -> dict[str, Any]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[ViewKey]) -> list[dict[str, Any]]:
        """The views of a batch, which torch's `DataLoader` takes; faster than one by one."""
        views, start = [], time.perf_counter()
        with _restored_generators():
            for key, rows in zip(keys, self.rows_from(keys), strict=True):
                view = self._view(key, rows)
                end = time.perf_counter()
                views.append({**view, "seconds": end - start})
                start = end
        return views

    def _view(self, key: ViewKey, rows: Iterator[ImageRow]) -> dict[str, Any]:
        row, image, bad_images = first_decodable(rows, skip_bad_images=self.skip_bad_images)
        key = ViewKey(key.epoch, key.position, row.sample, key.repeat)
        _seed_generators(*self.entropy(key))
        with _named_view(row.where, image):
            pixels, erasure = self.view(image)
        return {"pixels": pixels, "erasure": erasure, "labels": row.label, "key": key, "bad_images": bad_images}

    def rows_from(self, keys: Sequence[ViewKey]) -> Iterator[Iterator[ImageRow]]:
        """For each key its row, followed by the rows that may replace it."""
        for row in self.images.rows([key.sample % len(self.images) for key in keys]):
            yield chain([row], islice(self.images.rows_from(row.sample), 1, None))

    def some_keys(self, number: int) -> list[Any]:
        """Keys of views of epoch 0 of random images, of each image once if there are enough; equal in each call."""
        order = np.random.default_rng(self.seed).permutation(len(self)).tolist()
        return [ViewKey(0, i, order[i % len(order)], i // len(order)) for i in range(number)]

    def entropy(self, key: ViewKey) -> tuple[int, ...]:
        """Seeds the random generators for the view of a key (`seeded`)."""
        return self.seed, _STREAM, key.epoch, key.sample, key.repeat


class EvaluationViews(Dataset):
    """Evaluation views by index, one for each image."""

    def __init__(self, images: ImageDataset, view: View):
        self.images, self.view = images, view

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The views of a batch, which torch's `DataLoader` takes; faster than one by one."""
        return [self._view(row) for row in self.images.rows(indices)]

    def _view(self, row: ImageRow) -> dict[str, Any]:
        image = decode_image(row.source, row.where)
        with _named_view(row.where, image):
            view = {"pixel_values": self.view(image)}
        return view if row.label is None else {**view, "labels": row.label}


@contextlib.contextmanager
def _named_view(where: str, image: Decoded) -> Iterator[None]:
    """Adds the row and the image size to the error of a transform."""
    try:
        yield
    except Exception as error:
        width, height = size_of(image)
        raise RuntimeError(
            f"{where}, {width}x{height} pixels: its view failed with {type(error).__name__}: {error}"
        ) from error


class ViewCollator:
    """Collates views into a batch, and draws how training views are mixed; finishing.py mixes them on the device.

    A batch of evaluation views has `pixel_values`, (B, channels, height, width). A batch of training views has:
        - `pixels`: uint8, (B, channels, height, width).
        - `erasures`: the box to erase in each view, or None.
        - `mixes`, `mix_ratios`: only if views are mixed: parts of the batch and how they are mixed, and the share of
          itself that each image keeps, (B,). Neighbours are partners (mixing.py).
        - `epoch`, `positions`: of the views in the epoch.
        - `checksums`: of the pixels of each view, if wanted.
        - `bad_images`: only if bad images were replaced: a list of them (bad_images.py).
        - `seconds`: time that it took to make the views.

    Both have `labels`: (B,), or (B, K) if images may have several correct labels; absent for rows without labels.
    """

    def __init__(self, mixing: Mixing | None, checksum: Callable[[Tensor, int], int] | None = None):
        """
        Args:
            mixing: None if training views are not mixed.
            checksum: of the pixels of a view and its position; None if views need no checksum.
        """
        self.mixing, self.checksum = mixing, checksum

    def __call__(self, views: list[dict[str, Any]]) -> dict[str, Any]:
        name = "pixels" if "pixels" in views[0] else "pixel_values"
        batch: dict[str, Any] = {name: torch.stack([view[name] for view in views])}  # (B, channels, height, width)
        if "labels" in views[0]:
            labels = np.asarray([view["labels"] for view in views], dtype=np.int64)  # (B,) or (B, K)
            batch["labels"] = torch.from_numpy(labels)
        return batch if name == "pixel_values" else {**batch, **self._of_training(views, batch["pixels"])}

    def _of_training(self, views: list[dict[str, Any]], pixels: Tensor) -> dict[str, Any]:
        epoch, positions = views[0]["key"].epoch, [view["key"].position for view in views]
        batch: dict[str, Any] = {"erasures": [view["erasure"] for view in views], "epoch": epoch}
        if self.mixing is not None:
            draws = self.mixing.draws(epoch, positions, (pixels.shape[2], pixels.shape[3]))
            batch |= {"mixes": draws, "mix_ratios": kept_shares(draws)}
        if self.checksum is not None:
            batch["checksums"] = [self.checksum(*each) for each in zip(pixels, positions, strict=True)]
        bad_images = [bad for view in views for bad in view["bad_images"]]
        if bad_images:
            batch["bad_images"] = bad_images
        return {**batch, "positions": positions, "seconds": sum(view["seconds"] for view in views)}
