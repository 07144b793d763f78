"""Training views of data that is larger than the disk: rows are read in order from shards, not by index.

The training process reads rows without decoding them, in an order that it derives from the shards. It sends each row
to its data workers as part of the key of a view. So the same guarantees hold as for rows by index (dataset.py,
sampling.py): a view is a pure function of (seed, epoch, sample, repeat), and the order of an epoch is a pure function
of (seed, epoch).

- The sample identifies a row by its shard and its number in the shard. It does not depend on workers or processes.
- The order depends on the data, the seed, the epoch, the size of an optimizer step, `num_streams` and the size of the
  shuffle buffer. The order and the mixing do not depend on the number of workers, or on how a step is split into
  processes, batches and accumulation steps.
- With one stream, every process reads all rows, and decodes only its own. With several streams, a process reads only
  the streams that its batches need. With one stream for each process and accumulation step, no two processes read the
  same stream.
- A row is used at most once per epoch. With repeated augmentation, all its views are in the part of one stream in one
  step, with the exceptions of `ViewSampler`. An epoch has whole steps only, as with rows by index. The rows left over
  differ between epochs. A larger buffer shuffles better.
- A resumed epoch reads the rows before its position again, but does not decode them.
- A bad image is replaced by the next good image of its shard; the shard is read again for this.

Evaluation counts each image exactly once, so evaluation splits are loaded and read by index.
"""

import itertools
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import datasets
import numpy as np

from .dataset import TrainingViews
from .decoding import ImageRow
from .sampling import ViewSampler
from .shuffling import ROWS_AHEAD, deal_shards, read_ahead, shuffled, take_turns
from .sources.shards import ShardedRows, check_features, count_images
from .transforms import TrainingView

MAX_OPEN_SHARDS = 10  # per stream; read in turn, which separates neighbours in a shard even if the buffer is small
SHARD_BITS = 32  # a sample is shard * 2**32 + row in the shard
_STREAM = 3  # separates the random numbers of this module from those of dataset.py, mixing.py and sampling.py


class Row(NamedTuple):
    """A row with its undecoded image."""

    shard: int
    number: int
    source: Any
    label: Any

    @property
    def sample(self) -> int:
        return (self.shard << SHARD_BITS) + self.number


class StreamKey(NamedTuple):
    """A `ViewKey` with its row, or None if the view belongs to another process."""

    epoch: int
    position: int
    sample: int
    repeat: int
    row: Row | None


class ImageStream:
    """Undecoded rows by shard. Checks everything that can be checked before the stream is read.

    Attributes:
        num_shards: at least 1.
        lengths: as in `ShardedRows`.
        num_images: rows in an epoch.

    Raises:
        TypeError: labels are not integers.
        ValueError: a column is missing, or the number of rows is unknown or too large.
    """

    def __init__(
        self,
        sharded: ShardedRows | datasets.IterableDataset,
        *,
        image_column_name: str,
        label_column_name: str,
        num_images: int | None = None,
    ):
        """Checks the columns and counts the rows.

        Args:
            sharded: the rows.
            image_column_name: column of images.
            label_column_name: column of labels.
            num_images: rows in an epoch, for a stream of unknown length or to use fewer rows.
        """
        if isinstance(sharded, datasets.IterableDataset):
            sharded = ShardedRows(sharded)
        rows = sharded.rows.with_format(None)  # a user's format would change the types of the rows
        check_features(rows, image_column_name, label_column_name)
        assert rows.features is not None
        is_image = isinstance(rows.features[image_column_name], datasets.Image)
        rows = rows.select_columns([image_column_name, label_column_name])
        self._rows = rows.cast_column(image_column_name, datasets.Image(decode=False)) if is_image else rows
        self._columns = itemgetter(image_column_name, label_column_name)
        self._names = sharded.names
        self.lengths = sharded.lengths
        self.num_shards: int = rows.num_shards
        self.num_images = count_images(sharded, num_images)

    def class_counts(self) -> None:
        """Returns None, because the labels of a stream are unknown before they are read."""
        return

    def read(self, shard: int) -> Iterator[Row]:
        """Yields the used rows of a shard in order, in the training process or in a data worker.

        Raises:
            ValueError: the shard has fewer rows than expected; the message names it.
        """
        rows = self._rows.shard(num_shards=self.num_shards, index=shard)
        length = None if self.lengths is None else self.lengths[shard]
        batches = rows.iter(ROWS_AHEAD)  # a loop over `rows` would split them among data workers
        columns = itertools.chain.from_iterable(zip(*self._columns(batch), strict=True) for batch in batches)
        num_read = 0
        for image, label in itertools.islice(columns, length):
            yield Row(shard, num_read, image, label)
            num_read += 1
        if length is not None and num_read < length:
            raise ValueError(
                f"{self.name(shard)} has {num_read} rows, but should have at least {length}; lower "
                "`max_train_samples`, or fix the shard"
            )

    def after(self, row: Row) -> Iterator[Row]:
        """The other rows in the shard of a row, starting after it and wrapping around; reads the shard again."""
        later = itertools.islice(self.read(row.shard), row.number + 1, None)
        return itertools.chain(later, itertools.islice(self.read(row.shard), row.number))

    def place(self, sample: int) -> str:
        """Name of the row of a sample, for messages."""
        return f"row {sample % 2**SHARD_BITS} of {self.name(sample >> SHARD_BITS)}"

    def name(self, shard: int) -> str:
        return f"shard {shard}" if self._names is None else f"shard {self._names[shard]}"


