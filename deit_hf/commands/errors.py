"""What a command does with an error that a user can mend: one line on stderr and an exit code.

| exit code | error |
|---|---|
| 2 | `MENDABLE`: a wrong value, kind, file or install; too little memory |
| 3 | `HubPushError` (hub/push.py) |
| 4 | `NonFiniteLossError` (reliability/numerical_faults.py) |
| 75 | `TrainingStopped` (reliability/stop_signals.py), which leaves by itself |

An error with a code of its own has it as `exit_code`, so that this module imports no torch.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator

import datasets
from safetensors import SafetensorError

from ..argument_checks import without_tokens

logger = logging.getLogger(__name__)

MENDABLE = (
    ValueError,
    TypeError,
    OSError,
    ImportError,
    MemoryError,
    SafetensorError,
    datasets.exceptions.DatasetsError,
)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns an error of the table above into its line and exit code; any other error passes through."""
    try:
        yield
    except Exception as error:
        mendable = isinstance(error, MENDABLE) or _is_out_of_memory(error)
        exit_code = getattr(error, "exit_code", 2 if mendable else None)
        if exit_code is None:
            raise
        logger.debug("the error in full", exc_info=True)
        sys.stderr.write(f"error: {without_tokens(_one_line(error))}\n")
        raise SystemExit(exit_code) from None


def _is_out_of_memory(error: Exception) -> bool:
    """Whether torch has too little memory, for a model or an image: for a batch there is an error of its own."""
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator: can't allocate memory" in str(error)


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    # an error from a worker process carries its whole traceback; its last line is the error itself
    return lines[-1].partition("Error: ")[2] or lines[-1] if "Traceback" in str(error) else " ".join(lines)
