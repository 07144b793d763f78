"""Finds the shards of a dataset to stream: parquet files or webdataset tars, on the Hub or on disk.

This module finds shards and counts their rows; streaming.py reads the rows.
"""

import itertools
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow.parquet

from .untrusted_rows import explained_by_cause

COUNTING_THREADS = 16  # threads that read the footers of parquet files


@dataclass(frozen=True)
class ShardedRows:
    """A stream, and what is known about its shards before they are read.

    Attributes:
        rows: all rows in their own order. streaming.py shuffles them and splits them among processes.
        lengths: number of rows to use of each shard, starting with its first row; None if the numbers are unknown and
            all rows are used.
        names: names of the shards for error messages; None numbers them from 0.
    """

    rows: datasets.IterableDataset
    lengths: Sequence[int] | None = None
    names: Sequence[str] | None = None


class ShardedSplits:
    """The splits of a dataset that is stored in shards.

    Attributes:
        names: names of the splits.

    Raises:
        FileNotFoundError: the dataset does not exist.
        ValueError: the dataset has one file per image instead of shards.
    """

    def __init__(self, dataset_name: str, dataset_config_name: str | None):
        if Path(dataset_name).is_dir():
            # `datasets` would take a folder `parquet` for its builder of that name
            dataset_name = str(Path(dataset_name).resolve())
        with explained_by_cause(dataset_name):
            self._builder: Any = datasets.load_dataset_builder(dataset_name, dataset_config_name)
        if self._builder.name == "imagefolder":
            raise ValueError(
                f"`streaming` reads shards, but `{dataset_name}` has one file per image; leave `streaming` out: such "
                "images are read one by one when they are needed"
            )
        self._card_features = self._builder.info.features  # None: the files of a split define the features
        self._streams = self._builder.as_streaming_dataset()
        self.names = list(self._streams)

    def files(self) -> list[str]:
        """The shards of all splits."""
        return [str(file) for files in self._builder.config.data_files.values() for file in files]

    def stream(self, split: str, max_samples: int | None) -> ShardedRows:
        """The split as a stream; `max_samples` limits it to the first rows of each shard."""
        rows, files = self._streams[split], [str(file) for file in self._builder.config.data_files[split]]
        lengths = None
        if all(file.endswith(".parquet") for file in files):
            with ThreadPoolExecutor(COUNTING_THREADS) as pool:
                lengths = list(pool.map(_count_parquet_rows, files))
        if max_samples is not None:
            lengths = spread(max_samples, [max_samples] * len(files) if lengths is None else lengths)
        return ShardedRows(rows, lengths, files)

    def load(self, split: str) -> datasets.Dataset:
        """Loads this split only, by index; `load_dataset` of the dataset would download and write all splits."""
        files = {split: list(self._builder.config.data_files[split])}
        return datasets.load_dataset(self._builder.name, data_files=files, split=split, features=self._card_features)


def check_same_classes(files: Iterable[str], label_column_name: str) -> None:
    """Checks that all parquet files of a dataset have the same class names in the same order.

    `datasets` reads all files with the classes of the first file, without a warning if others differ.

    Args:
        files: paths or URLs; files that are not parquet files are ignored, because they have no class names.
        label_column_name: column of labels.

    Raises:
        ValueError: two files differ; the message names them and the first class that differs.
    """
    parquet_files = [file for file in files if file.endswith(".parquet")]
    with ThreadPoolExecutor(COUNTING_THREADS) as pool:
        names = list(pool.map(partial(_stored_class_names, column=label_column_name), parquet_files))
    named = [(file, its) for file, its in zip(parquet_files, names, strict=True) if its is not None]
    for file, its in named[1:]:
        if its != named[0][1]:
            pairs = itertools.zip_longest(named[0][1], its)
            index, (first, other) = next((index, pair) for index, pair in enumerate(pairs) if pair[0] != pair[1])
            raise ValueError(
                f"class {index} of column `{label_column_name}` is {first!r} in `{named[0][0]}` but {other!r} in "
                f"`{file}`; write all files with the same `ClassLabel`, or put the parts into separate directories"
            )


def _stored_class_names(file: str, column: str) -> list[str] | None:
    with fsspec.open(file, "rb") as opened:
        features = datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(opened))
    return list(features[column].names) if isinstance(features.get(column), datasets.ClassLabel) else None


def _count_parquet_rows(file: str) -> int:
    with fsspec.open(file, "rb") as opened:
        return int(pyarrow.parquet.read_metadata(opened).num_rows)


def spread(num_rows: int, lengths: Sequence[int]) -> list[int]:
    """Distributes `num_rows` over shards as evenly as their lengths allow; all rows if there are fewer."""
    shares, left = [0] * len(lengths), num_rows
    for place, shard in enumerate(sorted(range(len(lengths)), key=lengths.__getitem__)):
        shares[shard] = min(lengths[shard], left // (len(lengths) - place))
        left -= shares[shard]
    return shares


def check_features(rows: datasets.IterableDataset, image_column_name: str, label_column_name: str) -> None:
    """Checks that a stream has an image column, and a label column of class indices.

    Raises:
        TypeError: labels are not class indices.
        ValueError: a column is missing, or the columns are unknown.
    """
    if rows.features is None:
        raise ValueError("the columns of the stream are unknown; add `features`, such as `map(..., features=...)`")
    for name in (image_column_name, label_column_name):
        if name not in rows.features:
            raise ValueError(
                f"the stream has no column `{name}`, only {', '.join(rows.features)}; name the columns with "
                "`image_column_name` and `label_column_name` (in webdataset tars they are file extensions: jpg, cls)"
            )
    feature = rows.features[label_column_name]
    if "int" not in getattr(feature, "dtype", ""):
        raise TypeError(
            f"column `{label_column_name}` of the stream holds {feature}, but labels must be class indices, because "
            "the class names are unknown before the whole stream is read; store indices, set `label_column_name` to a "
            "column of indices, or leave out `streaming`"
        )


def count_images(sharded: ShardedRows, given: int | None) -> int:
    """Number of rows in an epoch: `given`, or that of the shards, or that in the dataset's own information.

    Raises:
        ValueError: `given` is more than there are rows, or the number is unknown.
    """
    known = None if sharded.lengths is None else sum(sharded.lengths)
    if given is not None and known is not None and given > known:
        raise ValueError(f"`num_train_samples` is {given}, but the stream has {known} rows; lower it or leave it out")
    if known is None and sharded.rows.info.splits and sharded.rows.split in sharded.rows.info.splits:
        known = sharded.rows.info.splits[sharded.rows.split].num_examples
    number = known if given is None else given
    if number is None:
        raise ValueError(
            "the number of rows in the stream is unknown before all rows are read, but an epoch must have the same "
            "number of steps on all processes; set it with `num_train_samples`"
        )
    return number
