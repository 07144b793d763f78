"""The plan of a distillation job: its data, its runs, and the options of each."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import datasets

from ..data.check import check_data, log_data_report
from ..data.dataset import ImageDataset
from ..data.fingerprint import images_fingerprint
from ..data.holdout import FRACTION
from ..data.sources.arguments import DIGITS, DataArguments
from ..data.sources.class_folders import part_of
from ..data.sources.load import ImageParts, load_image_parts
from ..evaluation.metric_names import HEADS
from ..model.arguments import ModelArguments
from ..model.build import becomes_deit
from ..model.labels import label_config
from ..training.arguments import DistillationArguments
from ..training.recipe_file import parse_recipe
from .arguments import DEFAULT_STUDENT, JobArguments
from .settings import (
    DIGITS_STUDENT,
    DIGITS_TEACHER,
    Settings,
    digits_settings,
    pretrained_settings,
    scratch_settings,
    teacher_settings,
)

TEACHER_EPOCHS = 10
RUNS_FOLDER = "runs"
OPTION_TYPES = (ModelArguments, DataArguments, DistillationArguments)
# The options that the teacher's run takes, too; all others are those of the student.
FOR_THE_TEACHER = {"seed", "data_seed", "bf16", "fp16", "tf32", "on_bad_image", "class_weighting", "use_cpu"}
FOR_THE_TEACHER |= {"per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"}
FOR_THE_TEACHER |= {"disable_tqdm", "report_to", "overwrite_output_dir", "ddp_backend", "ddp_timeout", "verbose"}
FOR_THE_TEACHER |= {"training_views"}
WORKER_OPTIONS = "dataloader_"
# Options that do not change what a job on the digits trains, apart from its random numbers.
REPEATS_DIGITS = {"dataset_name", "seed", "data_seed", "disable_tqdm", "report_to", "overwrite_output_dir", "verbose"}
REPEATS_DIGITS |= {"training_views"}
_ONLY_WITH_A_TEACHER = ("teacher_", "distillation_", "evaluate_teacher", "push_to_hub", "hub_")
_SOURCES = ("teacher_model_name_or_path", "model_name_or_path", "variant")
_DEFAULTS = {each.name: each.default for each in fields(DataArguments)}


@dataclass
class JobData:
    """The data of a job.

    Attributes:
        args: where it comes from.
        parts: its rows; the validation part may be held out of the training part.
        labels: its classes, as fields of a model configuration.
    """

    args: DataArguments
    parts: ImageParts
    labels: dict[str, Any]

    @property
    def columns(self) -> dict[str, str]:
        """Names of the image and label columns."""
        return {name: getattr(self.args, name) for name in ("image_column_name", "label_column_name")}

    @property
    def train(self) -> datasets.Dataset:
        assert isinstance(self.parts.train, datasets.Dataset)
        return self.parts.train

    @property
    def names(self) -> list[str] | int:
        """Class names in label order, or their number if they have no names."""
        return list(self.labels.get("id2label", {}).values()) or self.labels["num_labels"]

    @property
    def final_part(self) -> str:
        """The part of the final table: `test`, or `evaluation` if there is no test part."""
        return "evaluation" if self.parts.test is None else "test"

    def images(self, part: str) -> ImageDataset:
        """The images of a part, with labels in the order of the data."""
        options: Any = {"num_classes": self.labels["num_labels"], "several_labels": part != "train", **self.columns}
        return ImageDataset(getattr(self.parts, part), **options)

    def fingerprints(self) -> dict[str, Any]:
        """Identifies the rows of each part by content."""
        parts = ("train", "evaluation", "test")
        return {part: images_fingerprint(self.images(part)) for part in parts if getattr(self.parts, part) is not None}

    def flags(self) -> str:
        """The arguments with which `deit-hf evaluate` measures on the same images as the job."""
        given = {name: value for name, value in _source(self).items() if value != _DEFAULTS[name]}
        data = given.pop("dataset_name", None)
        unused = ("max_train_samples", "num_labels")  # by an evaluation
        for name in unused if "train_val_split" in given else (*unused, "train_dir", "train_split"):
            given.pop(name, None)
        words = [] if data is None else [str(data)]
        return shlex.join([*words, *(word for name, value in given.items() for word in (f"--{name}", str(value)))])

    def example(self) -> str | None:
        """Path of an image of the final part, or None if the images are not files."""
        source = self.images(self.final_part).source(0)
        path = source.get("path") if isinstance(source, dict) else source
        return path if isinstance(path, str) and Path(path).is_file() else None


@dataclass
class JobRun:
    """One training of a job.

    Attributes:
        name: also the name of its folder.
        settings: settings that were chosen for it.
        options: its options: the settings, and what the user asked for.
    """

    name: str
    settings: Settings
    options: dict[str, Any] = field(default_factory=dict)

    def arguments(self, directory: Path) -> tuple[ModelArguments, DataArguments, DistillationArguments]:
        """The options as objects, with a folder in the directory of the job."""
        output = {"output_dir": str(directory / self.name)}
        options = {name: value for name, value in self.options.items() if value is not None}
        groups: Any = parse_recipe(OPTION_TYPES, [], defaults={**options, **output})
        return groups

    def defaults(self) -> dict[str, Any]:
        """The values that its options have unless the user gives others."""
        own = {each.name: each.default for kind in OPTION_TYPES for each in fields(kind)}
        return {**own, "distillation_type": "hard", **self.settings.options}

    def in_words(self) -> str:
        """Its settings and its length."""
        steps = float(self.options.get("max_steps") or 0)
        number, unit = (steps, "step") if steps > 0 else (float(self.options["num_train_epochs"]), "epoch")
        length = f"{number:g} {unit}{'' if number == 1 else 's'}"
        return f"{length} ({self.settings.reason})"


def load_data(options: Mapping[str, Any], *, is_main_process: bool) -> JobData:
    """Loads the data of a job and logs its report.

    Raises:
        ValueError: the data cannot be used, such as a folder without classes; names the fault.
        OSError: the data is not found.
    """
    given: Any = {name: options[name] for name in _DEFAULTS if name in options}
    asks = given.keys() & {"validation_dir", "eval_split", "train_val_split"}
    args = DataArguments(**(given if asks else {**given, "train_val_split": FRACTION}))
    parts = load_image_parts(args)
    if not asks and not parts.names["evaluation"].startswith("held out"):
        args.train_val_split = None
        parts.notes = [note for note in parts.notes if "`train_val_split` is not used" not in note]
    columns = {name: getattr(args, name) for name in ("image_column_name", "label_column_name")}
    if is_main_process:
        log_data_report(check_data(parts, **columns))
    assert isinstance(parts.train, datasets.Dataset)
    labels = label_config(parts.train, args.label_column_name, args.num_labels)
    if labels["num_labels"] < 2:
        raise ValueError("the data has one class, but a classifier needs two or more; add a folder for each class")
    return JobData(args, parts, labels)


def job_name(args: DataArguments) -> str:
    """Name of a job after its data: `photos` for `~/photos`, `user/photos` and `--train_dir photos/train`."""
    if args.dataset_name is not None:
        name = Path(args.dataset_name).resolve().name if Path(args.dataset_name).exists() else args.dataset_name
    else:
        folder = Path(str(args.train_dir)).resolve()
        name = folder.parent.name if part_of(folder.name) is not None else folder.name
    return re.sub(r"[^\w.-]+", "-", name.rpartition("/")[2]).strip("-.") or "job"


def uses_digits_settings(options: Mapping[str, Any]) -> bool:
    """Whether a job uses the settings of the digits: their data, and no teacher or student of the user's."""
    return options.get("dataset_name") == DIGITS and not any(options.get(name) for name in _SOURCES)


