"""Checkpoint directories that are complete or absent: written aside, synced, renamed, and checked by a manifest."""

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

UNFINISHED_RUN = ".unfinished-run"  # stands in the directory of a run until all its files are there
ASIDE = ".unfinished-checkpoint"


# ---- directories ----


def find_checkpoint(args: TrainingArguments) -> str | None:
    """The checkpoint that a run goes on from: `resume_from_checkpoint`, else the last complete one in `output_dir`.

    Returns:
        None to begin at step 0, as `overwrite_output_dir` always does.

    Raises:
        FileExistsError: `output_dir` holds something else than an unfinished run.
        ValueError: the checkpoint that `resume_from_checkpoint` names is not complete, or is damaged.
    """
    if args.overwrite_output_dir:
        return None
    if args.resume_from_checkpoint is not None:
        return str(checked_checkpoint(args.resume_from_checkpoint, args))
    output_dir = Path(args.output_dir)
    last = last_sound_checkpoint(args)
    if is_finished(output_dir):
        return None if last is None else str(last)  # whether it continues is known once it is compared
    if last is not None:
        logger.warning("going on from %s; start anew with --overwrite_output_dir", last)
    elif (output_dir / UNFINISHED_RUN).exists() and not _checkpoints(output_dir):
        logger.warning("%s holds a run that stopped before its first checkpoint; it starts again", output_dir)
    elif output_dir.is_dir() and {path.name for path in output_dir.iterdir()} - {LOCK, HOLDER}:
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
            delete_checkpoints(output_dir)
        shutil.rmtree(output_dir / ASIDE, ignore_errors=True)
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / UNFINISHED_RUN).touch()
    args.distributed_state.wait_for_everyone()


def delete_checkpoints(output_dir: str | Path) -> None:
    """Deletes the checkpoints of an earlier run, as `overwrite_output_dir` asks for."""
    for each in _checkpoints(Path(output_dir)):
        shutil.rmtree(each)


def is_finished(output_dir: str | Path) -> bool:
    """Whether a directory holds a run whose files are all there."""
    return (Path(output_dir) / RUN_IDENTITY).is_file() and not (Path(output_dir) / UNFINISHED_RUN).exists()


def remembered_places(args: TrainingArguments, checkpoint: str | None) -> list[Path]:
    """Where records are that a run must agree with: its checkpoint, and `output_dir` if it holds another's files."""
    output_dir = Path(args.output_dir)
    if args.overwrite_output_dir:
        return []
    places = [] if checkpoint is None else [Path(checkpoint)]
    comes_from_elsewhere = checkpoint is not None and Path(checkpoint).resolve().parent != output_dir.resolve()
    if is_finished(output_dir) or (comes_from_elsewhere and _checkpoints(output_dir)):
        places.append(output_dir)
    return places


def end_run(args: TrainingArguments) -> None:
    """Says that all files of the run are there."""
    if args.should_save:
        (Path(args.output_dir) / UNFINISHED_RUN).unlink(missing_ok=True)


def last_sound_checkpoint(args: TrainingArguments) -> Path | None:
    """The checkpoint of the highest step in `output_dir` whose files are those that were written.

    What is wrong with later ones is said. All processes get the same answer; one of them reads.
    """
    names = agreed(args, lambda: [each.name for each in _checkpoints(Path(args.output_dir))]) or []
    for checkpoint in (Path(args.output_dir) / name for name in reversed(names)):
        fault = agreed(args, partial(fault_of, checkpoint, compares_hashes=True))
        if fault is None:
            _say_if_unhashed(checkpoint, args)
            return checkpoint
        if args.should_log:
            logger.warning("%s is left out: %s", checkpoint, fault)
    return None


def checked_checkpoint(checkpoint: str | Path, args: TrainingArguments) -> Path:
    """The checkpoint, if a training can go on from it. All processes get the same answer; one of them reads.

    Raises:
        ValueError: it is not complete, or is damaged; names the file.
    """
    fault = agreed(args, partial(fault_of, Path(checkpoint), compares_hashes=True))
    if fault is not None:
        raise ValueError(
            f"no training can go on from `{checkpoint}`: {fault}; name a complete checkpoint, or start a new run from "
            "its weights with `model_name_or_path`"
        )
    _say_if_unhashed(Path(checkpoint), args)
    return Path(checkpoint)


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The checkpoint of the highest step that has all its files, by their sizes alone."""
    complete = (each for each in reversed(_checkpoints(Path(output_dir))) if fault_of(each) is None)
    return next(complete, None)


def fault_of(checkpoint: Path, *, compares_hashes: bool = False) -> str | None:
    """Why no training can go on from a checkpoint, or None if one can.

    Args:
        checkpoint: its directory.
        compares_hashes: reads all its files; otherwise only names and sizes are compared.
    """
    fault = damage_of(checkpoint, compares_hashes=compares_hashes)
    if fault is None and not running_state_files(checkpoint):
        return "it was written with `save_only_model`, without the optimizer"
    return unreadable_file(checkpoint) if fault is None and compares_hashes else fault


def _say_if_unhashed(checkpoint: Path, args: TrainingArguments) -> None:
    if args.should_log and not has_hashes(checkpoint):
        logger.warning(
            "%s is of an earlier version, which recorded no hashes: sizes are right and files open, but a damaged "
            "number in them would not be noticed",
            checkpoint,
        )


def _checkpoints(output_dir: Path) -> list[Path]:
    """Directories `checkpoint-N`, complete or not, by step."""
    name = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
    numbered = [(int(match[1]), path) for path in output_dir.glob("*") if (match := name.fullmatch(path.name))]
    return [path for _, path in sorted(numbered) if path.is_dir()]


def running_state_files(checkpoint: Path) -> list[Path]:
    """By number of the process."""
    return sorted(checkpoint.glob("running_state_*.json"), key=lambda path: int(path.stem.rpartition("_")[2]))


def move_into_place(aside: Path, checkpoint: Path) -> None:
    """Completes what was written aside with its manifest, and moves it to its place once the disk has it."""
    files = write_manifest(aside)
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
    complete = [each for each in _checkpoints(output_dir) if damage_of(each, compares_hashes=False) is None]
    kept = sorted(complete, key=lambda each: each.name in keep)[-max(limit, len(keep)) :]
    for checkpoint in complete:
        if checkpoint not in kept:
            (output_dir / ASIDE).mkdir(exist_ok=True)
            os.replace(checkpoint, output_dir / ASIDE / checkpoint.name)  # half of it is never found
            shutil.rmtree(output_dir / ASIDE)
