"""Compares a training with the recorded run of its directory or checkpoint, and creates the record of this run."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.trainer import TRAINER_STATE_NAME

from ..data.dataset import TrainingViews
from ..data.fingerprint import data_fingerprint, file_fingerprint
from ..distillation.teacher import Teacher
from ..reliability.run_identity import Difference, differences, read_identity, refusal
from ..reliability.run_lock import decided_by_first
from .arguments import DistillationArguments
from .changeable_options import NOT_RECORDED, RATES, kind_of
from .recipe_file import CHANGED

logger = logging.getLogger(__name__)

LIBRARIES = ("deit_hf", "torch", "torchvision", "transformers", "accelerate", "datasets", "timm", "pillow")
LOGGED_ELSEWHERE = {*RATES, "num_processes"}  # in schedule.py and running_state.py
NUM_VALUES = 4096  # hashed values of each tensor of a teacher, evenly spaced


@dataclass(frozen=True)
class Training:
    """Everything that describes a training.

    Attributes:
        args: its options.
        config: the student's configuration.
        views: views of the training data, or None.
        teacher: the teacher, or the `teacher_facts` of the one whose answers are stored, or None.
        given_optimizer: class names of a given optimizer and schedule; None if neither was given.
    """

    args: DistillationArguments
    config: PreTrainedConfig
    views: TrainingViews | None
    teacher: Teacher | Mapping[str, Any] | None
    given_optimizer: str | None


class SameRun:
    """Compares a training with the records of the run that it continues.

    Attributes:
        groups: other options of the run by name, such as an instance of `ModelArguments`.
        identity: the record of this run, with its changes; None before `settle`.
    """

    def __init__(self, describe: Callable[[], Training]):
        """Stores `describe`, which returns the current training."""
        self.describe = describe
        self.groups: dict[str, Any] = {}
        self.identity: dict[str, Any] | None = None
        self._settled: tuple[Path, ...] | None = None

    def settle(self, *places: Path) -> list[Difference]:
        """Compares this run with the records in `places`, and logs the differences.

        A second call with the same first place does not compare again.

        Args:
            places: a checkpoint, the directory of a run, or both; none for a run from step 0.

        Returns:
            The allowed differences that the weights depend on; `identity` also has them.

        Raises:
            ValueError: a difference is neither harmless nor allowed; names all of these, on all processes.
        """
        if self.identity is None or self._settled != places[:1]:
            self.identity = decided_by_first(lambda: self._settle(places), self.describe().args.distributed_state)
            self._settled = places[:1]
        assert self.identity is not None
        return [Difference(*each) for each in self.identity["differences"]]

    def record(self) -> dict[str, Any]:
        """Returns the record of this run for a checkpoint or directory; call `settle` first."""
        assert self.identity is not None
        return {part: value for part, value in self.identity.items() if part != "differences"}

    def forget(self) -> None:
        """Makes the next training compare again, because its options can be different."""
        self.identity = self._settled = None

    def changes_in_words(self) -> dict[str, str]:
        """Returns the options that were changed during the run, by step."""
        changes = [] if self.identity is None else self.identity["changes"]
        lines: dict[str, list[str]] = {}
        for change in changes:
            lines.setdefault(f"{CHANGED} {change['step']}", []).append(str(Difference(*change["difference"])))
        return {step: "; ".join(texts) for step, texts in lines.items()}

    def _settle(self, places: Sequence[Path]) -> dict[str, Any]:
        training = self.describe()
        args, identity = training.args, collect_identity(training, self.groups)
        sorted_out: dict[str, dict[str, Difference]] = {"harmless": {}, "logged": {}, "refused": {}, "fixed": {}}
        for place in places:
            stored = read_identity(place)
            if stored is None:
                logger.warning(
                    "%s has no record of its run, so nothing is compared; make sure that options, data and teacher "
                    "are those of that run",
                    place,
                )
                continue
            identity["changes"] = max(identity["changes"], stored["changes"], key=len)
            for difference in differences(stored, identity, _defaults(args)):
                kind = kind_of(difference, stored["options"]["training"], identity["options"]["training"])
                if kind == "refused" and difference.name in args.allow_changes:
                    kind = "logged"
                sorted_out[kind].setdefault(difference.name, difference)
        refused, fixed = sorted_out["refused"].values(), sorted_out["fixed"].values()
        if refused or fixed:
            raise refusal(places[0], refused, fixed)
        allowed = [*sorted_out["logged"].values()]
        _log("other settings, which do not affect the weights", sorted_out["harmless"].values())
        _log("changes", allowed)
        identity["changes"] += [{"step": _step_of(places), "difference": [*difference]} for difference in allowed]
        identity["differences"] = [[*difference] for difference in allowed]
        return identity


def _log(what: str, found: Iterable[Difference]) -> None:
    texts = [str(difference) for difference in found if difference.name not in LOGGED_ELSEWHERE]
    if texts:
        logger.warning("%s: %s", what, "; ".join(texts))


def _step_of(places: Sequence[Path]) -> int:
    """Returns the number of steps of the first place; 0 if it is not a checkpoint."""
    state = places[0] / TRAINER_STATE_NAME
    return int(json.loads(state.read_text(encoding="utf-8"))["global_step"]) if state.is_file() else 0


# ---- the record of a run ----


def collect_identity(training: Training, groups: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options and facts of a training, as JSON values.

    Args:
        training: the training to describe.
        groups: other options by name; `model` is an instance of `ModelArguments`.
    """
    args, teacher = training.args, training.teacher
    training_options = {**_options(args), "num_processes": args.world_size}
    if args.max_steps > 0:
        training_options["num_train_epochs"] = None  # ignored if `max_steps` is given
    facts: dict[str, Any] = {"classes": _class_names(training.config)}
    if training.views is not None:
        facts["data"] = data_fingerprint(training.views)
    facts |= teacher_facts(teacher) if isinstance(teacher, Teacher) else teacher or {"teacher": None}
    if "model" in groups:
        facts["student"] = weights_facts(groups["model"].model_name_or_path)
    facts["optimizer"] = training.given_optimizer
    facts["libraries"] = {name: installed_version(name) for name in LIBRARIES}
    options = {"training": training_options, **{name: _options(group) for name, group in groups.items()}}
    return {"options": options, "facts": facts, "changes": []}


