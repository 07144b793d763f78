"""Writes rows as parquet shards into a directory that is complete or absent."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
from filelock import FileLock, Timeout

ROWS_PER_GROUP, BYTES_PER_GROUP = 100, 100_000_000  # of a row group, whichever is reached first; 100 as in `datasets`


class ShardWriter:
    """Writes the shards of a part, named like those of `datasets`: train-00000-of-00003.parquet."""

    def __init__(self, directory: Path, part: str, schema: pa.Schema, shard_bytes: int):
        """
        Args:
            directory: for the files.
            part: first word of their names.
            schema: of the rows.
            shard_bytes: bytes of images in a shard, about.
        """
        self._directory, self._part, self._schema, self._shard_bytes = directory, part, schema, shard_bytes
        self._writer: pyarrow.parquet.ParquetWriter | None = None
        self._num_shards = self._num_bytes = 0
        self._group: list[pa.Table] = []
        self._group_rows = self._group_bytes = 0

    def add(self, rows: pa.Table, num_bytes: int) -> None:
        """Adds rows whose images have `num_bytes` together."""
        self._group.append(rows)
        self._group_rows += len(rows)
        self._group_bytes += num_bytes
        if self._group_rows >= ROWS_PER_GROUP or self._group_bytes >= BYTES_PER_GROUP:
            self._write_group()
        if self._num_bytes >= self._shard_bytes:
            self._close_shard()

    def finish(self) -> None:
        """Writes the last rows, and gives the files their final names, which count the shards."""
        self._write_group()
        self._close_shard()
        for index in range(self._num_shards):
            name = f"{self._part}-{index:05d}-of-{self._num_shards:05d}.parquet"
            os.replace(self._file(index), self._directory / name)

    def close(self) -> None:
        """Closes the open file, also after an error."""
        if self._writer is not None:
            with contextlib.suppress(OSError):  # the disk is full
                self._writer.close()
            self._writer = None

    def _write_group(self) -> None:
        if self._group:
            if self._writer is None:
                self._writer = pyarrow.parquet.ParquetWriter(self._file(self._num_shards), self._schema)
            self._writer.write_table(pa.concat_tables(self._group), row_group_size=self._group_rows)
            self._num_bytes += self._group_bytes
            self._group, self._group_rows, self._group_bytes = [], 0, 0

    def _close_shard(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()
            with open(self._file(self._num_shards), "rb+") as file:
                os.fsync(file.fileno())
            self._num_shards, self._num_bytes = self._num_shards + 1, 0

    def _file(self, index: int) -> Path:
        return self._directory / f"{self._part}-{index:05d}.parquet"


def check_new_directory(directory: str | Path, sources: Sequence[str | Path]) -> None:
    """Refuses a directory that exists and is not empty, or that is inside the data.

    Args:
        directory: to be written.
        sources: directories of the data.

    Raises:
        FileExistsError: it is a file, or is not empty.
        ValueError: it is inside the data.
    """
    directory = Path(directory)
    if directory.is_dir() and any(directory.iterdir()):
        raise FileExistsError(f"`{directory}` is not empty; name a new directory, or remove this one")
    if os.path.lexists(directory) and not directory.is_dir():
        raise FileExistsError(f"`{directory}` is a file; name a new directory")
    for source in sources:
        if directory.resolve().is_relative_to(Path(source).resolve()):
            raise ValueError(
                f"`{directory}` is inside the data `{source}` and would become a part of it; name another"
            )


@contextlib.contextmanager
def written_whole(directory: Path) -> Iterator[Path]:
    """Yields a hidden folder next to `directory`, which becomes `directory` if the block ends without an error.

    Otherwise it is deleted. What a killed process has left is deleted by the next one.

    Raises:
        ValueError: another process is writing the same directory.
    """
    aside, lock = (directory.with_name(f".{directory.name}.{word}") for word in ("unfinished", "lock"))
    with explained_disk_error(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock)
        try:
            held.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"another process is writing `{directory}`; wait for it, or name another one") from None
    try:
        with explained_disk_error(directory):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
        yield aside
        with explained_disk_error(directory):
            if directory.exists():  # and is empty
                directory.rmdir()
            os.replace(aside, directory)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        lock.unlink(missing_ok=True)
        held.release()


@contextlib.contextmanager
def explained_disk_error(directory: Path) -> Iterator[None]:
    """Adds to an error of the disk what was not written, and what to do.

    Raises:
        OSError: instead of the error of Python or pyarrow.
    """
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error)
        advice = "free disk space" if is_full else "check its permissions"
        raise OSError(
            f"`{directory}` could not be written: {' '.join(str(error).split())}; nothing is left of it. To repeat, "
            f"{advice} or name a directory on another disk, and start the command again"
        ) from error
