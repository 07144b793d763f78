"""Reports the death of a data worker in one line that says what to change."""

import contextlib
import time
import traceback
from collections.abc import Iterator

SECONDS_FOR_THE_SIGNAL = 1.0


@contextlib.contextmanager
def named_crashes() -> Iterator[None]:
    """Replaces the errors that torch raises after the death of a data worker by one that names likely causes.

    Raises:
        ChildProcessError: a data worker died.
    """
    with _named_crash(), _named_crash():  # torch's signal may also come while the first error is handled
        yield


@contextlib.contextmanager
def _named_crash() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
        if not _is_crash(error):
            raise
        what = str(error).partition(".")[0] if isinstance(error, RuntimeError) else _late_report()
        raise ChildProcessError(
            f"a data worker died ({what}). If it was killed or met a bus error, it ran out of memory or shared memory "
            "(/dev/shm; `--shm-size` of docker): lower `dataloader_num_workers` or `dataloader_prefetch_factor`. "
            "Otherwise run `python -X faulthandler` with `--dataloader_num_workers 0` to see where it died"
        ) from error


def _is_crash(error: Exception) -> bool:
    """Whether the error is torch's report of a dead worker, or of a lost connection to it."""
    if isinstance(error, RuntimeError):
        return "DataLoader worker (pid" in str(error)
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return "Caught" not in str(error) and any("torch/multiprocessing" in file for file in files)


def _late_report() -> str:
    """Waits for torch's report of the death: its signal would otherwise raise in whatever runs next."""
    try:
        time.sleep(SECONDS_FOR_THE_SIGNAL)
    except RuntimeError as report:
        return str(report).partition(".")[0]
    return "the connection to it broke"
