"""One run in a directory at a time: a lock that the operating system takes back from a process that is gone."""

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

from .disk_faults import check_writable

logger = logging.getLogger(__name__)

LOCK, HOLDER = ".run-lock", ".run-holder.json"
WORKERS_LEAVE_AFTER = 15.0  # seconds; data workers of a killed run can hold its lock until they notice, 5 s at most
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}

T = TypeVar("T")


@contextlib.contextmanager
def run_lock(output_dir: str | Path, state: PartialState) -> Iterator[None]:
    """Holds the lock of a run's directory; the first process of the run takes it for all of them.

    The lock is one of the operating system (`flock`), so a process that ends in any way, SIGKILL included, gives it
    back. It holds between the processes of a machine, and between machines as far as their shared file system passes
    `flock` on: NFS does since Linux 2.6.12, Lustre when mounted with `flock`; others keep it within each machine, or
    refuse it, which is a warning. A process may take it twice.

    Args:
        output_dir: made if it is not there, and removed again if it is still empty at the end.
        state: the processes of the run. All call this function.

    Raises:
        ValueError: on all processes, when another run has the lock; names the directory and the holder.
    """
    held = decided_by_first(lambda: _take(Path(output_dir)), state, keep=True)
    try:
        yield
    finally:
        if held is not None:
            _give_back(*held)


def decided_by_first(decide: Callable[[], T], state: PartialState, *, keep: bool = False) -> T | None:
    """What `decide` returns, or raises, in the first process, in all of them; so that none waits for another.

    Args:
        decide: called in the first process only.
        state: the processes.
        keep: what it returns stays in the first process; the others get None.
    """
    result: T | None = None
    outcome: list[Any] = [None, None]
    if state.is_main_process:
        try:
            result = decide()
            outcome[0] = None if keep else result
        except Exception as error:  # of any kind: the others wait for it
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return result if state.is_main_process else outcome[0]


def _take(output_dir: Path) -> tuple[FileLock, Path, list[Path]] | None:
    """The lock, its directory and what was made for it; None for one that this process has already, or cannot have."""
    made = [path for path in (output_dir, *output_dir.parents) if not path.exists()]
    check_writable(output_dir)
    lock = FileLock(output_dir.resolve() / LOCK, is_singleton=True)
    if lock.is_locked:
        return None
    holder = _holder(output_dir)
    try:
        lock.acquire(timeout=WORKERS_LEAVE_AFTER if _is_gone(holder) else 0)
    except Timeout:
        raise ValueError(
            f"`output_dir` {output_dir} is in use by another run: {_in_words(_holder(output_dir))}; wait until it "
            "ends, or name another one"
        ) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise type(error)(
                f"`output_dir` {output_dir} cannot be written to: {error.strerror}; name another one"
            ) from error
        logger.warning("the file system of %s has no locks: nothing stops a second run there", output_dir)
        return None
    own = {"host": socket.gethostname(), "pid": os.getpid(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    (output_dir / HOLDER).write_text(json.dumps(own), encoding="utf-8")
    return lock, output_dir, made


def _give_back(lock: FileLock, output_dir: Path, made: list[Path]) -> None:
    (output_dir / HOLDER).unlink(missing_ok=True)
    if made and output_dir.is_dir() and {path.name for path in output_dir.iterdir()} <= {LOCK}:
        (output_dir / LOCK).unlink(missing_ok=True)  # a refused run leaves no trace; others keep the file: others wait
        with contextlib.suppress(OSError):  # something else has come in
            for path in made:
                path.rmdir()
    lock.release()


def _holder(output_dir: Path) -> dict[str, Any]:
    """What the last holder wrote; nothing where it has left, or is about to write."""
    try:
        return dict(json.loads((output_dir / HOLDER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    if holder.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(holder.get("pid", 0)), 0)  # sends nothing: signal 0 only checks that the process exists
    except OSError as error:
        return error.errno == errno.ESRCH  # EPERM: another user's process
    return False


def _in_words(holder: dict[str, Any]) -> str:
    if not holder:
        return "a process that has just begun"
    return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
