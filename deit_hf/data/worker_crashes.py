"""Which picture a data worker was at when it died: torch names the process alone."""

import contextlib
import multiprocessing
import os
import re
import time
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import get_worker_info

SECONDS_FOR_THE_SIGNAL = 1.0
_NUM_SLOTS = 1024  # workers of a process whose notes are kept apart
_CRASH = re.compile(r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\) (?P<end>.*)")


class WorkerNotes:
    """The row that each data worker took up last, in memory that the main process shares."""

    def __init__(self) -> None:
        self._slots = torch.full((_NUM_SLOTS, 2), -1).share_memory_()  # process, row

    def take_up(self, row: int) -> None:
        """Notes a row, if this is a data worker."""
        worker = get_worker_info()
        if worker is not None:
            self._slots.numpy()[worker.id % _NUM_SLOTS] = os.getpid(), row

    def last_row(self, process: int) -> int | None:
        """The row that a worker took up last, None if it took up none."""
        rows = self._slots[self._slots[:, 0] == process, 1]
        return int(rows[0]) if len(rows) else None

    def processes(self) -> list[int]:
        """The workers that took up anything."""
        return [int(process) for process in self._slots[:, 0] if process >= 0]


@contextlib.contextmanager
def named_crashes(*views: Any) -> Iterator[None]:
    """Gives torch's error of a data worker that died the row and the file that it was at.

    Args:
        views: the data sets of the loaders whose workers may die: `TrainingViews`, `EvaluationViews`, several of them
            by name, or None.

    Raises:
        ChildProcessError: a data worker died.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
        said = _said_by_torch(error)
        if said is None:
            raise
        crash = _CRASH.search(said)
        processes = _processes_that_ended(views) if crash is None else [int(pid) for pid in crash["pids"].split(",")]
        what = f"(pid {crash['pids']}) {crash['end'].partition('.')[0]}" if crash else f"broke its connection ({said})"
        raise ChildProcessError(
            f"data worker {what}; {_last_images(processes, views)}. If it was killed or met a bus error, it ran out "
            "of memory, or of shared memory (/dev/shm; `--shm-size` of docker): set a smaller "
            "`dataloader_num_workers` or `dataloader_prefetch_factor`. Anything else: look at this image"
        ) from error


def _said_by_torch(error: Exception) -> str | None:
    """What torch says of a data worker that died; None if the error is about something else.

    It may come at any moment, from a signal handler; the worker's connection may break a moment before.
    """
    if isinstance(error, RuntimeError):
        return str(error) if _CRASH.search(str(error)) else None
    frames = traceback.walk_tb(error.__traceback__)
    if "Caught" in str(error) or not any("dataloader" in frame.f_code.co_filename for frame, _ in frames):
        return None  # a worker's own error, or no worker's
    try:
        time.sleep(SECONDS_FOR_THE_SIGNAL)
    except RuntimeError as late:
        return str(late)
    return " ".join(str(error).split()) or type(error).__name__


def _processes_that_ended(views: Iterable[Any]) -> list[int]:
    running = {process.pid for process in multiprocessing.active_children()}
    return [pid for part in _parts(views) for pid in part.images.worker_notes.processes() if pid not in running]


def _last_images(processes: Iterable[int], views: Iterable[Any]) -> str:
    found = [
        part.images.place(row)
        for part in _parts(views)
        for process in processes
        if (row := part.images.worker_notes.last_row(process)) is not None
    ]
    return f"the last image that it took up is {' and '.join(found)}" if found else "which image it was at is unknown"


def _parts(views: Iterable[Any]) -> list[Any]:
    by_name = [part if isinstance(part, dict) else {"": part} for part in views if part is not None]
    return [part for parts in by_name for part in parts.values()]
