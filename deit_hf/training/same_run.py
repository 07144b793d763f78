"""Whether a training continues the run that its directory or checkpoint remembers, and what it leaves to remember."""

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
from ..model.arguments import ModelArguments
from ..reliability.run_identity import Difference, differences, read_identity, refusal
from ..reliability.run_lock import decided_by_first
from .arguments import DistillationArguments
from .changeable_options import NOT_RECORDED, RATES, kind_of
from .recipe_file import CHANGED

logger = logging.getLogger(__name__)

LIBRARIES = ("deit_hf", "torch", "torchvision", "transformers", "accelerate", "datasets", "timm", "pillow")
SAID_ELSEWHERE = {*RATES, "num_processes"}  # schedule.py and resumable_trainer.py have a line of their own
NUM_VALUES = 4096  # of each tensor of a teacher, spread evenly


@dataclass(frozen=True)
class Training:
    """What a training consists of.

    Attributes:
        args: its options.
        config: of the student.
        views: of the training data; None without.
        teacher: None without.
        given_optimizer: classes of a given optimizer and schedule; None if they follow from the options.
    """

    args: DistillationArguments
    config: PreTrainedConfig
    views: TrainingViews | None
    teacher: Teacher | None
    given_optimizer: str | None


class SameRun:
    """Compares a training with the records of the run that it is to continue.

    Attributes:
        groups: instances of other classes of options that the run has, such as `ModelArguments`, by a name.
        identity: the record of this run, changes included; None before `settle`.
    """

    def __init__(self, describe: Callable[[], Training]):
        """`describe` returns the training as it is now."""
        self.describe = describe
        self.groups: dict[str, Any] = {}
        self.identity: dict[str, Any] | None = None
        self._settled: tuple[Path, ...] | None = None

    def settle(self, *places: Path) -> list[Difference]:
        """Compares this run with the records in `places`, and says what differs; once for the same first place.

        Args:
            places: a checkpoint or a run's directory, or both; none for a run from step 0.

        Returns:
            Differences that the weights depend on, all of them allowed; also noted in `identity`.

        Raises:
            ValueError: on all processes: a difference that is neither harmless nor allowed; names all of them.
        """
        if self.identity is None or self._settled != places[:1]:
            self.identity = decided_by_first(lambda: self._settle(places), self.describe().args.distributed_state)
            self._settled = places[:1]
        assert self.identity is not None
        return [Difference(*each) for each in self.identity["differences"]]

    def record(self) -> dict[str, Any]:
        """What a checkpoint or directory keeps of this run; after `settle`."""
        assert self.identity is not None
        return {part: value for part, value in self.identity.items() if part != "differences"}

    def forget(self) -> None:
        """The next training compares again: its options may be others."""
        self.identity = self._settled = None

    def changes_in_words(self) -> dict[str, str]:
        """What was changed on the way, by step."""
        changes = [] if self.identity is None else self.identity["changes"]
        lines: dict[str, list[str]] = {}
        for change in changes:
            lines.setdefault(f"{CHANGED} {change['step']}", []).append(str(Difference(*change["difference"])))
        return {step: "; ".join(texts) for step, texts in lines.items()}

    def _settle(self, places: Sequence[Path]) -> dict[str, Any]:
        training = self.describe()
        args, identity = training.args, collect_identity(training, self.groups)
        sorted_out: dict[str, dict[str, Difference]] = {"harmless": {}, "said": {}, "refused": {}, "fixed": {}}
        for place in places:
            stored = read_identity(place)
            if stored is None:
                logger.warning("%s does not say what was trained there, so nothing is compared", place)
                continue
            identity["changes"] = max(identity["changes"], stored["changes"], key=len)
            for difference in differences(stored, identity, _defaults(args)):
                kind = kind_of(difference, stored["options"]["training"], identity["options"]["training"])
                if kind == "refused" and difference.name in args.allow_changes:
                    kind = "said"
                sorted_out[kind].setdefault(difference.name, difference)
        refused, fixed = sorted_out["refused"].values(), sorted_out["fixed"].values()
        if refused or fixed:
            raise refusal(places[0], refused, fixed)
        said = [*sorted_out["said"].values()]
        _say("other settings, which the weights do not depend on", sorted_out["harmless"].values())
        _say("changes", said)
        identity["changes"] += [{"step": _step_of(places), "difference": [*difference]} for difference in said]
        identity["differences"] = [[*difference] for difference in said]
        return identity