def _options(group: Any) -> dict[str, Any]:
    values = {field.name: getattr(group, field.name) for field in dataclasses.fields(group)}
    return {name: _plain(value) for name, value in values.items() if name not in NOT_RECORDED}


def _plain(value: Any) -> Any:
    """Converts a value to JSON types."""
    return json.loads(json.dumps(value, default=lambda other: getattr(other, "__dict__", None) or str(other)))


def _defaults(args: Any) -> dict[str, Any]:
    return {field.name: _plain(field.default) for field in dataclasses.fields(args) if _is_plain(field.default)}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _class_names(config: Any) -> list[str]:
    return [str(config.id2label[index]) for index in sorted(config.id2label)]


def installed_version(name: str) -> str:
    """The version of a library, or `unknown` if it is imported from a path without being installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def teacher_facts(teacher: Teacher) -> dict[str, Any]:
    """Identifies a teacher, and which of its classes is which of the student's."""
    indices = teacher.label_indices
    return {
        "teacher": teacher_fingerprint(teacher),
        "teacher_labels": None if indices is None else indices.tolist(),  # None: the same order
    }


def teacher_fingerprint(teacher: Teacher) -> dict[str, Any]:
    """Identifies a teacher by its weights, batch statistics, normalisation and image size, not by names or paths."""
    normalisation = {name: tensor for name, tensor in teacher.state_dict().items() if name.startswith("pixel_")}
    return {
        "weights": tensors_fingerprint(teacher.module.state_dict()),
        "normalisation": tensors_fingerprint(normalisation),
        "image_size": None if teacher.image_size is None else list(teacher.image_size),
    }


def tensors_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Hashes names, dtypes, shapes, and evenly spaced values of each tensor."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().reshape(-1)
        step = max(1, values.numel() // NUM_VALUES)
        sample = values[::step].contiguous().cpu().view(torch.uint8)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}:".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def weights_facts(source: str | None) -> dict[str, Any] | None:
    """Identifies weights: local files by content, others by name; None for none.

    Args:
        source: as in `model_name_or_path`.
    """
    if source is None:
        return None
    name, _, file = source.partition("@")
    if file:
        return {"source": name, "weights": file_fingerprint(Path(file))}
    files = sorted([*Path(source).glob("*.safetensors"), *Path(source).glob("*.bin")]) if Path(source).is_dir() else []
    files = [path for path in files if path.name != "training_args.bin"]
    return {path.name: file_fingerprint(path) for path in files} or {"source": source}
