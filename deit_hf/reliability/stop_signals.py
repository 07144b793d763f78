"""SIGTERM and SIGINT during a training: all processes agree to stop, and exit with code 75.

resumable_trainer.py saves the checkpoint before the exit.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import cache, partial
from multiprocessing.util import Finalize
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, start the same command again
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# the terminal sends Ctrl-C to all processes, and torchrun sends it to them a second time
_ECHO_OF_THE_LAUNCHER = 2.0  # seconds
_REPEATED_AFTER = 1.0  # seconds


class TrainingStopped(SystemExit):
    """A signal stopped the run, after its trained steps were saved. If not caught, the process exits with code 75."""

    def __init__(self, message: str):
        super().__init__(EXIT_CODE)
        self.message = message

    def __str__(self) -> str:
        return self.message


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C stopped a training in a notebook or at a prompt, after its steps were saved; Python continues to run."""


def is_interactive() -> bool:
    """Whether Python runs in a notebook or with a prompt, and so must not exit when a training stops."""
    return hasattr(sys, "ps1") or bool(sys.flags.interactive)


def stopped_by(signal_name: str | None, message: str) -> BaseException:
    """The exception for a run that a signal has stopped.

    Args:
        signal_name: signal that this process received; None if another process received it.
        message: where the run stopped and how to resume it.
    """
    if signal_name == "SIGINT" and is_interactive():
        return TrainingInterrupted(message)
    return TrainingStopped(message)


class StopSignals:
    """A context that records the first signal and does nothing else; a second signal ends the process at once.

    In a notebook or at a prompt, a second Ctrl-C raises KeyboardInterrupt instead, as it does outside a training.
    Only Python's main thread receives signals; in another thread the context does nothing.

    Attributes:
        received: name of the first signal, or None.
        takes_signals: False leaves signals to an outer context, for steps that are not kept.
    """

    def __init__(self) -> None:
        self.takes_signals = True
        self.received: str | None = None
        self._received_at = 0.0
        self._previous: dict[signal.Signals, Any] = {}
        self._group: Any = None
        self._vote: tuple[Any, torch.Tensor] | None = None
        self._is_agreed = False

    def __enter__(self) -> "StopSignals":
        self.received, self._vote, self._is_agreed = None, None, False
        if self.takes_signals and threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        if _world_size() > 1 and self._group is None:
            self._group = dist.new_group(backend="gloo")  # so that a vote does not wait for the device
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.received is None:
            self.received, self._received_at = name, time.monotonic()
            _write_to_stderr(
                f"{name}: saving a checkpoint after this step, then exiting; a second signal exits at once"
            )
        elif name == "SIGINT" and is_interactive():
            raise KeyboardInterrupt
        elif _world_size() == 1 or time.monotonic() - self._received_at > _ECHO_OF_THE_LAUNCHER:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def agreed(self) -> bool:
        """Whether all processes stop now; all of them must call this equally often.

        With several processes, a call returns the result of the previous vote, so that no process waits for a vote;
        they stop one call later.
        """
        if self._group is None:
            return self.received is not None
        if self._vote is not None:
            work, votes = self._vote
            work.wait()
            self._is_agreed = bool(votes.item())
        votes = torch.tensor(int(self.received is not None))
        self._vote = dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self._group, async_op=True), votes
        return self._is_agreed


class LeaveOnSignal:
    """A context for the parts of a run that have nothing to save: the first signal raises `TrainingStopped`.

    Python discards an exception in a destructor. If that happens, the exception is raised again after a second, or at
    the end of the context. A second signal ends the process at once.
    """

    def __enter__(self) -> None:
        self._previous: dict[signal.Signals, Any] = {}
        self._stop: BaseException | None = None
        self._repeats, self._timer = False, threading.Timer(0, lambda: None)
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._leave) for number in _SIGNALS}

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._stop is not None and kind is None:
            raise self._stop

    def _leave(self, number: int, frame: FrameType | None) -> None:
        if self._stop is None:
            name = signal.Signals(number).name
            message = f"{name}: nothing to save; start the same command again to continue"
            _write_to_stderr(message)
            self._stop = stopped_by(name, message)
        elif not self._repeats:
            signal.signal(number, signal.default_int_handler if is_interactive() else signal.SIG_DFL)
            signal.raise_signal(number)
        self._repeats = False
        self._timer = threading.Timer(_REPEATED_AFTER, self._repeat, (number,))
        self._timer.daemon = True
        self._timer.start()
        raise self._stop

    def _repeat(self, number: int) -> None:
        self._repeats = True
        signal.raise_signal(number)  # Python calls the handler in the main thread


def leaves_signals_to_the_main_process() -> Callable[[int], None]:
    """A `worker_init_fn` with which the workers of a data loader ignore SIGINT and SIGTERM while the run continues.

    Ctrl-C and cluster schedulers signal the workers, too, but the last step still needs them.
    """
    return partial(_init_worker, _end_of(os.getpid()))


def _init_worker(main_process_ends: Any, worker: int) -> None:
    def end_with_the_main_process(*_: object) -> None:
        if main_process_ends.value:
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end_with_the_main_process)


@cache
def _end_of(main_process: int) -> Any:
    """A flag shared with the workers, set when the process ends: multiprocessing then sends them SIGTERM and waits."""
    flag = multiprocessing.RawValue("b", 0)
    Finalize(None, setattr, (flag, "value", 1), exitpriority=0)  # atexit does not run in notebook_launcher's processes
    return flag


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _write_to_stderr(message: str) -> None:
    os.write(2, f"\n{message}\n".encode())  # the signal may have interrupted logging or print