def _say(what: str, found: Iterable[Difference]) -> None:
    texts = [str(difference) for difference in found if difference.name not in SAID_ELSEWHERE]
    if texts:
        logger.warning("%s: %s", what, "; ".join(texts))


def _step_of(places: Sequence[Path]) -> int:
    """The step at which the first of the places stands."""
    state = places[0] / TRAINER_STATE_NAME
    return int(json.loads(state.read_text(encoding="utf-8"))["global_step"]) if state.is_file() else 0


# ---- what a run is ----


def collect_identity(training: Training, groups: Mapping[str, Any]) -> dict[str, Any]:
    """Options and facts of a training, as JSON.

    Args:
        training: to be described.
        groups: other classes of options by name; `model` are `ModelArguments`.
    """
    args, teacher = training.args, training.teacher
    training_options = {**_options(args), "num_processes": args.world_size}
    if args.max_steps > 0:
        training_options["num_train_epochs"] = None  # not read then
    facts: dict[str, Any] = {"classes": _class_names(training.config)}
    if training.views is not None:
        facts["data"] = data_fingerprint(training.views)
    facts["teacher"] = None if teacher is None else teacher_fingerprint(teacher)
    if "model" in groups:
        facts["student"] = student_start(groups["model"])
    facts["optimizer"] = training.given_optimizer
    facts["libraries"] = {name: _version(name) for name in LIBRARIES}
    options = {"training": training_options, **{name: _options(group) for name, group in groups.items()}}
    return {"options": options, "facts": facts, "changes": []}


def _options(group: Any) -> dict[str, Any]:
    values = {field.name: getattr(group, field.name) for field in dataclasses.fields(group)}
    return {name: _plain(value) for name, value in values.items() if name not in NOT_RECORDED}


def _plain(value: Any) -> Any:
    """The value as JSON gives it back."""
    return json.loads(json.dumps(value, default=lambda other: getattr(other, "__dict__", None) or str(other)))


def _defaults(args: Any) -> dict[str, Any]:
    return {field.name: _plain(field.default) for field in dataclasses.fields(args) if _is_plain(field.default)}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _class_names(config: Any) -> list[str]:
    return [str(config.id2label[index]) for index in sorted(config.id2label)]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # on the path, but not installed
        return "unknown"


def teacher_fingerprint(teacher: Teacher) -> dict[str, Any]:
    """What a teacher is: its weights, batch statistics, normalisation and size; no names and no paths."""
    normalisation = {name: tensor for name, tensor in teacher.state_dict().items() if name.startswith("pixel_")}
    return {
        "weights": tensors_fingerprint(teacher.module.state_dict()),
        "normalisation": tensors_fingerprint(normalisation),
        "image_size": None if teacher.image_size is None else list(teacher.image_size),
    }


def tensors_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, kinds, shapes and of values spread over each tensor."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().reshape(-1)
        step = max(1, values.numel() // NUM_VALUES)
        sample = values[::step].contiguous().cpu().view(torch.uint8)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}:".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def student_start(model_args: ModelArguments) -> dict[str, Any] | None:
    """The weights that a student starts from, by content where they are files of this machine; None from scratch."""
    source = model_args.model_name_or_path
    if source is None:
        return None
    name, _, file = source.partition("@")
    if file:
        return {"source": name, "weights": file_fingerprint(Path(file))}
    files = sorted([*Path(source).glob("*.safetensors"), *Path(source).glob("*.bin")]) if Path(source).is_dir() else []
    files = [path for path in files if path.name != "training_args.bin"]
    return {path.name: file_fingerprint(path) for path in files} or {"source": source}