class StreamViews(TrainingViews):
    """Like `TrainingViews`, for streamed rows.

    Labels are checked here, not by the sampler that reads the stream. With `skip_bad_images`, the next row of the
    shard replaces a row whose image cannot be decoded.
    """

    images: ImageStream  # type: ignore[assignment]  # rows by index in `TrainingViews`

    def __init__(
        self,
        stream: ImageStream,
        view: TrainingView,
        *,
        seed: int,
        num_classes: int,
        skip_bad_images: bool = False,
        label_indices: Sequence[int] | None = None,
    ):
        """`num_classes` and `label_indices` are the same as for `ImageDataset`."""
        self.images, self.view, self.seed, self.skip_bad_images = stream, view, seed, skip_bad_images
        self.label_indices: Sequence[int] = range(num_classes) if label_indices is None else label_indices

    def __len__(self) -> int:
        return self.images.num_images

    def rows_from(self, keys: Sequence[StreamKey]) -> Iterator[Iterator[ImageRow]]:  # type: ignore[override]  # rows in keys
        """For each key its row, followed by the other rows of its shard; the label of each is checked first."""
        return map(self._rows_from, keys)

    def _rows_from(self, key: StreamKey) -> Iterator[ImageRow]:
        if key.row is None:
            raise ValueError(
                "this process got a batch whose rows another process has read; leave `split_batches` and "
                "`dispatch_batches` out of `accelerator_config`"
            )
        for row in itertools.chain([key.row], self.images.after(key.row)):
            where = self.images.place(row.sample)
            _check_label(row, where, len(self.label_indices))
            listed_as = row.number, self.images.name(row.shard)
            yield ImageRow(row.sample, row.source, self.label_indices[row.label], where, listed_as)


def _check_label(row: Row, where: str, num_classes: int) -> None:
    path = row.source.get("path") if isinstance(row.source, dict) else None
    named = f"{where} ({path})" if path else where
    if not isinstance(row.label, int) or isinstance(row.label, bool):
        raise ValueError(f"{named} has label {row.label!r}, but labels must be class indices; fix or remove the row")
    if not 0 <= row.label < num_classes:
        raise ValueError(
            f"{named} has label {row.label}, but there are {num_classes} classes, so labels must be in "
            f"[0, {num_classes - 1}]; set `num_labels` or fix the data"
        )


