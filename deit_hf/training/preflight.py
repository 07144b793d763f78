"""What a run will need, measured with two of its steps: time, memory and disk. No file of the run is written."""

import contextlib
import copy
import logging
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor
from transformers import ProgressCallback, TrainerCallback

from ..data.sources.arguments import DataArguments
from ..data.sources.load import ImageParts
from ..model.arguments import ModelArguments
from ..reliability.checkpoints import find_checkpoint, is_finished, remembered_places
from ..reliability.stop_signals import LeaveOnSignal
from .arguments import DistillationArguments
from .progress import duration
from .run import check_run_options, make_trainer, trains_on
from .trainer import DistillationTrainer

NUM_STEPS = 3  # the first one, which is slower, is not counted


@dataclass(frozen=True)
class Preflight:
    """What a run will need, on this machine.

    Attributes:
        num_steps: optimizer steps of the whole run.
        images_per_step: views of one optimizer step, over all processes.
        seconds_per_step: of one optimizer step.
        seconds_per_evaluation: of all evaluation sets.
        num_evaluations: of the student, during the run and at its end.
        peak_memory_bytes: memory of the first process: on its device, or on CPUs in total, without its data workers;
            None if unknown.
        disk_bytes: checkpoints that exist at the same time, and the final model.
        free_bytes: free space where `output_dir` is.
        num_checkpoints: checkpoints that exist at the same time.
        input: speed of the input and of the model in words; empty if unknown.
    """

    num_steps: int
    images_per_step: int
    seconds_per_step: float
    seconds_per_evaluation: float
    num_evaluations: int
    peak_memory_bytes: int | None
    disk_bytes: int
    free_bytes: int
    num_checkpoints: int
    input: str = ""

    @property
    def seconds(self) -> float:
        """Estimated duration of the whole run, without loading and saving."""
        return self.num_steps * self.seconds_per_step + self.num_evaluations * self.seconds_per_evaluation

    def lines(self) -> list[str]:
        """Returns the needs as lines for the console."""
        evaluations = f", {self.num_evaluations} evaluations of {duration(self.seconds_per_evaluation)}"
        steps = f"{self.num_steps} steps of {self.seconds_per_step:.3g} s{evaluations if self.num_evaluations else ''}"
        memory = "unknown" if self.peak_memory_bytes is None else size_in_words(self.peak_memory_bytes)
        held = f"{self.num_checkpoints} checkpoints and the final model" if self.num_checkpoints else "the final model"
        found = [
            f"time    about {duration(self.seconds)}: {steps}",
            f"memory  {memory} at most in the measured steps, in each process",
            f"disk    {size_in_words(self.disk_bytes)}: {held}; {size_in_words(self.free_bytes)} are free",
        ]
        if self.input:
            found.insert(1, f"input   {self.input}")
        if self.disk_bytes > self.free_bytes:
            found.append(
                f"the disk is too small: the run needs {size_in_words(self.disk_bytes)}, but only "
                f"{size_in_words(self.free_bytes)} are free; make space, name another `output_dir`, or lower "
                "`save_total_limit`"
            )
        return found


