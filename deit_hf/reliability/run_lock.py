"""Allows one run at a time in a directory, by a lock that the operating system releases when the process ends."""

import contextlib
import errno
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from .disk_faults import advice_of, check_writable

logger = logging.getLogger(__name__)

LOCK, HOLDER = ".run-lock", ".run-holder.json"
# Seconds. Data workers of a killed run can hold its lock until they notice its end, at most 5 s.
WORKERS_LEAVE_AFTER = 15.0
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}

T = TypeVar("T")


@contextlib.contextmanager
def run_lock(output_dir: str | Path, state: PartialState, *, option: str = "output_dir") -> Iterator[None]:
    """Holds the lock of the directory of a run; the first process of the run takes it for all processes.

    The operating system provides the lock (`flock`, on Windows `msvcrt.locking`), and releases it when the process
    ends in any way, even by SIGKILL. The lock works between the processes of a machine. Between machines it works if
    the shared file system supports `flock`: NFS since Linux 2.6.12, Lustre when mounted with `flock`. Other file
    systems lock within each machine only, or refuse the lock, which logs a warning. A process may take the lock twice.

    Args:
        output_dir: created if it does not exist, and removed again if it is still empty at the end.
        state: the processes of the run. All call this function.
        option: the option that names the directory, for messages.

    Raises:
        ValueError: another run holds the lock; raised in all processes, names the directory and the holder.
    """
    held = decided_by_first(lambda: _take(Path(output_dir), option), state, keep=True)
    try:
        yield
    finally:
        if held is not None:
            _give_back(*held)


def decided_by_first(decide: Callable[[], T], state: PartialState, *, keep: bool = False) -> T | None:
    """Calls `decide` in the first process; all processes return its result or raise its error, so none waits.

    Args:
        decide: called in the first process only.
        state: the processes.
        keep: whether only the first process gets the result, and the others get None.
    """
    result: T | None = None
    outcome: list[Any] = [None, None]
    if state.is_main_process:
        try:
            result = decide()
            outcome[0] = None if keep else result
        except Exception as error:  # any error, because the other processes wait for the outcome
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return result if state.is_main_process else outcome[0]


def _take(output_dir: Path, option: str) -> tuple[FileLock, Path, list[Path]] | None:
    """Takes the lock; None if this process already holds it, or if the file system has no locks.

    Returns:
        The lock, its directory, and the directories that were created for it.
    """
    made = [path for path in (output_dir, *output_dir.parents) if not path.exists()]
    check_writable(output_dir, option=option)
    lock = FileLock(output_dir.resolve() / LOCK, is_singleton=True)
    if lock.is_locked:
        return None
    holder = _holder(output_dir)
    try:
        lock.acquire(timeout=WORKERS_LEAVE_AFTER if _is_gone(holder) else 0)
    except Timeout:
        raise ValueError(
            f"`{option}` {output_dir} is in use by another run: {_in_words(_holder(output_dir))}; wait until it "
            "ends, or name another one"
        ) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise type(error)(
                f"`{option}` {output_dir} cannot be written to: {error.strerror}; name another one"
            ) from error
        logger.warning(
            "the file system of %s has no locks, so a second run there would not be refused; start only one",
            output_dir,
        )
        return None
    own = {"host": socket.gethostname(), "pid": os.getpid(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    try:
        (output_dir / HOLDER).write_text(json.dumps(own), encoding="utf-8")
    except OSError as error:
        lock.release()
        raise type(error)(
            f"`{option}` {output_dir} cannot be written to: {error.strerror}; {advice_of(error, output_dir)}"
        ) from error
    return lock, output_dir, made


def _give_back(lock: FileLock, output_dir: Path, made: list[Path]) -> None:
    (output_dir / HOLDER).unlink(missing_ok=True)
    if made and output_dir.is_dir() and {path.name for path in output_dir.iterdir()} <= {LOCK}:
        # a refused run leaves no file; other runs keep the lock file, because a process may be waiting for the lock
        (output_dir / LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another process has written a file there
            for path in made:
                path.rmdir()
    lock.release()


def _holder(output_dir: Path) -> dict[str, Any]:
    """The record that the last holder wrote; empty if it has released the lock or has not written it yet."""
    try:
        return dict(json.loads((output_dir / HOLDER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended; False on Windows, which cannot tell.

    There, `os.kill` would end or interrupt the process, and data workers do not inherit the lock.
    """
    if holder.get("host") != socket.gethostname() or os.name == "nt":
        return False
    try:
        os.kill(int(holder.get("pid", 0)), 0)  # sends nothing: signal 0 only checks that the process exists
    except OSError as error:
        return error.errno == errno.ESRCH  # EPERM: another user's process
    return False


def _in_words(holder: dict[str, Any]) -> str:
    if not holder:
        return "a process that has just started"
    return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
