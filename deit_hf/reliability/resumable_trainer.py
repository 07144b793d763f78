"""A Trainer whose interrupted and resumed run ends with the same bits as an uninterrupted one.

A resumed run sees the same views because of `deit_hf.data`, where a view depends only on its key.
"""

import contextlib
import json
import logging
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from ..atomic_files import damage_of
from .checkpoint_events import CheckpointEvents, TrainingBounds, how_to_resume
from .checkpoints import (
    ASIDE,
    checked_checkpoint,
    delete_checkpoints,
    last_complete_checkpoint,
    last_sound_checkpoint,
    move_into_place,
    rotate,
)
from .disk_faults import advice_of
from .run_identity import write_identity
from .run_lock import run_lock
from .running_state import explained_state, read_running_state
from .stop_signals import StopSignals
from .verification import agreed

logger = logging.getLogger(__name__)


# ---- the trainer ----


class ResumableTrainer(Trainer):
    """A `Trainer` whose killed and resumed run ends with the same bits as an uninterrupted one.

    In addition to what `Trainer` saves (weights, optimizer, schedule, random states), a checkpoint holds
    `running_state`. It is written to a temporary folder, synced and renamed. At the end of an epoch it is written
    after all events of the epoch. SIGTERM and SIGINT save a checkpoint and end the training: see stop_signals.py.

    Attributes:
        resume_from: checkpoint that the training in progress resumes from, or None.
        same_run: compares a resumed run with its checkpoint; set by a subclass.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.stop_signals = StopSignals()
        self.resume_from: Path | None = None
        self.same_run: Any = None
        self._stored: dict[str, Any] | None = None  # `running_state` of `resume_from`
        self._is_over = False  # whether the training had ended at `resume_from`
        self._began_at_step = self._num_epochs = 0
        self._output_dir: Path | None = None  # `args.output_dir` of the run, while it names a temporary folder
        self._saved_to: Path | None = None  # folder of the last saved model
        self._loads_best = False  # `load_best_model_at_end` of the training in progress
        self.add_callback(CheckpointEvents(self.stop_signals))
        self.callback_handler.callbacks.insert(0, TrainingBounds(self.begin_training, self._end_training))

    def train(self, resume_from_checkpoint: str | bool | None = None, **options: Any) -> TrainOutput:
        """Like `Trainer.train`; `True` resumes from the last complete checkpoint in `args.output_dir`.

        Raises:
            ValueError: there is no complete checkpoint; the named one is incomplete, damaged, holds more than tensors
                or belongs to another run; or another run is using `args.output_dir`.
            TrainingStopped: a signal was received and a checkpoint was saved.
            KeyboardInterrupt: Ctrl-C was pressed in a notebook or at a prompt, and a checkpoint was saved.
        """
        self.resume_from = None
        if resume_from_checkpoint is True:
            self.resume_from = last_sound_checkpoint(self.args)
            if self.resume_from is None:
                raise ValueError(
                    f"`resume_from_checkpoint` is True, but `{self.args.output_dir}` holds no complete checkpoint; "
                    "leave it out to start at step 0"
                )
        elif resume_from_checkpoint:
            self.resume_from = checked_checkpoint(resume_from_checkpoint, self.args)
        checkpoint = None if self.resume_from is None else str(self.resume_from)
        self._loads_best = self.args.load_best_model_at_end
        try:
            with run_lock(self.args.output_dir, self.args.distributed_state), self.stop_signals:
                self.same_run.settle(*([] if self.resume_from is None else [self.resume_from]))
                self._overwrite()
                with explained_state(checkpoint):
                    self._stored = None if self.resume_from is None else self._read_state(self.resume_from)
                    self._is_over = self._stored is not None and self._stored["was_stopped_early"]
                output: TrainOutput = super().train(checkpoint, **options)
                # `Trainer` divides the loss of all steps by the steps since the resume
                return output._replace(training_loss=output.metrics.get("train_loss", output.training_loss))
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"a file of `{checkpoint}` could run code, or is damaged, so it was not opened; resume from another "
                "checkpoint"
            ) from error
        finally:
            self._end_training()
            self.same_run.forget()

    def _overwrite(self) -> None:
        """Deletes checkpoints of an earlier training with `overwrite_output_dir`; otherwise warns that they exist."""
        if self.resume_from is None and self.args.should_save:
            if self.args.overwrite_output_dir:
                delete_checkpoints(self.args.output_dir)  # damaged ones, too
            earlier = last_complete_checkpoint(self.args.output_dir)
            if earlier is not None:
                logger.warning(
                    "this training starts at step 0, but an earlier one has left checkpoints up to %s: "
                    "`resume_from_checkpoint=True` would use that one; set `overwrite_output_dir` to delete them, or "
                    "use another `output_dir`",
                    earlier,
                )
        self.accelerator.wait_for_everyone()

    def set_initial_training_values(self, args: TrainingArguments, dataloader: DataLoader) -> tuple[Any, ...]:
        """Returns 0 epochs if the training had ended at the checkpoint; `Trainer` would continue it.

        Such a checkpoint is of the last step, which can be within an epoch, or of a training that stopped early.
        """
        self._num_epochs, *others, max_steps = super().set_initial_training_values(args, dataloader)
        if self.resume_from is not None:
            state = TrainerState.load_from_json(str(self.resume_from / TRAINER_STATE_NAME))
            self._is_over |= state.global_step >= max_steps
        return 0 if self._is_over else self._num_epochs, *others, max_steps

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Loads all weights; `Trainer` ignores those that have other names on disk, as in most transformers models."""
        if model is not None:  # FSDP
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        stored, info = type(self.model).from_pretrained(
            resume_from_checkpoint, dtype=self.model.dtype, output_loading_info=True
        )
        if type(stored.config) is not type(self.model.config) or _shapes(stored) != _shapes(self.model):
            raise ValueError(
                f"`{resume_from_checkpoint}` holds another model than the one to train (another type, or other shapes "
                "of weights); resume with the options of that run, or name another checkpoint"
            )
        if info["missing_keys"]:
            missing = ", ".join(sorted(info["missing_keys"]))
            raise ValueError(f"`{resume_from_checkpoint}` lacks {missing}; name another checkpoint")
        self.model.load_state_dict(stored.state_dict())

    def load_best_model(self) -> None:
        """Loads the best checkpoint; if it is damaged, keeps the weights of the last step and warns."""
        best = Path(self.state.best_model_checkpoint)
        fault = agreed(self.args, lambda: damage_of(best, compares_hashes=True))
        if fault is None:
            if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):  # for these, `Trainer` loads the weights
                self._load_from_checkpoint(str(best))
                self.args.load_best_model_at_end = False  # until the end: `Trainer` would load it again
            return
        if self.args.should_log:
            logger.warning(
                "`load_best_model_at_end`: the best checkpoint %s (%s %.6g) cannot be loaded: %s; the model keeps the "
                "weights of the last step, %d",
                *(best, self.args.metric_for_best_model, self.state.best_metric, fault, self.state.global_step),
            )
        self.state.best_model_checkpoint = None  # because the model does not have its weights

    # ---- the running state ----

    def running_state(self) -> dict[str, Any]:
        """The state of this process, between two steps, that a checkpoint stores as JSON next to `Trainer`'s."""
        return {
            "was_stopped_early": self.control.should_training_stop and self.state.global_step < self.state.max_steps
        }

    def restore_running_state(self, state: dict[str, Any] | None) -> None:
        """Restores a `running_state`, or resets it if `state` is None; called before the first step of a training."""

    def begin_training(self) -> None:
        """Prepares a training at the step that `Trainer` has set, after the checkpoint was loaded."""
        state, self._began_at_step = self.state, self.state.global_step
        if state.global_step > state.max_steps:
            raise ValueError(
                f"`{self.resume_from}` is at step {state.global_step}, but the training has only {state.max_steps} "
                "steps; raise `num_train_epochs` or `max_steps`, or resume from an earlier checkpoint"
            )
        state.num_train_epochs, state.train_batch_size = self._num_epochs, self.args.train_batch_size
        state.compute_steps(self.args, state.max_steps)  # `Trainer` would keep the intervals of the checkpoint
        with explained_state(self.resume_from):
            self.restore_running_state(self._stored)

    def _end_training(self) -> None:
        self.args.load_best_model_at_end = self._loads_best  # see `load_best_model`

    def _read_state(self, checkpoint: Path) -> dict[str, Any]:
        return read_running_state(
            checkpoint, process_index=self.args.process_index, num_processes=self.args.world_size
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Like `Trainer.log`; the last log of a training also loads the best model.

        `Trainer` would load it later, and ignore weights that have other names on disk. Time and speeds are since the
        last resume, at `train_runtime_since_step`; if a resumed training had no step left, it has no speeds.
        """
        if "train_runtime" in logs:
            logs["train_runtime_since_step"] = self._began_at_step
            if self.state.global_step == self._began_at_step:
                for name in ("train_samples_per_second", "train_steps_per_second"):
                    logs.pop(name, None)
            if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
                self.load_best_model()
        super().log(logs, start_time)

    # ---- writing ----

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Like `Trainer._save_checkpoint`, but writes to a temporary folder and renames it, then deletes old ones.

        Raises:
            OSError: the checkpoint could not be written; its partial files are deleted, others are unchanged.
        """
        output_dir = Path(self.args.output_dir)
        aside = output_dir / ASIDE
        try:
            if self.args.should_save:
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            checkpoint = self._write_aside(model, trial, aside)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                (output_dir / checkpoint).parent.mkdir(exist_ok=True)  # the folder of a trial
                move_into_place(aside / checkpoint, output_dir / checkpoint)
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk raises each of them
            shutil.rmtree(aside, ignore_errors=True)
            name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            raise OSError(_not_written(self.args, output_dir, name, error)) from error
        if self.args.should_save:
            shutil.rmtree(aside)
            best = self.state.best_model_checkpoint
            keep = {checkpoint.name} | ({Path(best).name} if best is not None else set())
            rotate((output_dir / checkpoint).parent, limit=self.args.save_total_limit, keep=keep)
        self.accelerator.wait_for_everyone()

    def _write_aside(self, model: nn.Module, trial: Any, aside: Path) -> Path:
        """Writes a checkpoint below `aside`; returns its path relative to `aside`, with the folder of a trial."""
        self._output_dir = Path(self.args.output_dir)
        try:
            with _output_dir_is(self.args, aside):
                super()._save_checkpoint(model, trial)
        finally:
            output_dir, self._output_dir = self._output_dir, None
        assert self._saved_to is not None
        folder, checkpoint = self._saved_to, self._saved_to.relative_to(aside)
        if self.args.should_save:
            write_identity(folder, self.same_run.record())
        if self.state.best_model_checkpoint == str(folder):
            self.state.best_model_checkpoint = str(output_dir / checkpoint)
            if self.args.should_save:
                self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
        if not self.args.save_only_model:
            text = json.dumps(self.running_state(), indent=1)
            (folder / f"running_state_{self.args.process_index}.json").write_text(text, encoding="utf-8")
        return checkpoint

    def save_model(self, output_dir: str | None = None, **options: Any) -> None:
        """Like `Trainer.save_model`; the saved options name the output directory of the run, not a temporary one."""
        self._saved_to = Path(output_dir or self.args.output_dir)
        with _output_dir_is(self.args, self._output_dir or self.args.output_dir):
            super().save_model(output_dir, **options)


@contextlib.contextmanager
def _output_dir_is(args: TrainingArguments, output_dir: str | Path) -> Iterator[None]:
    before, args.output_dir = args.output_dir, str(output_dir)
    try:
        yield
    finally:
        args.output_dir = before


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def _not_written(args: TrainingArguments, output_dir: Path, name: str, error: BaseException) -> str:
    last = last_complete_checkpoint(output_dir)
    free = shutil.disk_usage(output_dir).free / 2**20 if output_dir.is_dir() else 0
    kept = f"the last complete one is {last}" if last is not None else "there is no earlier one"
    return (
        f"{name} could not be written to {output_dir} ({free:.0f} MiB free): {' '.join(str(error).split())}; {kept}. "
        f"{advice_of(error, output_dir)}, and {how_to_resume(args)}"
    )