class StreamSampler(ViewSampler):
    """Yields the view keys of an epoch in global order, with the rows that this process needs.

    The order is a pure function of (seed, epoch). The shards are distributed among `num_streams` streams. Each stream
    interleaves its shards and has its own shuffle buffer. Each optimizer step has the same number of views from each
    stream, one stream after the other.

    Differs from rows by index: the repeats of an image are spread over the part of its stream in a step.

    Attributes:
        stream: the rows.
        num_streams: at least 1.
        buffer_size: rows in the shuffle buffer of each stream.
        batch_size: views of one process in one forward pass.
        process_index: index of this process.
        num_processes: number of processes; batch m of the global order belongs to process m modulo `num_processes`.

    Raises:
        ValueError: there are fewer rows than a step needs, fewer shards than streams, or `num_streams` does not divide
            the step.
    """

    def __init__(
        self,
        stream: ImageStream,
        *,
        num_streams: int,
        buffer_size: int,
        batch_size: int,
        process_index: int,
        num_processes: int,
        **order: int,
    ):
        """`order` are `step_size`, `num_repeats` and `seed` of `ViewSampler`."""
        super().__init__(stream.num_images, **order)
        self.stream = stream
        self.num_streams = num_streams
        self.buffer_size = buffer_size
        self.batch_size = batch_size
        self.process_index = process_index
        self.num_processes = num_processes
        self._check_streams()
        self._shards = deal_shards(stream.num_shards, stream.lengths, num_streams)
        self._num_steps = self._count_steps()

    def _check_streams(self) -> None:
        if self.num_streams > self.stream.num_shards:
            raise ValueError(
                f"`num_streams` is {self.num_streams}, but the data has {self.stream.num_shards} shards; lower it, or "
                "write more shards"
            )
        if self.step_size % self.num_streams:
            raise ValueError(
                f"`num_streams` is {self.num_streams}, which does not divide the {self.step_size} views of an "
                "optimizer step; change it, or `per_device_train_batch_size`"
            )

    def _count_steps(self) -> int:
        """Number of whole steps for which every stream has enough rows."""
        num_steps = self.num_images // self.step_size
        if self.stream.lengths is not None:
            lengths = [sum(self.stream.lengths[shard] for shard in shards) for shards in self._shards]
            num_steps = min(num_steps, min(lengths) // (self.step_size // self.num_streams))
        if num_steps == 0:
            raise ValueError(
                f"the stream has {self.num_images} rows in an epoch, too few for one optimizer step of "
                f"{self.step_size} views from {self.num_streams} streams; lower `per_device_train_batch_size`, "
                "`gradient_accumulation_steps` or `num_streams`, or use more rows"
            )
        return num_steps

    def __len__(self) -> int:
        """Number of views in an epoch: whole steps only."""
        return self._num_steps * self.step_size

    def __iter__(self) -> Iterator[StreamKey]:  # type: ignore[override]  # keys include their rows
        not_here: list[tuple[Row | None, int]] = [(None, 0)] * (self.step_size // self.num_streams)
        needed = self._needed_streams()
        streams: list[Iterator[list[tuple[Row | None, int]]]] = [
            self._parts(stream) if stream in needed else itertools.repeat(not_here)
            for stream in range(self.num_streams)
        ]
        position = 0
        for _ in range(self._num_steps):
            for row, repeat in itertools.chain.from_iterable(map(next, streams)):
                # Accelerate holds the first batches of all processes, so rows of other processes are dropped here
                row = row if self._is_own(position) else None
                yield StreamKey(self.epoch, position, 0 if row is None else row.sample, repeat, row)
                position += 1

    def _is_own(self, position: int) -> bool:
        return position // self.batch_size % self.num_processes == self.process_index

    def _needed_streams(self) -> set[int]:
        own = filter(self._is_own, range(self.step_size))
        return {position * self.num_streams // self.step_size for position in own}

    def _views(self, stream: int) -> Iterator[tuple[Row | None, int]]:
        """Yields (row, repeat) of a stream: all repeats of one row, then of the next; or alternates two rows."""
        rows, num_rows = self._rows(stream), 2 if self.takes_images_in_pairs else 1
        while some := list(itertools.islice(rows, num_rows)):
            yield from ((row, repeat) for repeat in range(self.num_repeats) for row in some)

    def _parts(self, stream: int) -> Iterator[list[tuple[Row | None, int]]]:
        """Yields the (row, repeat) of a stream for each step: all first repeats, all second ones, ...

        If rows alternate in pairs, their order is kept.
        """
        views, size = self._views(stream), self.step_size // self.num_streams
        for step in range(self._num_steps):
            part = list(itertools.islice(views, size))
            if len(part) < size:
                raise ValueError(
                    f"stream {stream} of {self.num_streams} ended in step {step + 1} of {self._num_steps} in an epoch "
                    f"of {self.num_images} rows; set `num_train_samples` to the number of rows that there are, or to "
                    "fewer if the shards have different lengths"
                )
            yield part if self.takes_images_in_pairs else sorted(part, key=itemgetter(1))

    def _rows(self, stream: int) -> Iterator[Row]:
        """Yields the rows of a stream in the order of the epoch."""
        generator = np.random.default_rng((self.seed, _STREAM, self.epoch, stream))
        shards = generator.permutation(self._shards[stream]).tolist()
        rows = take_turns((read_ahead(self.stream.read(shard)) for shard in shards), MAX_OPEN_SHARDS)
        return shuffled(rows, self.buffer_size, generator)
