"""Reads what a checkpoint holds in addition to the state of transformers' `Trainer`, for any number of processes."""

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .checkpoints import running_state_files

logger = logging.getLogger(__name__)


def read_running_state(checkpoint: Path, *, process_index: int, num_processes: int) -> dict[str, Any]:
    """The running state of a process; if the number of processes has changed, each gets the mean of all.

    Args:
        checkpoint: directory of the checkpoint to resume from.
        process_index: index of this process.
        num_processes: number of processes that train now.
    """
    stored = [json.loads(path.read_text(encoding="utf-8")) for path in running_state_files(checkpoint)]
    if len(stored) == num_processes:
        return stored[process_index]
    if process_index == 0:
        logger.warning(
            "%s was written by %d processes and is resumed with %d: views and their order stay the same, random "
            "numbers inside the model (stochastic depth) do not",
            *(checkpoint, len(stored), num_processes),
        )
    return _mean(stored)


def _mean(values: list[Any]) -> Any:
    """Averages each float of values with the same structure; everything else is equal in all of them."""
    if isinstance(values[0], dict):
        return {name: _mean([value[name] for value in values]) for name in values[0]}
    return sum(values) / len(values) if isinstance(values[0], float) else values[0]


@contextlib.contextmanager
def explained_state(checkpoint: str | Path | None) -> Iterator[None]:
    """Explains errors from an invalid running state, which only a checkpoint without hashes can hold."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"cannot resume from `{checkpoint}`: the content of its running_state files is invalid "
            f"({type(error).__name__}: {error}); name another checkpoint"
        ) from error
