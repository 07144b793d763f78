"""How long the device waits for data: the share of the steps, for the log, and the numbers behind it."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import reduce
from torch import nn
from transformers import TrainerCallback

from ..reliability.step_outcome import StepOutcome


@dataclass
class StepTimes:
    """Sums over optimizer steps of one process.

    Attributes:
        steps: number of steps.
        seconds: from the request for the batches of a step to the end of the step, without evaluation and saving.
        waiting: seconds of these in which the device waited for the batches.
        teacher: seconds of these in the teacher, if it was watched.
        views: number of views.
        making: seconds in which the views were made, one after another; 0 if unknown.
    """

    steps: float = 0
    seconds: float = 0.0
    waiting: float = 0.0
    teacher: float = 0.0
    views: float = 0
    making: float = 0.0

    @property
    def share(self) -> float:
        """Share of the time in which the device waited for data, in [0, 1]."""
        return min(1.0, self.waiting / self.seconds) if self.seconds > 0 else 0.0

    def __iadd__(self, other: "StepTimes") -> "StepTimes":
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self

    def over_processes(self, device: torch.device) -> "StepTimes":
        """Returns the sums over all processes, which wait for each other."""
        sums = torch.tensor([*vars(self).values()], dtype=torch.float32, device=device)
        return StepTimes(*reduce(sums, "sum").tolist())


@dataclass
class _Step:
    """Marks of a step: `start` is before its batches are requested, `ready` when they are there."""

    start: Any
    ready: Any = None
    end: Any = None
    teacher: list[Any] = field(default_factory=list)  # pairs of marks
    views: int = 0
    making: Any = 0.0


class DataWait(TrainerCallback):
    """Measures the time in which the device waits for data, without waiting for the device.

    On CPUs this is the time in which batches are fetched. Another device may still compute while the host fetches the
    next batches, or while the data workers make them, so events are recorded on it: between `start` and `ready` it
    has nothing to do. Copies to the device count as waiting.

    Args:
        outcome: outcome of the step in progress; skipped steps are left out, as in the log of the loss.
        device: of the student.

    Attributes:
        after_first: sums over the steps of the training in progress after its first one, which is slower.
    """

    def __init__(self, outcome: StepOutcome, device: torch.device):
        self.outcome, self.device = outcome, device
        self._hooks: list[Any] = []
        self.reset()

    def reset(self) -> None:
        """Begins a training."""
        self._step: _Step | None = None
        self._pending: deque[_Step] = deque()
        self._since_report, self._training, self.after_first = StepTimes(), StepTimes(), StepTimes()

    @contextlib.contextmanager
    def fetching(self) -> Iterator[list[Any]]:
        """Measures a block that fetches the batches of a step, and puts them into the list that it yields."""
        batches: list[Any] = []
        self._step = _Step(self._mark())
        yield batches
        self._step.ready = self._mark()
        for batch in batches:
            self._step.views += len(batch["labels"])
            self._step.making += batch.get("seconds", 0.0)  # read later: a number on a device would wait for it

    def watch(self, module: nn.Module) -> None:
        """Also measures the calls of a module in each step, as `teacher`, until `unwatch`."""

        def mark(*_: Any) -> None:
            if self._step is not None:
                self._step.teacher.append(self._mark())

        self._hooks = [module.register_forward_pre_hook(mark), module.register_forward_hook(mark)]

    def unwatch(self) -> None:
        """Ends `watch`."""
        while self._hooks:
            self._hooks.pop().remove()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.reset()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, self._step = self._step, None
        if step is None:  # a subclass fetches batches in its own way
            return
        step.end = self._mark()
        if not self.outcome.is_skipped:
            self._pending.append(step)
        while self._pending and (self.device.type == "cpu" or self._pending[0].end.query()):
            self._add(self._pending.popleft())

    def recent(self) -> dict[str, float]:
        """Returns `data_wait` since the last report, the mean of all processes, which wait for each other."""
        self._settle()
        return self._mean(self._since_report) if self._since_report.steps else {}

    def complete(self, logs: dict[str, float]) -> None:
        """Adds `data_wait` to a report of the training loss, and `train_data_wait` to the report at the end."""
        if "loss" in logs:
            logs.update(self.recent())
            self._since_report = StepTimes()
        self._settle()
        if "train_runtime" in logs and self._training.steps:
            logs.update({f"train_{name}": value for name, value in self._mean(self._training).items()})

    def _mean(self, sums: StepTimes) -> dict[str, float]:
        share = torch.tensor(sums.share, device=self.device)
        return {"data_wait": reduce(share, "mean").item()}

    def _settle(self) -> None:
        """Waits for the device, and adds all steps to the sums."""
        while self._pending:
            step = self._pending.popleft()
            if self.device.type != "cpu":
                step.end.synchronize()
            self._add(step)

    def _add(self, step: _Step) -> None:
        pairs: Sequence[tuple[Any, Any]] = list(zip(step.teacher[::2], step.teacher[1::2], strict=False))
        times = StepTimes(
            steps=1,
            seconds=self._between(step.start, step.end),
            waiting=self._between(step.start, step.ready),
            teacher=sum(self._between(*pair) for pair in pairs),
            views=step.views,
            making=float(step.making),
        )
        self._since_report += times
        if self._training.steps:
            self.after_first += times
        self._training += times

    def _mark(self) -> Any:
        """The time on the host, or an event on another device."""
        if self.device.type == "cpu":
            return time.perf_counter()
        event = torch.Event(self.device, enable_timing=True)
        event.record()
        return event

    def _between(self, first: Any, second: Any) -> float:
        """Seconds between two marks."""
        return float(second - first if self.device.type == "cpu" else first.elapsed_time(second) / 1000)
