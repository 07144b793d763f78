"""Checkpoint directories that are complete or absent.

A checkpoint is written to a temporary folder, synced and renamed. A manifest lists its files for later checks.
"""

import logging
import os
import re
import shutil
from functools import partial
from pathlib import Path

from transformers import TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..atomic_files import MANIFEST, damage_of, has_hashes, write_manifest
from .run_identity import RUN_IDENTITY
from .run_lock import HOLDER, LOCK
from .verification import agreed, unreadable_file

logger = logging.getLogger(__name__)

UNFINISHED_RUN = ".unfinished-run"  # a file in the directory of a run until all files of the run are written
ASIDE = ".unfinished-checkpoint"


# ---- directories ----


def find_checkpoint(args: TrainingArguments) -> str | None:
    """The checkpoint to resume from: `resume_from_checkpoint`, or else the last complete one in `output_dir`.

    Returns:
        None to start at step 0, always so with `overwrite_output_dir`.

    Raises:
        FileExistsError: `output_dir` holds something other than an unfinished run.
        ValueError: the checkpoint that `resume_from_checkpoint` names is incomplete or damaged.
    """
    if args.overwrite_output_dir:
        return None
    if args.resume_from_checkpoint is not None:
        return str(checked_checkpoint(args.resume_from_checkpoint, args))
    output_dir = Path(args.output_dir)
    last = last_sound_checkpoint(args)
    if is_finished(output_dir):
        return None if last is None else str(last)  # the caller compares the runs before it decides to continue
    if last is not None:
        logger.warning("resuming from %s; to start again from step 0, pass --overwrite_output_dir", last)
    elif (output_dir / UNFINISHED_RUN).exists() and not _checkpoints(output_dir):
        logger.warning("%s holds a run that stopped before its first checkpoint; starting at step 0", output_dir)
    elif output_dir.is_dir() and {path.name for path in output_dir.iterdir()} - {LOCK, HOLDER}:
        raise FileExistsError(
            f"`output_dir` {output_dir} is not empty and holds no checkpoint to resume from; name another directory, "
            "or pass --overwrite_output_dir"
        )
    return None if last is None else str(last)


def begin_run(args: TrainingArguments) -> None:
    """Marks the run in `output_dir` as unfinished; with `overwrite_output_dir`, deletes the checkpoints there."""
    output_dir = Path(args.output_dir)
    args.distributed_state.wait_for_everyone()  # all processes have read the directory before it changes
    if args.should_save:
        if args.overwrite_output_dir:
            delete_checkpoints(output_dir)
        shutil.rmtree(output_dir / ASIDE, ignore_errors=True)
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / UNFINISHED_RUN).touch()
    args.distributed_state.wait_for_everyone()


def delete_checkpoints(output_dir: str | Path) -> None:
    """Deletes the checkpoints of an earlier run, for `overwrite_output_dir`."""
    for each in _checkpoints(Path(output_dir)):
        shutil.rmtree(each)


def is_finished(output_dir: str | Path) -> bool:
    """Whether a directory holds a run that has written all its files."""
    return (Path(output_dir) / RUN_IDENTITY).is_file() and not (Path(output_dir) / UNFINISHED_RUN).exists()


def remembered_places(args: TrainingArguments, checkpoint: str | None) -> list[Path]:
    """Directories whose run records must match: the checkpoint, and `output_dir` if it can hold another run."""
    output_dir = Path(args.output_dir)
    if args.overwrite_output_dir:
        return []
    places = [] if checkpoint is None else [Path(checkpoint)]
    comes_from_elsewhere = checkpoint is not None and Path(checkpoint).resolve().parent != output_dir.resolve()
    if is_finished(output_dir) or (comes_from_elsewhere and _checkpoints(output_dir)):
        places.append(output_dir)
    return places


def end_run(args: TrainingArguments) -> None:
    """Marks the run in `output_dir` as finished: all its files are written."""
    if args.should_save:
        (Path(args.output_dir) / UNFINISHED_RUN).unlink(missing_ok=True)


