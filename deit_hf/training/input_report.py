"""Whether a training waits for its data, found in its first steps, and what to do about it."""

import logging
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn
from transformers import TrainerCallback

from .data_wait import DataWait, StepTimes

logger = logging.getLogger(__name__)

CHECKED_AFTER = (1, 2, 4, 8, 16, 20)  # measured steps; only there do processes wait for each other
LONGEST_MEASUREMENT = 10.0  # seconds
MUCH = 0.1  # share of waiting above which there is advice
MUCH_TEACHER = 0.3  # share of the teacher in a step, the same
PREPARED_SIDE, PREPARED_FOR = 384, 224  # pixels: short side of the images of deit-hf prepare, for views of this side
MUCH_LARGER = 1.5  # times that short side


class InputReport(TrainerCallback):
    """Logs once, after the first steps of a training, whether the device waits for data.

    A resumed training logs it only if it does. The first step is not measured.

    Attributes:
        logs: False logs nothing.
    """

    def __init__(
        self,
        data_wait: DataWait,
        *,
        teacher: Callable[[], nn.Module | None],
        sizes: Callable[[], tuple[float | None, int]],
    ):
        """
        Args:
            data_wait: measures the steps.
            teacher: returns the teacher of the training; None without one.
            sizes: returns the short side of a typical training image in pixels, or None, and the side of a view.
        """
        self.data_wait, self.teacher, self.sizes, self.logs = data_wait, teacher, sizes, True
        self._is_measuring, self._began_at = False, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._is_measuring, self._began_at = True, state.global_step
        self.data_wait.unwatch()  # of a training that failed
        teacher = self.teacher()
        if teacher is not None:
            self.data_wait.watch(teacher)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        measured = state.global_step - self._began_at - 1
        if not self._is_measuring or measured not in CHECKED_AFTER:
            return
        times = self.data_wait.after_first.over_processes(args.device)
        if times.steps and (times.seconds >= LONGEST_MEASUREMENT * args.world_size or measured == CHECKED_AFTER[-1]):
            self._end()
            is_first_start = self._began_at == 0
            if self.logs and state.is_world_process_zero and (is_first_start or input_rates(times, args).share > MUCH):
                self._log(times, args)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._end()

    def _end(self) -> None:
        self._is_measuring = False
        self.data_wait.unwatch()

    def _log(self, times: StepTimes, args: Any) -> None:
        waits = input_rates(times, args).share > MUCH
        logger.log(logging.WARNING if waits else logging.INFO, "input: %s", self.in_words(times, args))

    def in_words(self, times: StepTimes, args: Any) -> str:
        """Returns the rates of the input and of the model, and what to do if the device waits.

        Args:
            times: of some steps, over all processes.
            args: options of the training.
        """
        rates = input_rates(times, args)
        waits = f"the device waits for data {100 * rates.share:.0f} % of the time"
        model = f"the model takes {_rounded(rates.model)} views/s"
        if rates.share > MUCH:
            number = args.dataloader_num_workers * args.world_size
            maker = "without data workers, the training makes"
            if number:
                maker = "the data worker makes" if number == 1 else f"the {number} data workers make"
            advice = _advice(rates, args, *self.sizes())
            return f"{maker} about {_rounded(rates.input)} views/s, {model}: {waits}; {advice}"
        teacher = times.teacher / times.seconds
        if teacher <= MUCH_TEACHER:
            return f"{model}, and {waits}"
        return (
            f"{model}, and {waits}; the teacher takes {100 * teacher:.0f} % of a step: if you train more than once, "
            "deit-hf cache-teacher stores its answers"
        )


class InputRates(NamedTuple):
    """How fast views are made and used, over all processes.

    Attributes:
        input: views that are made in a second.
        model: views that the model takes in a second, if it does not wait.
        share: share of the time in which the device waits, in [0, 1].
    """

    input: float
    model: float
    share: float


def input_rates(times: StepTimes, args: Any) -> InputRates:
    """Returns the rates of the first steps, in which data workers still have batches in stock.

    If the views say how long they took to make, the rate of the workers, and thus the share of waiting when their
    stock is used up, follows from it.

    Args:
        times: of some steps, over all processes.
        args: options of the training.
    """
    workers = args.dataloader_num_workers
    model = args.world_size * times.views / max(times.seconds - times.waiting, 1e-9)
    delivered = args.world_size * times.views / times.seconds
    if not workers:
        made = args.world_size * times.views / max(times.waiting, 1e-9)
        return InputRates(made, model, times.share)
    made = workers * args.world_size * times.views / times.making if times.making else math.inf
    made = min(made, delivered) if times.share > MUCH or not times.making else made
    return InputRates(made, model, max(times.share, 1 - made / model) if times.making else times.share)


def _advice(rates: InputRates, args: Any, short_side: float | None, view: int) -> str:
    """What makes the input faster, with numbers."""
    workers, processes = args.dataloader_num_workers, int(os.environ.get("LOCAL_WORLD_SIZE", args.world_size))
    cores = max(1, (os.cpu_count() or 1) // processes)
    most = cores if args.device.type != "cpu" else cores - 1  # the model needs one, too
    wanted = math.ceil(rates.model / (rates.input / max(workers, 1)))
    found = []
    of_process = " in each process" if args.world_size > 1 else ""
    if workers < most:
        found.append(f"--dataloader_num_workers {max(workers + 1, min(wanted, most))} (now {workers}{of_process})")
    enough = max(PREPARED_SIDE, math.ceil(PREPARED_SIDE / PREPARED_FOR * view))
    if short_side is not None and short_side > MUCH_LARGER * enough:
        option = "" if enough == PREPARED_SIDE else f" --short_side {enough}"
        found.append(
            f"deit-hf prepare{option}, because the images are large (short side about {short_side:.0f} pixels; "
            f"{enough} are enough)"
        )
    there_are = "there is 1 core" if cores == 1 else f"there are {cores} cores"
    if not found:
        return f"{there_are}{of_process}, and all are busy: use more or faster cores, or less augmentation"
    return f"use {' and '.join(found)}; {there_are}{of_process}"


def _rounded(rate: float) -> str:
    """A rate with two digits, such as `1,200`."""
    return f"{round(rate, 1 - math.floor(math.log10(rate))):,.6g}" if 0 < rate < math.inf else "0"
