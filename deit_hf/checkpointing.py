"""Checkpoints that are complete or absent, and trainings that go on from one as if they had never stopped.

That the views of a resumed run are those of a run that was left alone is the work of sampling.py, data.py and
mixing.py: they are functions of their keys.
"""

import json
import logging
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .stop_signals import StopSignals, TrainingStopped, leaves_signals_to_the_main_process

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"  # the last file of a checkpoint: names and sizes of all others
UNFINISHED_RUN = ".unfinished-run"  # stands in the directory of a run until all its files are there
_ASIDE = ".unfinished-checkpoint"


# ---- directories ----


def find_checkpoint(args: TrainingArguments) -> str | None:
    """The checkpoint that a run goes on from: `resume_from_checkpoint`, else the last complete one in `output_dir`.

    Returns:
        None to begin at step 0, as `overwrite_output_dir` always does.

    Raises:
        FileExistsError: `output_dir` holds something else than an unfinished run.
        ValueError: the checkpoint that `resume_from_checkpoint` names is not complete.
    """
    if args.overwrite_output_dir:
        return None
    if args.resume_from_checkpoint is not None:
        return str(checked_checkpoint(args.resume_from_checkpoint))
    output_dir = Path(args.output_dir)
    last = last_complete_checkpoint(output_dir)
    if last is not None:
        logger.warning("going on from %s; start anew with --overwrite_output_dir", last)
    elif (output_dir / UNFINISHED_RUN).exists():
        logger.warning("%s holds a run that stopped before its first checkpoint; it starts again", output_dir)
    elif output_dir.is_dir() and any(output_dir.iterdir()):
        raise FileExistsError(
            f"`output_dir` {output_dir} is not empty and holds no checkpoint to go on from; name another one, or pass "
            "--overwrite_output_dir"
        )
    return None if last is None else str(last)


def begin_run(args: TrainingArguments) -> None:
    """Marks `output_dir` as that of an unfinished run; with `overwrite_output_dir` deletes the checkpoints there."""
    output_dir = Path(args.output_dir)
    args.distributed_state.wait_for_everyone()  # all have looked before anything changes
    if args.should_save:
        if args.overwrite_output_dir:
            for each in _checkpoints(output_dir):
                shutil.rmtree(each)
        shutil.rmtree(output_dir / _ASIDE, ignore_errors=True)
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / UNFINISHED_RUN).touch()
    args.distributed_state.wait_for_everyone()


