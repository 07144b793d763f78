"""The models of a report: those that are named, and those that belong to the same job."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..hub.public_text import public_texts, shown
from ..reliability.checkpoints import is_finished
from .directory import JOB_FILE, read_json

logger = logging.getLogger(__name__)

RECIPE, STATE = "recipe.yaml", "trainer_state.json"
STUDENT, PLAIN = "student", "plain"  # runs of a job
SUMMARY = "# Effective settings of the run:"


class ReportSources(NamedTuple):
    """What a report compares.

    Attributes:
        models: directories or Hub ids.
        teachers: sources of teachers, and the models that each one taught; empty for the one that the user named.
        asked: whether the user named the teacher, so that it must not be left out.
    """

    models: list[str]
    teachers: dict[str, list[str]]
    asked: bool


def find_sources(names: Sequence[str], teacher: str | None) -> ReportSources:
    """Finds the models and the teachers of a report.

    The directory of a job stands for its student. For a student of a job, its student without a teacher is added. The
    teacher of each job or run is used if it is a local directory, so that nothing is downloaded unasked.

    Args:
        names: directories or Hub ids.
        teacher: as the user named it, or None.

    Raises:
        FileNotFoundError: a job has no finished student.
    """
    models: dict[str, str] = {}  # by place, so that none is measured twice
    for name in names:
        job = Path(name)
        if not (job / JOB_FILE).is_file():
            models.setdefault(_place(name), name)
            continue
        if not is_finished(job / STUDENT):
            raise FileNotFoundError(f"`{name}` is a distillation job without a finished student; finish it first")
        models.setdefault(_place(str(job / STUDENT)), str(job / STUDENT))
    students = [Path(model) for model in models.values() if Path(model).name == STUDENT]
    for plain in (student.parent / PLAIN for student in students if (student.parent / JOB_FILE).is_file()):
        if is_finished(plain):
            models.setdefault(_place(str(plain)), str(plain))
    if teacher is not None:
        return ReportSources([*models.values()], {teacher: []}, asked=True)
    teachers: dict[str, list[str]] = {}
    sources: dict[str, str] = {}  # by place
    for model in models.values():
        found = _teacher_of(model)
        if found is not None and _place(found) not in models:
            teachers.setdefault(sources.setdefault(_place(found), found), []).append(model)
    return ReportSources([*models.values()], teachers, asked=False)


def _place(source: str) -> str:
    return str(Path(source).resolve()) if Path(source).exists() else source


def _teacher_of(model: str) -> str | None:
    """The teacher that the recipe of a run names, if it is a local directory; logs another one."""
    recipe = Path(model) / RECIPE
    if not recipe.is_file():
        return None
    try:
        named = dict(yaml.safe_load(recipe.read_text(encoding="utf-8"))).get("teacher_model_name_or_path")
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"`{recipe}` is damaged ({type(error).__name__}); copy it again, or delete it") from error
    if named is None:
        return None
    places, sibling = [Path(named)], Path(model).resolve().parent / Path(named).name
    can_be_of_hub = re.fullmatch(r"[^/.~][^/]*/[^/]+", named) is not None
    in_job, fits = (sibling.parent / JOB_FILE).is_file(), sibling.parts[-2:] == Path(named).parts
    if in_job or fits or not can_be_of_hub:  # the run may have been started, or moved, elsewhere
        places.append(sibling)
    found = next((str(place) for place in places if (place / "config.json").is_file()), None)
    if found is None:
        logger.warning(
            "`%s` learned from %s, which is not a directory here; --teacher adds it to the report", model, named
        )
    return found


def display_names(sources: Sequence[str]) -> list[str]:
    """Names of models for people, each once: with as few of the directories that they are in as tell them apart."""
    paths = [Path(source).resolve().parts[1:] if Path(source).exists() else () for source in sources]
    names = [
        "/".join(path[-1:]) or shown(source).removeprefix("timm:") for source, path in zip(sources, paths, strict=True)
    ]
    for length in range(2, max(map(len, paths), default=0) + 1):
        places = {*zip(names, paths, strict=True)}  # a model that is named twice needs no directories
        clashing = {name for name, count in Counter(name for name, _ in places).items() if count > 1}
        names = [
            "/".join(path[-length:]) if path and name in clashing else name
            for name, path in zip(names, paths, strict=True)
        ]
    return [f"{name} ({i + 1})" if name in names[:i] else name for i, name in enumerate(names)]


def run_facts(model: str) -> dict[str, Any] | None:
    """What the directory of a run tells about the training, without local paths; None if it holds no run.

    Returns:
        `settings`: the effective settings by topic. `results`: numbers of the training. `log`: entries of the log.
    """
    directory = Path(model)
    if not ((directory / STATE).is_file() and (directory / RECIPE).is_file()):
        return None
    texts = public_texts(directory, directory.resolve().name)
    recipe = texts.get(RECIPE) or (directory / RECIPE).read_text(encoding="utf-8")
    comments = recipe.partition(SUMMARY)[2].partition("\n")[2].splitlines()
    matches = (re.fullmatch(r"# (.+?) {2,}(.+)", line) for line in comments if line.startswith("#"))
    measured = read_json(directory / "train_results.json") or {}
    speed = ("train_runtime", "train_runtime_since_step", "train_samples_per_second")
    names = ("epoch", *speed, "train_loss", "train_data_wait")
    return {
        "settings": {match[1]: match[2] for match in matches if match},
        "results": {name: measured[name] for name in names if name in measured},
        "log": (read_json(directory / STATE) or {}).get("log_history", []),
    }
