"""A Trainer whose interrupted run, started again, ends with the same bits as an uninterrupted one.

That a resumed run sees the same views is the work of `deit_hf.data`: views are functions of their keys.
"""

import json
import logging
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from ..atomic_files import damage_of
from .checkpoints import (
    ASIDE,
    checked_checkpoint,
    delete_checkpoints,
    last_complete_checkpoint,
    last_sound_checkpoint,
    move_into_place,
    rotate,
    running_state_files,
)
from .disk_faults import advice_of
from .run_identity import write_identity
from .run_lock import run_lock
from .stop_signals import StopSignals, is_interactive, leaves_signals_to_the_main_process, stopped_by
from .verification import agreed

logger = logging.getLogger(__name__)


# ---- the trainer ----


class ResumableTrainer(Trainer):
    """A Trainer whose killed run, started again, ends with the bits of one that was left alone.

    Beside the parent's state (weights, optimizer, schedule, random streams) a checkpoint holds what the next report of
    the loss needs. It is written aside, synced and renamed, at the end of an epoch after all events of the epoch.
    SIGTERM and SIGINT save one and leave: see stop_signals.py.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.stop_signals = StopSignals()
        self.resume_from: Path | None = None
        self.same_run: Any = None  # compares a resumed run with its checkpoint; of a child class
        self._was_stopped_early = False
        self._aside: Path | None = None
        self.add_callback(_CheckpointEvents(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, **options: Any) -> TrainOutput:
        """As the parent's; `True` goes on from the last complete checkpoint in `args.output_dir`.

        Raises:
            ValueError: there is none, or the named one is not complete, is damaged, holds more than tensors or is of
                another run; or another run has `args.output_dir`.
            TrainingStopped: a signal came, and a checkpoint was saved.
            KeyboardInterrupt: the same, of Ctrl-C in a notebook or at a prompt.
        """
        self.resume_from = None
        if resume_from_checkpoint is True:
            self.resume_from = last_sound_checkpoint(self.args)
            if self.resume_from is None:
                raise ValueError(
                    f"`resume_from_checkpoint` is True, but `{self.args.output_dir}` holds no complete checkpoint; "
                    "leave it out to begin at step 0"
                )
        elif resume_from_checkpoint:
            self.resume_from = checked_checkpoint(resume_from_checkpoint, self.args)
        checkpoint = None if self.resume_from is None else str(self.resume_from)
        try:
            with run_lock(self.args.output_dir, self.args.distributed_state), self.stop_signals:
                self.same_run.settle(*([] if self.resume_from is None else [self.resume_from]))
                self._overwrite()
                output: TrainOutput = super().train(checkpoint, **options)
                # the parent divides the loss of all steps by the steps since the restart
                return output._replace(training_loss=output.metrics.get("train_loss", output.training_loss))
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"a file of `{checkpoint}` could run code, or is damaged, so it was not opened; go on from another "
                "checkpoint"
            ) from error
        finally:
            self.same_run.forget()

    def _overwrite(self) -> None:
        """With `overwrite_output_dir`, deletes the checkpoints of an earlier run: a later resume would take them."""
        if self.args.overwrite_output_dir and self.resume_from is None and self.args.should_save:
            delete_checkpoints(self.args.output_dir)
        self.accelerator.wait_for_everyone()

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """The parent would train on when the checkpoint is of the last step, within an epoch or stopped early."""
        if self.state.global_step >= self.state.max_steps or self._was_stopped_early:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """The weights, all of them; the parent leaves at random what has another name on disk."""
        if model is not None:  # FSDP
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        model_class = type(self.model)
        stored, info = model_class.from_pretrained(
            resume_from_checkpoint, dtype=self.model.dtype, output_loading_info=True
        )
        if type(stored.config) is not type(self.model.config) or _shapes(stored) != _shapes(self.model):
            raise ValueError(f"`{resume_from_checkpoint}` holds another model than the one to train; name another run")
        if info["missing_keys"]:
            raise ValueError(f"`{resume_from_checkpoint}` lacks {', '.join(sorted(info['missing_keys']))}")
        self.model.load_state_dict(stored.state_dict())

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """As the parent's, with workers that signals do not reach, and without a trace in the random streams.

        A loader draws a seed when it starts its workers, which with `dataloader_persistent_workers` a resumed run does
        more often. Accelerate forgets its state when other options are made; then it is set up again.
        """
        if not hasattr(self.accelerator.state, "distributed_type"):
            self.create_accelerator_and_postprocess()
        loader = super()._get_dataloader(*args, **kwargs)
        inner = getattr(loader, "base_dataloader", loader)
        inner.generator = torch.Generator().manual_seed(self.args.seed)
        inner.worker_init_fn = leaves_signals_to_the_main_process(inner.worker_init_fn)
        return loader

    def _load_best_model(self) -> None:
        """The parent would load a damaged checkpoint; then the weights of the last step stay, and that is said."""
        best = Path(self.state.best_model_checkpoint)
        fault = agreed(self.args, lambda: damage_of(best, compares_hashes=True))
        if fault is None:
            super()._load_best_model()
            return
        if self.args.should_log:
            logger.warning(
                "`load_best_model_at_end`: the best checkpoint %s (%s %.6g) cannot be loaded: %s; the model keeps the "
                "weights of the last step, %d",
                *(best, self.args.metric_for_best_model, self.state.best_metric, fault, self.state.global_step),
            )
        self.state.best_model_checkpoint = None  # the averages stay with the weights, and the record says what is

    def complete_report(self, logs: dict[str, float]) -> None:
        """Makes the last report's loss that of the whole training; the parent's is of the steps since the restart.

        Its speeds are of those steps, too; where there were none, they are left out.
        """
        if "train_loss" in logs:
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
            if self.state.global_step == self._began_at_step:
                for name in ("train_samples_per_second", "train_steps_per_second"):
                    logs.pop(name, None)

    # ---- writing ----

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._aside is None else str(self._aside)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As the parent's, aside; then all at once in its place. What is no longer wanted goes after that.

        Raises:
            OSError: it could not be written; nothing of it is left, and all others are as they were.
        """
        output_dir = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        aside = output_dir / ASIDE
        try:
            if self.args.should_save:
                shutil.rmtree(aside, ignore_errors=True)
                (aside / name).mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self._write_aside(model, trial, aside, output_dir / name)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                move_into_place(aside / name, output_dir / name)
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk raises each of them
            shutil.rmtree(aside, ignore_errors=True)
            raise OSError(_not_written(self.args, output_dir, name, error)) from error
        if self.args.should_save:
            shutil.rmtree(aside)
            best = self.state.best_model_checkpoint
            keep = {name} | ({Path(best).name} if best is not None else set())
            rotate(output_dir, limit=self.args.save_total_limit, keep=keep)
        self.accelerator.wait_for_everyone()

    def _write_aside(self, model: nn.Module, trial: Any, aside: Path, checkpoint: Path) -> None:
        self._aside = aside
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._aside = None
        folder = aside / checkpoint.name
        if self.args.should_save:
            write_identity(folder, self.same_run.record())
        if self.state.best_model_checkpoint == str(folder):
            self.state.best_model_checkpoint = str(checkpoint)
            if self.args.should_save:
                self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
        if not self.args.save_only_model:
            text = json.dumps(self.running_state(), indent=1)
            (folder / f"running_state_{self.args.process_index}.json").write_text(text, encoding="utf-8")

    def running_state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the parent's state, as JSON; of this process, between two steps."""
        return {
            "loss": self._tr_loss.item(),
            "total_loss": self._total_loss_scalar,
            "last_logged_step": self._globalstep_last_logged,
            "was_stopped_early": self.control.should_training_stop and self.state.global_step < self.state.max_steps,
        }

    def restore_running_state(self, state: dict[str, Any] | None) -> None:
        """Goes on with a `running_state`, or begins with none; the parent has just set the loss to zero."""
        self._was_stopped_early = False
        if state is not None:
            self._tr_loss.fill_(state["loss"])
            self._total_loss_scalar = state["total_loss"]
            self._globalstep_last_logged = state["last_logged_step"]
            self._was_stopped_early = state["was_stopped_early"]

    def _stored_state(self, checkpoint: Path) -> dict[str, Any]:
        """The `running_state` of this process; on another number of processes each takes the mean of all."""
        stored = [json.loads(path.read_text(encoding="utf-8")) for path in running_state_files(checkpoint)]
        if len(stored) == self.args.world_size:
            return stored[self.args.process_index]
        if self.is_world_process_zero():
            logger.warning(
                "%s was written by %d processes and goes on with %d: views and their order stay the same, random "
                "numbers inside the model (stochastic depth) do not",
                *(checkpoint, len(stored), self.args.world_size),
            )
        return _mean(stored)


