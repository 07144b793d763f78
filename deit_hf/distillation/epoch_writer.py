"""Writes the answers of an epoch, block by block; a writer that was killed continues with the missing blocks.

Order of writes: rows, sync, bitmap of finished blocks. So a bit is on the disk only after the rows of its block.
"""

import json
import logging
import os
import shutil
import zlib
from contextlib import AbstractContextManager
from typing import BinaryIO

import numpy as np
from safetensors.numpy import save_file

from ..reliability.checkpoints import sync
from ..reliability.disk_faults import explained_write_error
from .answer_format import ANSWER_CHECKSUMS, VIEW_CHECKSUMS, Rows, answer_checksum
from .teacher_cache import STORE, AnswerStore, epoch_name, open_epoch, write_synced

logger = logging.getLogger(__name__)

LESS_SPACE = "store fewer epochs (`teacher_cache_epochs`)"


class EpochWriter:
    """The unfinished file of an epoch. Only one process may write it."""

    def __init__(self, store: AnswerStore, epoch: int):
        """Continues the epoch, or begins it with a file of full size, so that a full disk is found now.

        Raises:
            OSError: the file cannot be written; names the reason and what to do.
            ValueError: the epoch is already finished.
        """
        self.store, self.epoch = store, epoch
        self.path = store.directory / epoch_name(epoch)
        if self.path.exists():
            raise ValueError(f"`{self.path}` is finished; delete it to store epoch {epoch} again")
        self._unfinished = self.path.with_suffix(".unfinished.safetensors")
        self._bitmap = self.path.with_suffix(".blocks")
        done = self._finished_blocks()
        with self._explained():
            self._done = self._begin() if done is None else done
            self._file: BinaryIO = open(self._unfinished, "r+b")  # noqa: SIM115  # until `close`
            self._offsets = _offsets(self._file)

    def missing_blocks(self) -> list[int]:
        """The blocks that are still to be written, in order."""
        return np.flatnonzero(~self._done).tolist()

    def write(self, block: int, rows: Rows, view_checksum: int) -> None:
        """Writes the rows of a block; `flush` makes them last.

        Args:
            block: number of the block.
            rows: the columns of `answer_rows`, with one row for each position of the block.
            view_checksum: sum of the checksums of its views modulo 2**32.

        Raises:
            OSError: the rows cannot be written; names the reason and what to do.
            ValueError: the rows are not those of the block in number, shape or type.
        """
        places = self.store.format.positions(block)
        for name, (dtype, row) in self.store.format.answers.items():
            has, needs = (rows[name].dtype, rows[name].shape), (dtype, (len(places), *row))
            if has != needs:
                raise ValueError(f"`{name}` of block {block} is {has[0]} {has[1]}, but must be {needs[0]} {needs[1]}")
        checksum = answer_checksum(rows, self.store.format, block, view_checksum)
        columns = {name: (places.start, rows[name]) for name in self.store.format.answers}
        for name, value in ((VIEW_CHECKSUMS, view_checksum), (ANSWER_CHECKSUMS, checksum)):
            columns[name] = (block, np.array([value], dtype=np.uint32))
        with self._explained():
            for name, (start, values) in columns.items():
                self._file.seek(self._offsets[name] + start * values.nbytes // len(values))
                self._file.write(np.ascontiguousarray(values).tobytes())
        self._done[block] = True

    def flush(self) -> None:
        """Syncs the rows, then marks their blocks as finished on the disk.

        Raises:
            OSError: they cannot be written; names the reason and what to do.
        """
        with self._explained():
            self._file.flush()
            os.fsync(self._file.fileno())
            bits = np.packbits(self._done).tobytes()
            write_synced(self._bitmap, bits + zlib.crc32(bits).to_bytes(4, "little"))

    def finish(self) -> None:
        """Gives the file its final name.

        Raises:
            OSError: it cannot be written; names the reason and what to do.
            ValueError: blocks are missing.
        """
        if missing := self.missing_blocks():
            raise ValueError(f"epoch {self.epoch} lacks {len(missing)} blocks, the first is {missing[0]}; write them")
        self.flush()
        self._file.close()
        with self._explained():
            os.replace(self._unfinished, self.path)
            sync(self.path.parent)
            self._bitmap.unlink(missing_ok=True)

    def close(self) -> None:
        """Ends an unfinished epoch after `flush`, or without what was written since."""
        self._file.close()

    def _explained(self) -> AbstractContextManager[None]:
        what = f"epoch {self.epoch} of the teacher's answers"
        return explained_write_error(what, self.store.directory, less_space=LESS_SPACE)

    def _finished_blocks(self) -> np.ndarray | None:
        """The finished blocks of an unfinished file, by the bitmap and their checksums; None to begin from zeros."""
        if not self._unfinished.exists():
            return None
        blocks = np.zeros(self.store.format.num_blocks, dtype=bool)
        try:
            file = open_epoch(self._unfinished, self.store, self.epoch)
            stored = self._bitmap.read_bytes() if self._bitmap.exists() else b""
        except (ValueError, OSError) as error:
            logger.warning("`%s` %s; epoch %d is stored from its beginning", self._unfinished, error, self.epoch)
            return None
        bits, checksum = stored[:-4], stored[-4:]
        if len(bits) != -(-len(blocks) // 8) or zlib.crc32(bits).to_bytes(4, "little") != checksum:
            if stored:
                logger.warning("`%s` is damaged; epoch %d is stored from its beginning", self._bitmap, self.epoch)
            return None if stored else blocks
        columns = {name: file.get_tensor(name) for name in self.store.format.columns}
        for block in np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), count=len(blocks))).tolist():
            places = self.store.format.positions(block)
            rows = {name: columns[name][places.start : places.stop] for name in self.store.format.answers}
            checksum_now = answer_checksum(rows, self.store.format, block, int(columns[VIEW_CHECKSUMS][block]))
            blocks[block] = checksum_now == columns[ANSWER_CHECKSUMS][block]
        return blocks

    def _begin(self) -> np.ndarray:
        self._bitmap.unlink(missing_ok=True)
        self.store.directory.mkdir(parents=True, exist_ok=True)
        zeros = {name: np.zeros(shape, dtype) for name, (dtype, shape) in self.store.format.columns.items()}
        try:
            save_file(zeros, self._unfinished, metadata=self.store.metadata(self.epoch))
            shutil.copymode(self.store.directory / STORE, self._unfinished)  # safetensors lets only its owner read it
        except BaseException:
            self._unfinished.unlink(missing_ok=True)  # the room that it takes on a full disk
            raise
        return np.zeros(self.store.format.num_blocks, dtype=bool)


def _offsets(file: BinaryIO) -> dict[str, int]:
    """Where each tensor of a safetensors file begins: 8 bytes length, the header as JSON, the tensors."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}