def measure(
    model_args: ModelArguments, data_args: DataArguments, args: DistillationArguments, parts: ImageParts | None = None
) -> Preflight:
    """Measures the first steps of a run, and one evaluation batch, without any message.

    The options, the files and the random states of a later run do not change.

    Args:
        model_args: student and teacher.
        data_args: the data.
        args: the options of the training.
        parts: the data that `data_args` describes, if it is already loaded.

    Raises:
        ValueError: as by `train`, if options, data, student and teacher do not match each other.
        OSError: a source is not found.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with LeaveOnSignal(), _trial_options(args) as trial:
            trial.evaluate_teacher = False  # only for the run summary
            return _measured(make_trainer(model_args, data_args, trial, parts)[0], args)
    finally:
        logging.disable(before)


def dry_run(model_args: ModelArguments, data_args: DataArguments, args: DistillationArguments) -> Preflight | None:
    """Does all that a run does up to its first step, with the same messages and errors, and measures two steps.

    Returns:
        What the run will need, or None if the run in `args.output_dir` is already finished.

    Raises:
        ValueError: as by `train`, also if `args.output_dir` holds another run.
        FileExistsError: `args.output_dir` contains other files.
        OSError: a source is not found.
    """
    check_run_options(model_args, data_args, args)
    checkpoint = find_checkpoint(args)
    with LeaveOnSignal(), _trial_options(args) as trial:
        trainer, _ = make_trainer(model_args, data_args, trial, None)
        changes = trainer.same_run.settle(*remembered_places(args, checkpoint))
        if is_finished(args.output_dir) and not args.overwrite_output_dir and not trains_on(changes, checkpoint, args):
            return None
        return _measured(trainer, args)


@contextlib.contextmanager
def _trial_options(args: DistillationArguments) -> Iterator[DistillationArguments]:
    """A copy of the options for a training in a temporary folder; restores the random states at the end."""
    states: tuple[Any, Any] = random.getstate(), np.random.get_state()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, torch.random.fork_rng():
        trial = copy.copy(args)
        trial.output_dir, trial.report_to, trial.training_views = folder, [], False
        trial.resume_from_checkpoint, trial.push_to_hub = None, False
        trial.eval_on_start, trial.disable_tqdm, trial.overwrite_output_dir = False, True, False
        trial.dataloader_persistent_workers = False  # or they would stay
        try:
            yield trial
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


class StopsEarly(TrainerCallback):
    """Ends a training after a few steps, without evaluation and checkpoint, and measures the steps.

    Attributes:
        times: when the training began, and when each of its steps ended, in seconds.
    """

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times = [_now(args.device)]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times.append(_now(args.device))
        control.should_training_stop |= state.global_step >= NUM_STEPS
        control.should_evaluate = control.should_save = control.should_log = False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_evaluate = control.should_save = control.should_log = False

    def seconds_per_step(self) -> float:
        """Mean of the steps after the first one, or the first one if there are no others."""
        first, *others = [end - begin for begin, end in zip(self.times, self.times[1:], strict=False)]
        return sum(others) / len(others) if others else first


def _measured(trainer: DistillationTrainer, args: DistillationArguments) -> Preflight:
    """Trains the first steps; `args` are the options of the real run."""
    steps = StopsEarly()
    trainer.stop_signals.takes_signals = False  # there is nothing to save
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(steps)
    on_gpu = args.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(args.device)
    trainer.input_report.logs = False
    trainer.train()
    times = trainer.data_wait.after_first.over_processes(args.device)
    seconds_per_evaluation = 0.0 if trainer.eval_dataset is None else _seconds_per_evaluation(trainer)
    model, optimizer = _num_bytes(trainer.model.state_dict()), _num_bytes(trainer.optimizer.state_dict())
    final = model * (2 if trainer.ema is not None else 1)
    num_checkpoints = _num_checkpoints(trainer.args, trainer.state)
    return Preflight(
        num_steps=trainer.state.max_steps,
        images_per_step=trainer.args.global_batch_size,
        seconds_per_step=steps.seconds_per_step(),
        seconds_per_evaluation=seconds_per_evaluation * (2 if trainer.ema is not None else 1),
        num_evaluations=0 if trainer.eval_dataset is None else _num_evaluations(args, trainer.state),
        peak_memory_bytes=torch.cuda.max_memory_allocated(args.device) if on_gpu else _peak_of_process(),
        disk_bytes=final + num_checkpoints * (final + (0 if args.save_only_model else optimizer)),
        free_bytes=shutil.disk_usage(_existing(Path(args.output_dir))).free,
        num_checkpoints=num_checkpoints,
        input=trainer.input_report.in_words(times, trainer.args) if times.steps else "",
    )


def _seconds_per_evaluation(trainer: DistillationTrainer) -> float:
    """Times the second batch of the first evaluation set, or its only batch."""
    sets = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {"": trainer.eval_dataset}
    loaders = [trainer.get_eval_dataloader(rows) for rows in sets.values()]
    times = [_now(trainer.args.device)]
    trainer.model.eval()
    for _, batch in zip(range(2), loaders[0], strict=False):
        inputs = send_to_device(batch, trainer.args.device)
        trainer.prediction_step(trainer.model, inputs, prediction_loss_only=False)
        times.append(_now(trainer.args.device))
    return (times[-1] - times[-2]) * sum(map(len, loaders))


def _num_evaluations(args: DistillationArguments, state: Any) -> int:
    """Evaluations of a run; the last one is not repeated at the end if the weights stay as they are."""
    if args.eval_strategy == "no":
        return 1
    by_steps = args.eval_strategy == "steps"
    during = math.ceil(state.max_steps / state.eval_steps) if by_steps else state.num_train_epochs
    return during + bool(args.eval_on_start) + bool(args.load_best_model_at_end)


def _num_checkpoints(args: DistillationArguments, state: Any) -> int:
    """Complete checkpoints that exist at the same time; one more than are kept, while the next one is written."""
    if args.save_strategy == "no":
        return 0
    written = (
        math.ceil(state.max_steps / state.save_steps) if args.save_strategy == "steps" else state.num_train_epochs
    )
    kept = written if args.save_total_limit is None else args.save_total_limit + bool(args.load_best_model_at_end)
    return min(written, kept + 1)


def _num_bytes(values: Any) -> int:
    """Size of all tensors in nested dicts and lists."""
    if isinstance(values, Tensor):
        return values.numel() * values.element_size()
    inner = values.values() if isinstance(values, dict) else values if isinstance(values, list | tuple) else ()
    return sum(map(_num_bytes, inner))


def _peak_of_process() -> int | None:
    """The most memory that this process has held so far; None where Python cannot tell."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _existing(folder: Path) -> Path:
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())


def _now(device: torch.device) -> float:
    """The time when the device has done its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def size_in_words(num_bytes: int) -> str:
    """A size in GB, MB or kB, with three digits."""
    unit = next(unit for unit in ("GB", "MB", "kB") if num_bytes >= {"GB": 1e9, "MB": 1e6, "kB": 0}[unit])
    return f"{num_bytes / {'GB': 1e9, 'MB': 1e6, 'kB': 1e3}[unit]:.3g} {unit}"