def _mean(values: list[Any]) -> Any:
    """Of equally built values, the mean of each float; all else is the same in all of them."""
    if isinstance(values[0], dict):
        return {name: _mean([value[name] for value in values]) for name in values[0]}
    return sum(values) / len(values) if isinstance(values[0], float) else values[0]


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def _not_written(args: TrainingArguments, output_dir: Path, name: str, error: BaseException) -> str:
    last = last_complete_checkpoint(output_dir)
    free = shutil.disk_usage(output_dir).free / 2**20 if output_dir.is_dir() else 0
    kept = f"the last complete one is {last}" if last is not None else "there is no earlier one"
    return (
        f"{name} could not be written to {output_dir} ({free:.0f} MiB free): {' '.join(str(error).split())}; {kept}. "
        f"{advice_of(error, output_dir)}, and {_how_to_go_on(args)}"
    )


def _how_to_go_on(args: TrainingArguments) -> str:
    """With these options the same command would not: it would lose what there is, or begin where it began."""
    if is_interactive():
        return "continue with `train(resume_from_checkpoint=True)`"
    obstacle = next((name for name in ("overwrite_output_dir", "resume_from_checkpoint") if getattr(args, name)), None)
    return f"start the same command again{f' without `{obstacle}`' if obstacle else ''} to go on"


