"""What a command does with an error: one line and an exit code."""

import contextlib
import logging
import sys
from collections.abc import Iterator

import datasets
import torch

from ..reliability.numerical_faults import EXIT_CODE, NonFiniteLossError

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns what a user can mend (wrong values, kinds, files, installs) into one line on stderr and exit code 2.

    A training that ran into infinite numbers gets one line, too, and an exit code of its own (numerical_faults.py).
    """
    mendable = (ValueError, TypeError, OSError, ImportError, datasets.exceptions.DatasetsError, NonFiniteLossError)
    try:
        yield
    except mendable as error:
        logger.debug("the error in full", exc_info=True)
        lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
        # an error from a worker process carries its whole traceback; its last line is the error itself
        line = lines[-1].partition("Error: ")[2] or lines[-1] if "Traceback" in str(error) else " ".join(lines)
        sys.stderr.write(f"error: {line}\n")
        if isinstance(error, NonFiniteLossError) and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # all processes are here; gloo would abort as python ends
        raise SystemExit(EXIT_CODE if isinstance(error, NonFiniteLossError) else 2) from None
