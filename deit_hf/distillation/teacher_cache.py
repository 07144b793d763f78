"""The files of stored teacher answers: a directory with store.json, and a safetensors file for each epoch.

This module knows nothing of a run. answer_format.py has the columns of a file, epoch_writer.py writes one, and
view_checksums.py shows that the views of a run are the stored ones.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..reliability.checkpoints import sync
from ..reliability.disk_faults import explained_write_error
from ..reliability.run_identity import Difference
from .answer_format import ANSWER_CHECKSUMS, BLOCK, VIEW_CHECKSUMS, AnswerFormat, answer_checksum
from .losses import TopLogits

STORE = "store.json"
VERSION = 1
METADATA = "teacher_answers"  # key in the metadata of an epoch
_EPOCH = re.compile(r"epoch-(\d{4,})\.safetensors")


def epoch_name(epoch: int) -> str:
    """Name of the file of a finished epoch."""
    return f"epoch-{epoch:04d}.safetensors"


@dataclasses.dataclass
class AnswerStore:
    """A store of teacher answers. It has one reader: verified blocks are remembered for the epoch that was read last.

    Attributes:
        directory: of the store.
        format: kind and size of the answers.
        fingerprint: what determines views and answers, by name; JSON values.
        facts: what else is known, such as the teacher's name, its top-1, versions and device; JSON values.
    """

    directory: Path
    format: AnswerFormat
    fingerprint: dict[str, Any]
    facts: dict[str, Any]

    def __post_init__(self) -> None:
        """Opens no file yet."""
        self._opened: int | None = None
        self._file: Any = None
        self._verified: set[int] = set()
        self._checksums: list[np.ndarray] = []  # of views and answers, by block

    @classmethod
    def create(
        cls,
        directory: str | os.PathLike,
        answer_format: AnswerFormat,
        fingerprint: Mapping[str, Any],
        facts: Mapping[str, Any],
    ) -> "AnswerStore":
        """Writes store.json, in full or not at all, and returns the store; replaces an existing store.json.

        Raises:
            OSError: it cannot be written; names the reason and what to do.
            TypeError: a value is not of JSON.
        """
        store = cls(Path(directory), answer_format, _plain(fingerprint), _plain(facts))
        with explained_write_error(STORE, directory, less_space="name another directory"):
            store.directory.mkdir(parents=True, exist_ok=True)
            write_synced(store.directory / STORE, store.to_json().encode())
        return store

    @classmethod
    def read(cls, directory: str | os.PathLike) -> "AnswerStore":
        """Opens a store.

        Raises:
            FileNotFoundError: there is no such directory, or no store.json in it.
            ValueError: store.json is damaged, or of another version, or not a store.
        """
        path = Path(directory) / STORE
        if not path.is_file():
            missing = (
                "has no store.json, so it is not a store" if path.parent.is_dir() else "does not exist, as a store"
            )
            raise FileNotFoundError(
                f"`{directory}` {missing} of teacher answers; fill one with deit-hf cache-teacher, or name another "
                "directory"
            )
        try:
            content = dict(json.loads(path.read_text(encoding="utf-8")))
            version, checksum = content["version"], content.pop("sha256")
            if version == VERSION and checksum != _sha256(content):
                raise ValueError("its checksum differs")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"`{path}` is damaged, or not of a store of teacher answers ({type(error).__name__}: {error}); copy "
                "or download the store again, or fill another one with deit-hf cache-teacher"
            ) from error
        if version != VERSION:
            raise ValueError(
                f"`{path}` has format version {version}, but this deit_hf reads version {VERSION}; use the deit_hf "
                "that wrote it, or fill another store with deit-hf cache-teacher"
            )
        parts = content["fingerprint"], content["facts"]
        return cls(Path(directory), AnswerFormat(**content["format"]), *parts)

    def to_json(self) -> str:
        """The text of store.json."""
        content = {"version": VERSION, "format": dataclasses.asdict(self.format)}
        content |= {"fingerprint": self.fingerprint, "facts": self.facts}
        return json.dumps({**content, "sha256": _sha256(content)}, indent=1, ensure_ascii=False) + "\n"

    @property
    def fingerprint_hash(self) -> str:
        """SHA-256 of format and fingerprint, which each epoch of the store has, too."""
        return _sha256([dataclasses.asdict(self.format), self.fingerprint])

    def metadata(self, epoch: int) -> dict[str, str]:
        """The metadata of the file of an epoch: one entry, because safetensors writes several in a random order."""
        values = {"version": VERSION, "epoch": epoch, "num_views": self.format.num_views}
        return {METADATA: json.dumps({**values, "sha256": self.fingerprint_hash})}

    def finished_epochs(self) -> list[int]:
        """The epochs that have a finished file, in order."""
        names = (_EPOCH.fullmatch(path.name) for path in self.directory.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def check(self, wanted: Mapping[str, Any]) -> None:
        """Compares the fingerprint with that of a run.

        Args:
            wanted: fingerprint of the run. What it lacks is not compared, such as the teacher of a run without one.

        Raises:
            ValueError: they differ; names each difference with the stored and the wanted value.
        """
        found = [
            Difference(name, self.fingerprint.get(name), value)
            for name, value in _plain(wanted).items()
            if name not in self.fingerprint or self.fingerprint[name] != value
        ]
        if found:
            raise ValueError(
                f"the answers in `{self.directory}` are to other views, or of another teacher (stored, then wanted): "
                f"{'; '.join(map(str, found))}. Use the stored values, or fill another store with deit-hf "
                "cache-teacher"
            )

    def rows(self, epoch: int, positions: Sequence[int] | Tensor) -> Tensor | TopLogits:
        """Reads answers, and verifies each of their blocks the first time.

        Args:
            epoch: a finished one.
            positions: (B,) in the epoch's global order. Consecutive ones are read at once; others work, too.

        Returns:
            Hard: the classes, int64, (B,). Soft: indices int64 (B, k), logits float16 (B, k), log_normalizer float32
            (B,).

        Raises:
            FileNotFoundError: the store lacks the epoch; names those that it has.
            IndexError: a position is outside the epoch.
            ValueError: the file is damaged; names the block and what to do.
        """
        wanted = np.asarray(positions, dtype=np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self.format.num_views:
            raise IndexError(
                f"positions {wanted.min()} to {wanted.max()} are wanted, but an epoch of `{self.directory}` has "
                f"{self.format.num_views} views"
            )
        self._open(epoch)
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1)
        parts = [self._consecutive(run) for run in runs]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in self.format.answers}
        if self.format.kind == "hard":
            return torch.from_numpy(columns["answers"].astype(np.int64))
        indices = torch.from_numpy(columns["indices"].astype(np.int64))
        return TopLogits(indices, torch.from_numpy(columns["logits"]), torch.from_numpy(columns["log_normalizer"]))

    def verify(self, epochs: Iterable[int]) -> None:
        """Reads the answers of epochs, and compares all checksums.

        Raises:
            FileNotFoundError, ValueError: as for `rows`, for the first epoch that is missing or damaged.
        """
        for epoch in epochs:
            self.rows(epoch, range(self.format.num_views))

    def view_checksums(self, epoch: int) -> np.ndarray:
        """The checksum of the views of each block of an epoch, uint32.

        Raises:
            FileNotFoundError, ValueError: as for `rows`; a damaged checksum is found with the answers of its block.
        """
        self._open(epoch)
        return self._file.get_slice(VIEW_CHECKSUMS)[:]

    def _consecutive(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        if not len(positions):
            return {name: self._file.get_slice(name)[:0] for name in self.format.answers}
        first, last = int(positions[0]), int(positions[-1])
        blocks = range(first // BLOCK, last // BLOCK + 1)
        start = blocks[0] * BLOCK  # whole blocks are read, to verify them
        columns = {
            name: self._file.get_slice(name)[start : self.format.positions(blocks[-1]).stop]
            for name in self.format.answers
        }
        self._verify(columns, [block for block in blocks if block not in self._verified], start)
        return {name: column[first - start : last + 1 - start] for name, column in columns.items()}

    def _verify(self, columns: Mapping[str, np.ndarray], blocks: Iterable[int], start: int) -> None:
        for block in blocks:
            places = self.format.positions(block)
            rows = {name: column[places.start - start : places.stop - start] for name, column in columns.items()}
            views, answers = (int(checksums[block]) for checksums in self._checksums)
            if answer_checksum(rows, self.format, block, views) != answers:
                path = self.directory / epoch_name(self._opened or 0)
                raise ValueError(
                    f"`{path}` is damaged in the block of positions {places.start} to {places.stop - 1} (its checksum "
                    f"differs); {_way_out(path)}"
                )
            self._verified.add(block)

    def _open(self, epoch: int) -> None:
        if self._opened == epoch:
            return
        path = self.directory / epoch_name(epoch)
        if not path.is_file():
            raise FileNotFoundError(self._missing(epoch))
        try:
            file = open_epoch(path, self, epoch)
        except ValueError as error:
            raise ValueError(f"`{path}` {error}; {_way_out(path)}") from error
        self._opened, self._file, self._verified = epoch, file, set()
        self._checksums = [file.get_slice(name)[:] for name in (VIEW_CHECKSUMS, ANSWER_CHECKSUMS)]

    def _missing(self, epoch: int) -> str:
        has = self.finished_epochs()
        runs = np.split(np.array(has), np.flatnonzero(np.diff(has) != 1) + 1) if has else []
        listed = ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
        half = (self.directory / epoch_name(epoch)).with_suffix(".unfinished.safetensors").exists()
        return (
            f"`{self.directory}` has {'only a part of the' if half else 'no'} answers for epoch {epoch} (finished "
            f"epochs, from 0: {listed or 'none'}); run deit-hf cache-teacher with more epochs, or the same again if "
            "it was stopped"
        )


def open_epoch(path: Path, store: AnswerStore, epoch: int) -> Any:
    """Opens the file of an epoch, memory-mapped, and compares its header with the store.

    Raises:
        ValueError: it is damaged, or not of this store and epoch; the message is what follows the name of the file.
    """
    try:
        file: Any = safe_open(path, framework="np")
        names = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except SafetensorError as error:
        raise ValueError(f"is truncated or damaged ({' '.join(str(error).split())})") from error
    found, expected = (_values(each) for each in (file.metadata(), store.metadata(epoch)))
    for name, value in expected.items():
        if found.get(name) != value:
            raise ValueError(f"is not of this store and epoch: its {name} is {found.get(name)}, not {value}")
    for name, (dtype, shape) in store.format.columns.items():
        if name not in names:
            raise ValueError(f"is not of this store: it has no {name}")
        kind = {"f": "F", "u": "U"}[dtype.kind] + str(8 * dtype.itemsize)
        if (names[name].get_dtype(), tuple(names[name].get_shape())) != (kind, shape):
            has = f"{names[name].get_dtype()} {tuple(names[name].get_shape())}"
            raise ValueError(f"is not of this store: {name} is {has}, not {kind} {shape}")
    return file


def _way_out(path: Path) -> str:
    if path.is_symlink():  # in the cache of the Hub, which keeps the content under another name
        return f"delete `{path.resolve()}`, and start again to download it again"
    return "delete that file, and run deit-hf cache-teacher again"


def _values(metadata: dict[str, str] | None) -> dict[str, Any]:
    try:
        return dict(json.loads((metadata or {})[METADATA]))
    except (ValueError, KeyError, TypeError):
        return {}


def write_synced(path: Path, content: bytes) -> None:
    """Writes a small file that is complete or as before, also after a loss of power."""
    aside = path.with_name(f".unfinished-{path.name}")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        aside.unlink(missing_ok=True)  # the room that it takes on a full disk
        raise
    os.replace(aside, path)
    sync(path.parent)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as JSON returns them, such as lists for tuples."""
    return json.loads(json.dumps(dict(values)))


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
