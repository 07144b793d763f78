"""Which job a directory holds: the same job continues there, another one is refused or gets another directory."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..atomic_files import write_text
from ..reliability.checkpoints import is_finished
from ..reliability.run_identity import Difference
from ..reliability.run_lock import HOLDER, LOCK

JOB_FILE, RESULTS_FILE = "job.json", "results.json"
TEACHER_FILE = "teacher_{}.json"  # accuracy of the teacher on a part of the data


def choose_directory(
    output_dir: str | None, identity: Mapping[str, Any], *, name: str, folder: Path, overwrite: bool = False
) -> Path:
    """Returns the directory of a job; writes nothing.

    Args:
        output_dir: the directory that the user named; None to choose `name` in `folder`, or `name-2`, `name-3`, ... if
            that holds another job.
        identity: what the job consists of.
        name: name of the job.
        folder: where jobs without a named directory lie.
        overwrite: whether another job in the named directory may be replaced.

    Raises:
        ValueError: the named directory holds another job; names the differences.
        FileExistsError: the named directory holds something else.
    """
    if output_dir is not None:
        if not overwrite:
            _check(Path(output_dir), identity)
        return Path(output_dir)
    number = 1
    while True:
        directory = folder / (name if number == 1 else f"{name}-{number}")
        if _is_free(directory) or read_json(directory / JOB_FILE) == identity:
            return directory
        number += 1


def begin_job(directory: Path, identity: Mapping[str, Any], *, overwrite: bool) -> None:
    """Records the job of a directory, and removes results that will be written again.

    Args:
        directory: of the job.
        identity: what the job consists of.
        overwrite: whether all stages are repeated, and the teacher is measured again.
    """
    (directory / RESULTS_FILE).unlink(missing_ok=True)
    if overwrite or read_json(directory / JOB_FILE) != identity:  # another job, which had trained nothing
        for path in directory.glob(TEACHER_FILE.format("*")):
            path.unlink()
    write_json(directory / JOB_FILE, identity)


def _check(directory: Path, identity: Mapping[str, Any]) -> None:
    if _is_free(directory):
        return
    stored = read_json(directory / JOB_FILE)
    if stored is None:
        raise FileExistsError(
            f"`output_dir` {directory} is not empty and holds no distillation job; name another directory"
        )
    names = [name for name in {**stored, **identity} if stored.get(name) != identity.get(name)]
    if names:
        found = [_difference(name, stored.get(name), identity.get(name)) for name in names]
        raise ValueError(
            f"`output_dir` {directory} holds another job: {'; '.join(found)}; name another directory, leave "
            "`output_dir` out, use the stored values to continue that job, or pass --overwrite_output_dir true to "
            "replace it"
        )


def _difference(name: str, stored: Any, given: Any) -> str:
    """Describes what differs; for the data, the parts and their numbers of images instead of hashes."""
    if name != "data" or not isinstance(stored, dict):
        return str(Difference(name, stored, given))
    parts = []
    for part in {**stored, **given}:
        before, now = ((data.get(part) or {}).get("rows", "no") for data in (stored, given))
        if stored.get(part) != given.get(part):
            parts.append(f"{part} had {before} images and has {f'{now} others' if now == before else now}")
    return f"`data` ({', '.join(parts)})"


def _is_free(directory: Path) -> bool:
    """Whether a job can start in a directory: it does not exist, is empty, or holds a job that has trained nothing."""
    if not directory.is_dir():
        return not directory.exists()
    names = {path.name for path in directory.iterdir()} - {LOCK, HOLDER}
    if JOB_FILE not in names:
        return not names
    runs = [path for path in directory.iterdir() if path.is_dir()]
    return not any(is_finished(run) or any(run.glob(f"{PREFIX_CHECKPOINT_DIR}-*")) for run in runs)


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a file of a job; None if it does not exist.

    Raises:
        ValueError: the file is damaged; names it.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`{path}` is damaged ({error}); delete it, or name another directory") from error
    if not isinstance(content, dict):
        raise ValueError(f"`{path}` is damaged: it is not a JSON object; delete it, or name another directory")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a file of a job, in full or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, default=os.fspath) + "\n")
