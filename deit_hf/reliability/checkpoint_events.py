"""Saves checkpoints at more times than `Trainer` does, and tells how to resume a stopped run."""

import logging
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainingArguments

from .stop_signals import StopSignals, is_interactive, stopped_by

logger = logging.getLogger(__name__)


def how_to_resume(args: TrainingArguments) -> str:
    """How to continue the run, and which option to leave out: it would delete the checkpoints or choose an old one."""
    if is_interactive():
        return "continue with `train(resume_from_checkpoint=True)`"
    obstacle = next((name for name in ("overwrite_output_dir", "resume_from_checkpoint") if getattr(args, name)), None)
    return f"start the same command again{f' without `{obstacle}`' if obstacle else ''} to resume"


class TrainingBounds(TrainerCallback):
    """Calls a function at the start of a training and one at its end, before all other callbacks."""

    def __init__(self, begin: Callable[[], None], end: Callable[[], None]):
        self.begin, self.end = begin, end

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begin()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.end()


class CheckpointEvents(TrainerCallback):
    """Also saves on a signal; moves a save in the last step of an epoch behind all events of the epoch."""

    def __init__(self, stop_signals: StopSignals):
        """`stop_signals` are those received by the training."""
        self.stop_signals = stop_signals
        self.is_due_at_epoch_end = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.is_due_at_epoch_end = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stop_signals.agreed():
            control.should_save = True
        is_last = float(state.epoch).is_integer() or state.global_step >= state.max_steps
        if control.should_save and is_last:  # a run that resumes from here does not repeat the events of this epoch
            control.should_save, self.is_due_at_epoch_end = False, True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.is_due_at_epoch_end:
            control.should_save, self.is_due_at_epoch_end = True, False

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stop_signals.agreed():
            message = f"stopped after step {state.global_step}; {how_to_resume(args)}"
            if state.is_world_process_zero:
                logger.warning("%s", message)
            raise stopped_by(self.stop_signals.received, message)