class _CheckpointEvents(TrainerCallback):
    """When a checkpoint is due: beside the parent's times, on a signal, and at an epoch's end after its last event."""

    def __init__(self, trainer: ResumableTrainer):
        self.trainer = trainer
        self.is_due_at_epoch_end = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.is_due_at_epoch_end = False
        checkpoint = self.trainer.resume_from
        self.trainer._began_at_step = state.global_step
        if state.global_step > state.max_steps:
            raise ValueError(
                f"`{checkpoint}` is at step {state.global_step}, but the training has {state.max_steps}; raise "
                "`num_train_epochs` or `max_steps`, or resume from an earlier checkpoint"
            )
        state.compute_steps(args, state.max_steps)  # the parent keeps those of the checkpoint
        try:
            self.trainer.restore_running_state(None if checkpoint is None else self.trainer._stored_state(checkpoint))
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # of a checkpoint without hashes
            raise ValueError(
                f"no training can go on from `{checkpoint}`: its running_state files do not hold what they should "
                f"({type(error).__name__}: {error}); name another checkpoint"
            ) from error

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.stop_signals.agreed():
            control.should_save = True
        is_last = float(state.epoch).is_integer() or state.global_step >= state.max_steps
        if control.should_save and is_last:  # a run that goes on from here has no events of this epoch any more
            control.should_save, self.is_due_at_epoch_end = False, True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.is_due_at_epoch_end:
            control.should_save, self.is_due_at_epoch_end = True, False

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.stop_signals.agreed():
            message = f"stopped after step {state.global_step}; {_how_to_go_on(args)}"
            if self.trainer.is_world_process_zero():
                logger.warning("%s", message)
            raise stopped_by(self.trainer.stop_signals.received, message)
