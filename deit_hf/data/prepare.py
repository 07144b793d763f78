"""Resizes the images of a dataset once, and writes them as parquet shards that a training reads as they are.

Row numbers, labels, class names and other columns stay, so that the number of a sample stays, too. A training decodes
and crops its images in every epoch; smaller ones take less time, and less disk.
"""

import contextlib
import math
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow as pa
import torch
from timm.data import RandomResizedCropAndInterpolation
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..argument_checks import check, check_choice, check_kinds
from .dataset import seeded
from .decoding import BadImageError, decode_for_view
from .fingerprint import spread_places
from .prepare_report import TIMED_SIZE, Estimate, Gain, in_bytes
from .resizing import StoredImage, original_bytes, stored_image
from .shard_files import ShardWriter, check_new_directory, explained_disk_error, written_whole
from .sources.arguments import DataArguments
from .sources.class_folders import part_of
from .sources.load import ImageParts
from .transforms import random_resized_crop

OnBadImage = Literal["error", "keep"]

UNUSED = {
    "label_file": "pass it to the training or evaluation with the prepared data, which has the same names and order",
    "num_labels": "pass it to the training with the prepared data",
    "streaming": "leave it out to load the data, and pass it to the training, which can stream the parquet files",
}
ROWS_PER_TASK = 8
NUM_SAMPLED = 32  # images by which size, time and speed are measured
TIMED_SECONDS = 3.0  # about how long views are timed


@dataclass(frozen=True)
class PrepareOptions:
    """How images are resized and stored.

    Raises:
        TypeError: from the constructor, if a value has the wrong type.
        ValueError: from the constructor, if a value is out of range.
    """

    output_dir: str = field(metadata={"help": "New directory for the parquet files."})
    short_side: int = field(
        default=384, metadata={"help": "Short side in pixels to which larger images are resized; none is enlarged."}
    )
    quality: int = field(default=92, metadata={"help": "JPEG quality of resized images, in [1, 100]."})
    shard_size: int = field(default=500, metadata={"help": "Size of a parquet file in MB, about."})
    num_workers: int | None = field(
        default=None, metadata={"help": "Processes that resize; 0 uses only this one. Default: the number of cores."}
    )
    on_bad_image: OnBadImage = field(
        default="error",
        metadata={
            "help": "What to do with an image that cannot be decoded: error stops; keep stores it as it is, so that "
            "row numbers stay and on_bad_image of the training decides."
        },
    )

    def __post_init__(self) -> None:
        check_kinds(self)
        if not self.output_dir:
            raise ValueError("`output_dir` is empty; name a new directory")
        check("short_side", self.short_side, lambda v: v >= 32, "32 pixels or more")
        check("quality", self.quality, lambda v: 1 <= v <= 100, "in [1, 100]")
        check("shard_size", self.shard_size, lambda v: v >= 1, "1 MB or more")
        check_choice("on_bad_image", self.on_bad_image, ("error", "keep"))
        if self.num_workers is not None:
            check("num_workers", self.num_workers, lambda v: v >= 0, "0 or more")


def check_data_options(data: DataArguments) -> None:
    """Refuses options of the data that a preparation does not use.

    Raises:
        ValueError: names the option and what to do instead.
    """
    for name, reason in UNUSED.items():
        if getattr(data, name):
            raise ValueError(f"`{name}` is {getattr(data, name)}, but is not used here: {reason}")


def prepare_images(
    parts: ImageParts,
    options: PrepareOptions,
    *,
    image_column_name: str = "image",
    sources: Sequence[str | Path] = (),
    say: Callable[[str], None] | None = None,
    worker_init_fn: Callable[[int], None] | None = None,
) -> Gain:
    """Writes all rows, with resized images, as parquet shards to a new directory, which appears when it is complete.

    Args:
        parts: the data, by index.
        options: directory, sizes and processes.
        image_column_name: column of images.
        sources: directories of the data, which must not contain the new one.
        say: gets the estimate, before the work begins.
        worker_init_fn: called in each process that resizes.

    Returns:
        What has changed.

    Raises:
        FileExistsError: the directory exists and is not empty.
        ValueError: an image cannot be decoded, or another process is writing the directory.
        OSError: the disk is too small or cannot be written, or an image cannot be read.
        ChildProcessError: a process that resizes died.
    """
    target = Path(os.path.abspath(options.output_dir))
    check_new_directory(target, sources)
    images = {part: _Images(rows, image_column_name, part, options) for part, rows in parts_to_write(parts).items()}
    num_workers = (os.cpu_count() or 1) if options.num_workers is None else options.num_workers
    with written_whole(target) as aside:
        largest = max(images.values(), key=len)
        start = time.perf_counter()
        sample = [(original_bytes(largest.source(i)), largest[i]) for i in spread_places(len(largest), NUM_SAMPLED)]
        seconds_each = (time.perf_counter() - start) / len(sample)
        gain = Gain({part: len(each) for part, each in images.items()})
        estimate = _estimate([stored for _, stored in sample], sum(gain.rows.values()), seconds_each, num_workers)
        if say is not None:
            say(str(estimate))
        _check_space(estimate, target)
        with tqdm(total=estimate.num_images, unit=" images", disable=None, leave=False, dynamic_ncols=True) as bar:
            for part, each in images.items():
                tasks = _in_order(each, num_workers, worker_init_fn)
                with contextlib.closing(ShardWriter(aside, part, each.schema, options.shard_size * 10**6)) as writer:
                    for first, stored in tasks:
                        for image in stored:
                            _check_good(image, options.on_bad_image)
                            gain.add(image)
                        with explained_disk_error(target):
                            writer.add(each.table(first, stored), sum(image.num_bytes for image in stored))
                        bar.update(len(stored))
                    with explained_disk_error(target):
                        writer.finish()
    gain.views_before, gain.views_after = _speeds([(before, stored.content) for before, stored in sample])
    return gain