def repeats_digits(options: Mapping[str, Any]) -> bool:
    """Whether a job repeats the measured trainings on the digits: only seeds and options of the machine are given."""
    return uses_digits_settings(options) and all(
        name in REPEATS_DIGITS or name.startswith(WORKER_OPTIONS) for name in options
    )


def plan_student(data: JobData, options: Mapping[str, Any], *, teacher: str | None) -> JobRun:
    """Plans the run of the student, or of the same student without a teacher.

    Args:
        data: the data of the job.
        options: what the user asked for.
        teacher: source of the teacher; None for the student without one.
    """
    start: dict[str, Any] = {}
    if uses_digits_settings(options):
        settings = digits_settings(DIGITS_STUDENT)
    else:
        start = {} if options.get("variant") else {"model_name_or_path": DEFAULT_STUDENT}
        settings = _student_settings(len(data.train), {**start, **options})
    given = {name: value for name, value in options.items() if name not in _DEFAULTS}
    chosen = {**start, **settings.options, **given, **_source(data), "teacher_model_name_or_path": teacher}
    if teacher is not None:
        chosen.setdefault("distillation_type", "hard")
        return JobRun("student", settings, chosen)
    if "variant" in chosen:  # the paper's plain DeiT of the same size
        chosen["variant"] = chosen["variant"].replace("_distilled", "")
    return without_teacher(JobRun("plain", settings, chosen))


def without_teacher(run: JobRun, *, has_token: bool = False) -> JobRun:
    """The same run without a teacher, and without a push to the Hub.

    Args:
        run: of a student.
        has_token: whether a student from weights gets the distillation token all the same.
    """
    options = {name: value for name, value in run.options.items() if not name.startswith(_ONLY_WITH_A_TEACHER)}
    if has_token:
        options["use_distillation_token"] = True
    if str(options.get("metric_for_best_model", "")).endswith(HEADS):
        options.pop("metric_for_best_model")
    return JobRun(run.name, run.settings, options)


def _student_settings(num_images: int, options: Mapping[str, Any]) -> Settings:
    if options.get("variant"):
        return scratch_settings(num_images, options)
    return pretrained_settings(num_images, is_deit=becomes_deit(options["model_name_or_path"]))


def plan_teacher(data: JobData, options: Mapping[str, Any], job_args: JobArguments) -> JobRun:
    """Plans the run that fits the teacher to the data."""
    if uses_digits_settings(options):
        settings = digits_settings(DIGITS_TEACHER)
        start: dict[str, Any] = {}
    else:
        epochs = TEACHER_EPOCHS if job_args.teacher_epochs is None else job_args.teacher_epochs
        settings = teacher_settings(epochs, job_args.teacher_train_only)
        start = {"model_name_or_path": options["teacher_model_name_or_path"]}
    taken = {
        name: value for name, value in options.items() if name in FOR_THE_TEACHER or name.startswith(WORKER_OPTIONS)
    }
    return JobRun("teacher", settings, {**settings.options, **start, **taken, **_source(data)})


def _source(data: JobData) -> dict[str, Any]:
    values = {each.name: getattr(data.args, each.name) for each in fields(DataArguments)}
    return {name: value for name, value in values.items() if value is not None}
