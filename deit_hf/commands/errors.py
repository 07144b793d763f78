"""Turns an error that a user can fix into one line on stderr and an exit code.

| exit code | error |
|---|---|
| 2 | `USER_ERRORS`, `USER_ERRORS_OF`: a wrong value, type, file or installation; out of memory |
| 3 | `HubPushError` (hub/push.py) |
| 4 | `NonFiniteLossError` (reliability/numerical_faults.py) |
| 75 | `TrainingStopped` (reliability/stop_signals.py), a `SystemExit` that needs no handling here |

Error classes with their own code define it as `exit_code`, so that this module need not import torch. It
imports no other library either, because help and tables should answer at once.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator

from ..argument_checks import without_tokens

logger = logging.getLogger(__name__)

USER_ERRORS = (ValueError, TypeError, OSError, ImportError, MemoryError)
USER_ERRORS_OF = {"safetensors": "SafetensorError", "datasets.exceptions": "DatasetsError"}  # of other libraries


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns an error of the table above into one line and its exit code; any other error passes through."""
    try:
        yield
    except Exception as error:
        users = isinstance(error, _user_errors()) or _is_out_of_memory(error)
        exit_code = getattr(error, "exit_code", 2 if users else None)
        if exit_code is None:
            raise
        logger.debug("full traceback", exc_info=True)
        sys.stderr.write(f"error: {without_tokens(_one_line(error))}\n")
        raise SystemExit(exit_code) from None


def _user_errors() -> tuple[type[Exception], ...]:
    """Also has the classes of libraries that are imported; others cannot have raised the error."""
    classes = [getattr(sys.modules[name], each) for name, each in USER_ERRORS_OF.items() if name in sys.modules]
    return (*USER_ERRORS, *classes)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether torch ran out of memory for a model or an image; a batch that is too large raises its own error."""
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator: can't allocate memory" in str(error)


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    # an error from a worker process contains its whole traceback; the last line is the error itself
    return lines[-1].partition("Error: ")[2] or lines[-1] if "Traceback" in str(error) else " ".join(lines)