def end_run(args: TrainingArguments) -> None:
    """Says that all files of the run are there."""
    if args.should_save:
        (Path(args.output_dir) / UNFINISHED_RUN).unlink(missing_ok=True)


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The checkpoint of the highest step to go on from; what is wrong with later ones is said."""
    for checkpoint in reversed(_checkpoints(Path(output_dir))):
        fault = fault_of(checkpoint)
        if fault is None:
            return checkpoint
        logger.warning("%s is left out: %s", checkpoint, fault)
    return None


def checked_checkpoint(checkpoint: str | Path) -> Path:
    """The checkpoint, if a training can go on from it.

    Raises:
        ValueError: it is not complete; names the file.
    """
    fault = fault_of(Path(checkpoint))
    if fault is not None:
        raise ValueError(
            f"no training can go on from `{checkpoint}`: {fault}; name a complete checkpoint, or start a new run from "
            "its weights with `model_name_or_path`"
        )
    return Path(checkpoint)


def fault_of(checkpoint: Path) -> str | None:
    """Why no training can go on from a checkpoint, or None if one can."""
    fault = _damage_of(checkpoint)
    if fault is None and not _running_state_files(checkpoint):
        return "it was written with `save_only_model`, without the optimizer"
    return fault


def _damage_of(checkpoint: Path) -> str | None:
    """What a checkpoint lacks of what was written, or None."""
    if not checkpoint.is_dir():
        return "there is no such directory"
    try:
        sizes = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["sizes"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"it has no readable {MANIFEST}, so it was not written to its end, or not by this package"
    for name, size in sizes.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, but was written with {size}"
    return None


def _checkpoints(output_dir: Path) -> list[Path]:
    """Directories `checkpoint-N`, complete or not, by step."""
    name = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
    numbered = [(int(match[1]), path) for path in output_dir.glob("*") if (match := name.fullmatch(path.name))]
    return [path for _, path in sorted(numbered) if path.is_dir()]


def move_into_place(aside: Path, checkpoint: Path) -> None:
    """Completes what was written aside with its manifest, and moves it to its place once the disk has it."""
    files = [path for path in sorted(aside.rglob("*")) if path.is_file() and path.name != MANIFEST]
    sizes = {path.relative_to(aside).as_posix(): path.stat().st_size for path in files}
    (aside / MANIFEST).write_text(json.dumps({"sizes": sizes}, indent=1), encoding="utf-8")
    for path in [*files, aside / MANIFEST, *(each for each in aside.rglob("*") if each.is_dir()), aside]:
        _sync(path)
    if checkpoint.exists():  # a damaged one, or one that the run came to on another way
        os.replace(checkpoint, aside.with_name("replaced"))
    os.replace(aside, checkpoint)
    _sync(checkpoint.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rotate(output_dir: Path, *, limit: int | None, keep: set[str]) -> None:
    """Deletes all but the last `limit` checkpoints, and none that `keep` names.

    Damaged ones neither count nor go, so that the only good one always stays.
    """
    if not limit or limit < 0:
        return
    complete = [each for each in _checkpoints(output_dir) if _damage_of(each) is None]
    kept = sorted(complete, key=lambda each: each.name in keep)[-max(limit, len(keep)) :]
    for checkpoint in complete:
        if checkpoint not in kept:
            (output_dir / _ASIDE).mkdir(exist_ok=True)
            os.replace(checkpoint, output_dir / _ASIDE / checkpoint.name)  # half of it is never found
            shutil.rmtree(output_dir / _ASIDE)


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
        self._was_stopped_early = False
        self._aside: Path | None = None
        self.add_callback(_CheckpointEvents(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """As the parent's; `True` goes on from the last complete checkpoint in `args.output_dir`.

        Raises:
            ValueError: there is none, or the named one is not complete or holds more than tensors.
            TrainingStopped: a signal came, and a checkpoint was saved.
        """
        self.resume_from = None
        if resume_from_checkpoint is True:
            self.resume_from = last_complete_checkpoint(self.args.output_dir)
            if self.resume_from is None:
                raise ValueError(
                    f"`resume_from_checkpoint` is True, but `{self.args.output_dir}` holds no complete checkpoint; "
                    "leave it out to begin at step 0"
                )
        elif resume_from_checkpoint:
            self.resume_from = checked_checkpoint(resume_from_checkpoint)
        checkpoint = None if self.resume_from is None else str(self.resume_from)
        try:
            with self.stop_signals:
                return super().train(checkpoint, **kwargs)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"a file of `{checkpoint}` could run code, or is damaged, so it was not opened; go on from another "
                "checkpoint"
            ) from error

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
        more often.
        """
        loader = super()._get_dataloader(*args, **kwargs)
        inner = getattr(loader, "base_dataloader", loader)
        inner.generator = torch.Generator().manual_seed(self.args.seed)
        inner.worker_init_fn = leaves_signals_to_the_main_process(inner.worker_init_fn)
        return loader

    def complete_report(self, logs: dict[str, float]) -> None:
        """Makes the last report's loss that of the whole training; the parent's is of the steps since the restart."""
        if "train_loss" in logs:
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)

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
        aside = output_dir / _ASIDE
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
        stored = [json.loads(path.read_text(encoding="utf-8")) for path in _running_state_files(checkpoint)]
        if len(stored) == self.args.world_size:
            return stored[self.args.process_index]
        if self.is_world_process_zero():
            logger.warning(
                "%s was written by %d processes and goes on with %d: views and their order stay the same, random "
                "numbers inside the model (stochastic depth) do not",
                *(checkpoint, len(stored), self.args.world_size),
            )
        return _mean(stored)


def settle_gradient_layout(model: DistributedDataParallel, inputs: dict[str, Tensor]) -> None:
    """One backward pass that changes nothing, after which DDP lays out the gradients as it does for all later ones.

    It lays them out anew after its first backward pass, and where in a bucket a number lies decides in which order
    three or more processes sum it. So the first step after a restart would not be that of a run that went on.

    Args:
        model: not trained yet.
        inputs: of its forward.
    """
    model.eval()  # no random numbers, no batch statistics
    outputs = model(**inputs)
    outputs["logits"].float().sum().backward()
    model.zero_grad(set_to_none=True)


def _mean(values: list[Any]) -> Any:
    """Of equally built values, the mean of each float; all else is the same in all of them."""
    if isinstance(values[0], dict):
        return {name: _mean([value[name] for value in values]) for name in values[0]}
    return sum(values) / len(values) if isinstance(values[0], float) else values[0]


def _running_state_files(checkpoint: Path) -> list[Path]:
    """By number of the process."""
    return sorted(checkpoint.glob("running_state_*.json"), key=lambda path: int(path.stem.rpartition("_")[2]))


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def _not_written(args: TrainingArguments, output_dir: Path, name: str, error: BaseException) -> str:
    last = last_complete_checkpoint(output_dir)
    free = shutil.disk_usage(output_dir).free / 2**20 if output_dir.is_dir() else 0
    kept = f"the last complete one is {last}" if last is not None else "there is no earlier one"
    return (
        f"{name} could not be written to {output_dir} ({free:.0f} MiB free): {' '.join(str(error).split())}; {kept}. "
        f"Make room, or lower `save_total_limit`, and {_how_to_go_on(args)}"
    )


def _how_to_go_on(args: TrainingArguments) -> str:
    """With these options the same command would not: it would lose what there is, or begin where it began."""
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
        self.trainer.restore_running_state(None if checkpoint is None else self.trainer._stored_state(checkpoint))

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
            raise TrainingStopped(message)
