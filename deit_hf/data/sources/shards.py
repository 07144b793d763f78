"""Where streamed rows come from: the shards of a dataset, parquet files or webdataset tars, on the Hub or on disk.

Here they are found and counted, not read. How they are read is in streaming.py.
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

from .untrusted_rows import said_by_cause

COUNTING_THREADS = 16  # footers of parquet files read at the same time


@dataclass(frozen=True)
class ShardedRows:
    """A stream, and what is known of its shards before they are read.

    Attributes:
        rows: all of them in their own order, not shuffled and not split among processes: streaming.py does both.
        lengths: how many rows to use of each shard, its first ones; None uses all, whose number is not known.
        names: of the shards, for errors; None counts them from 0.
    """

    rows: datasets.IterableDataset
    lengths: Sequence[int] | None = None
    names: Sequence[str] | None = None


class ShardedSplits:
    """The splits of a dataset in shards.

    Attributes:
        names: of the splits.

    Raises:
        FileNotFoundError: no such dataset.
        ValueError: its images are files of their own.
    """

    def __init__(self, dataset_name: str, dataset_config_name: str | None):
        if Path(dataset_name).is_dir():
            dataset_name = str(Path(dataset_name).resolve())  # `datasets` takes a folder `parquet` for its own builder
        with said_by_cause(dataset_name):
            self._builder: Any = datasets.load_dataset_builder(dataset_name, dataset_config_name)
        if self._builder.name == "imagefolder":
            raise ValueError(
                f"`streaming` reads shards, but `{dataset_name}` holds an image in each file; leave `streaming` out: "
                "such images are read one by one when they are needed"
            )
        self._told_features = self._builder.info.features  # by the dataset's card; else the files of a split tell
        self._streams = self._builder.as_streaming_dataset()
        self.names = list(self._streams)

    def files(self) -> list[str]:
        """The shards of all splits."""
        return [str(file) for files in self._builder.config.data_files.values() for file in files]

    def stream(self, split: str, max_samples: int | None) -> ShardedRows:
        """The split to read in order; of `max_samples` rows at most, the first ones of each shard."""
        rows, files = self._streams[split], [str(file) for file in self._builder.config.data_files[split]]
        lengths = None
        if all(file.endswith(".parquet") for file in files):
            with ThreadPoolExecutor(COUNTING_THREADS) as pool:
                lengths = list(pool.map(_count_parquet_rows, files))
        if max_samples is not None:
            lengths = spread(max_samples, [max_samples] * len(files) if lengths is None else lengths)
        return ShardedRows(rows, lengths, files)

    def load(self, split: str) -> datasets.Dataset:
        """The split by index, and no other: `load_dataset` of the whole would fetch and write them all."""
        files = {split: list(self._builder.config.data_files[split])}
        return datasets.load_dataset(self._builder.name, data_files=files, split=split, features=self._told_features)


def check_same_classes(files: Iterable[str], label_column_name: str) -> None:
    """Refuses parquet files of one dataset that count the same labels as different classes.

    `datasets` reads all files with the classes of the first one, and says nothing of the others'.

    Args:
        files: paths or URLs; those that are no parquet files tell no classes.
        label_column_name: column of labels.

    Raises:
        ValueError: names two files and their first different class.
    """
    parquet_files = [file for file in files if file.endswith(".parquet")]
    with ThreadPoolExecutor(COUNTING_THREADS) as pool:
        names = list(pool.map(partial(_stored_class_names, column=label_column_name), parquet_files))
    told = [(file, its) for file, its in zip(parquet_files, names, strict=True) if its is not None]
    for file, its in told[1:]:
        if its != told[0][1]:
            pairs = itertools.zip_longest(told[0][1], its)
            index, (first, other) = next((index, pair) for index, pair in enumerate(pairs) if pair[0] != pair[1])
            raise ValueError(
                f"class {index} of column `{label_column_name}` is {first!r} in `{told[0][0]}` but {other!r} in "
                f"`{file}`; write all files with the same `ClassLabel`, or put the parts into directories of their own"
            )


def _stored_class_names(file: str, column: str) -> list[str] | None:
    with fsspec.open(file, "rb") as opened:
        features = datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(opened))
    return list(features[column].names) if isinstance(features.get(column), datasets.ClassLabel) else None


def _count_parquet_rows(file: str) -> int:
    with fsspec.open(file, "rb") as opened:
        return int(pyarrow.parquet.read_metadata(opened).num_rows)


def spread(num_rows: int, lengths: Sequence[int]) -> list[int]:
    """So many rows of shards of these lengths, as evenly as they allow; all rows where there are not so many."""
    shares, left = [0] * len(lengths), num_rows
    for place, shard in enumerate(sorted(range(len(lengths)), key=lengths.__getitem__)):
        shares[shard] = min(lengths[shard], left // (len(lengths) - place))
        left -= shares[shard]
    return shares


def check_features(rows: datasets.IterableDataset, image_column_name: str, label_column_name: str) -> None:
    """Refuses a stream without the columns of a training.

    Raises:
        TypeError: labels that are not class indices.
        ValueError: a missing column, or columns that are not known.
    """
    if rows.features is None:
        raise ValueError("the stream does not tell its columns; give it `features`, such as `map(..., features=...)`")
    for name in (image_column_name, label_column_name):
        if name not in rows.features:
            raise ValueError(
                f"the stream has no column `{name}`, only {', '.join(rows.features)}; name the columns with "
                "`image_column_name` and `label_column_name` (in webdataset tars they are file endings: jpg, cls)"
            )
    feature = rows.features[label_column_name]
    if "int" not in getattr(feature, "dtype", ""):
        raise TypeError(
            f"column `{label_column_name}` of the stream holds {feature}, but labels must be class indices: which "
            "names there are is not known before all is read; store indices, set `label_column_name` to a column "
            "that has them, or leave out `streaming`"
        )


def count_images(sharded: ShardedRows, given: int | None) -> int:
    """Rows in an epoch: as given, else as the shards or the dataset's own facts say.

    Raises:
        ValueError: more are given than there are, or the number is not known.
    """
    known = None if sharded.lengths is None else sum(sharded.lengths)
    if given is not None and known is not None and given > known:
        raise ValueError(f"`num_train_samples` is {given}, but the stream has {known} rows; lower it or leave it out")
    if known is None and sharded.rows.info.splits and sharded.rows.split in sharded.rows.info.splits:
        known = sharded.rows.info.splits[sharded.rows.split].num_examples
    number = known if given is None else given
    if number is None:
        raise ValueError(
            "how many rows the stream has is not known before all is read, but an epoch must have the same number of "
            "steps on all processes; say how many with `num_train_samples`"
        )
    return number