def parts_to_write(parts: ImageParts) -> dict[str, datasets.Dataset]:
    """The rows by the name of the written part: train, validation or test."""
    found: dict[str, Any] = {"train": parts.train, "validation": parts.evaluation, "test": parts.test}
    if parts.evaluation is not None and parts.test is None and part_of(parts.names["evaluation"]) == "test":
        found["validation"], found["test"] = None, parts.evaluation
    return {part: rows for part, rows in found.items() if rows is not None}


def _check_good(image: StoredImage, on_bad_image: OnBadImage) -> None:
    if image.kind == "bad" and on_bad_image == "error":
        raise BadImageError(
            f"{image.fault}; nothing was written. To store it as it is, and keep all row numbers: --on_bad_image keep"
        )


def _estimate(sample: list[StoredImage], num_images: int, seconds_each: float, num_workers: int) -> Estimate:
    """Scales the sizes and the time of a few images to all."""
    before, after = sum(image.num_bytes_before for image in sample), sum(image.num_bytes for image in sample)
    scale = num_images / len(sample)
    return Estimate(
        num_images, scale * before, scale * after, num_images * seconds_each / max(num_workers, 1), num_workers
    )


def _check_space(estimate: Estimate, directory: Path) -> None:
    free = shutil.disk_usage(directory.parent).free
    if estimate.bytes_after > free:
        raise OSError(
            f"`{directory}` needs about {in_bytes(estimate.bytes_after)}, but only {in_bytes(free)} are free; free "
            "disk space, name a directory on another disk, or lower `short_side`"
        )


def _speeds(pairs: list[tuple[bytes | None, bytes | None]]) -> tuple[float, float]:
    """Views per second of CPU time from images before and after; both alternate, so that load slows both down."""
    crop = RandomResizedCropAndInterpolation(TIMED_SIZE, interpolation="bicubic")
    seconds, num_views, start = [0.0, 0.0], 0, time.perf_counter()
    while time.perf_counter() - start < TIMED_SECONDS:
        for place, pair in enumerate(pairs):
            with contextlib.suppress(BadImageError, TypeError), seeded(num_views, place):
                times = []
                for content in pair:
                    begin = time.process_time()
                    random_resized_crop(crop, decode_for_view({"bytes": content, "path": None}, ""))
                    times.append(time.process_time() - begin)
                seconds = [total + time_ for total, time_ in zip(seconds, times, strict=True)]
                num_views += 1
        if not num_views:
            break
    return (num_views / seconds[0], num_views / seconds[1]) if all(seconds) else (0.0, 0.0)


# ---- rows ----


class _Images(Dataset):
    """The images of a part by row, as they are stored, and the other columns."""

    def __init__(self, rows: datasets.Dataset, column: str, part: str, options: PrepareOptions):
        if column not in rows.column_names:
            raise ValueError(
                f"the dataset has no column `{column}`, only {', '.join(rows.column_names)}; set `image_column_name`"
            )
        rows = rows.with_format(None)
        features, images = rows.features.copy(), rows.select_columns([column])
        is_image = isinstance(features[column], datasets.Image)
        self._sources = images.cast_column(column, datasets.Image(decode=False)) if is_image else images
        self._others = rows.remove_columns([column]).with_format("arrow")
        features[column] = datasets.Image()
        self.schema = features.arrow_schema
        self._column, self._part, self._options = column, part, options

    def __len__(self) -> int:
        return len(self._sources)

    def source(self, index: int) -> Any:
        """The undecoded image of a row."""
        return self._sources[index][self._column]

    def __getitem__(self, index: int) -> StoredImage:
        where, options = f"row {index} of the {self._part} part", self._options
        return stored_image(self.source(index), where, short_side=options.short_side, quality=options.quality)

    def table(self, first: int, stored: list[StoredImage]) -> pa.Table:
        """Rows from `first` on, with their stored images and their other columns."""
        images = [{"bytes": image.content, "path": image.path} for image in stored]
        columns: dict[str, Any] = {self._column: pa.array(images, self.schema.field(self._column).type)}
        if self._others.column_names:
            others = self._others[first : first + len(stored)]
            columns |= {name: others.column(name) for name in others.column_names}
        return pa.Table.from_arrays([columns[name] for name in self.schema.names], schema=self.schema)


def _in_order(
    images: _Images, num_workers: int, worker_init_fn: Callable[[int], None] | None
) -> Iterator[tuple[int, list[StoredImage]]]:
    """Yields (first row, stored images) in the order of the rows; few of them are in memory at the same time."""
    loader = DataLoader(
        images,
        batch_size=ROWS_PER_TASK,
        collate_fn=list,
        num_workers=min(num_workers, math.ceil(len(images) / ROWS_PER_TASK)),
        worker_init_fn=partial(_init_worker, worker_init_fn),
        generator=torch.Generator().manual_seed(0),  # or it would draw from the global random state
    )
    first = 0
    try:
        for stored in loader:
            yield first, stored
            first += len(stored)
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise ChildProcessError(
            f"a process that resizes images died ({str(error).partition('.')[0]}); if it ran out of memory, lower "
            "`num_workers`, and start the same command again"
        ) from error


def _init_worker(init: Callable[[int], None] | None, worker: int) -> None:
    """Makes a process end with its parent, even if that is killed while a finished image waits in their pipe."""

    def end_with(parent: BaseProcess) -> None:
        parent.join()
        os._exit(1)

    if init is not None:
        init(worker)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=end_with, args=(parent,), daemon=True).start()