def last_sound_checkpoint(args: TrainingArguments) -> Path | None:
    """The checkpoint of the highest step in `output_dir` whose files are undamaged; None if there is none.

    Logs what is wrong with later checkpoints. One process reads the files; all processes get the same answer.
    """
    names = agreed(args, lambda: [each.name for each in _checkpoints(Path(args.output_dir))]) or []
    for checkpoint in (Path(args.output_dir) / name for name in reversed(names)):
        fault = agreed(args, partial(fault_of, checkpoint, compares_hashes=True))
        if fault is None:
            _warn_if_unhashed(checkpoint, args)
            return checkpoint
        if args.should_log:
            logger.warning("%s is skipped: %s", checkpoint, fault)
    return None


def checked_checkpoint(checkpoint: str | Path, args: TrainingArguments) -> Path:
    """The checkpoint, if a training can resume from it.

    One process reads the files; all processes get the same answer.

    Raises:
        ValueError: the checkpoint is incomplete or damaged; names the file.
    """
    fault = agreed(args, partial(fault_of, Path(checkpoint), compares_hashes=True))
    if fault is not None:
        raise ValueError(
            f"cannot resume from `{checkpoint}`: {fault}; name a complete checkpoint, or start a new run from its "
            "weights with `model_name_or_path`"
        )
    _warn_if_unhashed(Path(checkpoint), args)
    return Path(checkpoint)


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The checkpoint of the highest step that has all its files in the right sizes; does not read their content."""
    complete = (each for each in reversed(_checkpoints(Path(output_dir))) if fault_of(each) is None)
    return next(complete, None)


def fault_of(checkpoint: Path, *, compares_hashes: bool = False) -> str | None:
    """Why a training cannot resume from a checkpoint, or None if it can.

    Args:
        checkpoint: its directory.
        compares_hashes: whether to read all files; otherwise only names and sizes are compared.
    """
    fault = damage_of(checkpoint, compares_hashes=compares_hashes)
    if fault is None and not running_state_files(checkpoint):
        return "it was written with `save_only_model`, without the optimizer"
    return unreadable_file(checkpoint) if fault is None and compares_hashes else fault


def _warn_if_unhashed(checkpoint: Path, args: TrainingArguments) -> None:
    if args.should_log and not has_hashes(checkpoint):
        logger.warning(
            "%s was written by an earlier version, which recorded no hashes: its files have the right sizes and can "
            "be opened, but a damaged number in them would not be noticed",
            checkpoint,
        )


def _checkpoints(output_dir: Path) -> list[Path]:
    """Directories `checkpoint-N`, complete or not, sorted by step."""
    name = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
    numbered = [(int(match[1]), path) for path in output_dir.glob("*") if (match := name.fullmatch(path.name))]
    return [path for _, path in sorted(numbered) if path.is_dir()]


def running_state_files(checkpoint: Path) -> list[Path]:
    """The running_state files of a checkpoint, sorted by process index."""
    return sorted(checkpoint.glob("running_state_*.json"), key=lambda path: int(path.stem.rpartition("_")[2]))


def move_into_place(aside: Path, checkpoint: Path) -> None:
    """Adds the manifest to a checkpoint in its temporary folder, syncs it to disk, and renames it."""
    files = write_manifest(aside)
    for path in [*files, aside / MANIFEST, *(each for each in aside.rglob("*") if each.is_dir()), aside]:
        sync(path)
    if checkpoint.exists():  # it is damaged, or the run was resumed from an earlier step
        os.replace(checkpoint, aside.with_name("replaced"))
    os.replace(aside, checkpoint)
    sync(checkpoint.parent)


def sync(path: Path) -> None:
    """Syncs a file to disk, or a directory where the system can: Windows neither opens nor needs to sync one."""
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows syncs only writable files
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rotate(output_dir: Path, *, limit: int | None, keep: set[str]) -> None:
    """Deletes all but the last `limit` checkpoints, but never those named in `keep`.

    Damaged checkpoints are neither counted nor deleted, so the only undamaged one is always kept.
    """
    if not limit or limit < 0:
        return
    complete = [each for each in _checkpoints(output_dir) if damage_of(each, compares_hashes=False) is None]
    kept = sorted(complete, key=lambda each: each.name in keep)[-max(limit, len(keep)) :]
    for checkpoint in complete:
        if checkpoint not in kept:
            (output_dir / ASIDE).mkdir(exist_ok=True)
            os.replace(checkpoint, output_dir / ASIDE / checkpoint.name)  # so that no half-deleted one is ever found
            shutil.rmtree(output_dir / ASIDE)
