"""Images per second of a whole training, compared with timm and transformers on the same files.

Without a teacher, plain DeiTs learn from labels. With a teacher, distilled DeiTs learn from its decisions (hard
distillation), computed in each step or stored before. The trainings alternate, an epoch or more at a time.
"""

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from safetensors.torch import save_file

from ..argument_checks import check, check_choice
from ..data.sources.arguments import DataArguments
from ..data.sources.load import ImageParts, load_image_datasets
from ..distillation.teacher import Teacher
from ..model.arguments import ModelArguments
from ..model.configuration_deit import DeiTConfig
from ..model.modeling_deit import DeiTForImageClassification
from ..model.timm_models import create_timm_model, names_weights
from ..training.arguments import DistillationArguments
from ..training.run import make_trainer
from ..training.trainer import DistillationTrainer
from .comparison import (
    DTYPES,
    OURS,
    Comparison,
    Contender,
    check_compiler,
    device_of_benchmarks,
    in_turn,
    ratios_of,
    rows_of,
    synchronize,
    threads,
)
from .input import generate_jpegs
from .peers import TimmImages, TimmTraining, timm_view, transformers_model

PLAIN, ONLINE, STORED = "no teacher", "teacher in each step", "stored answers"
STORES_ANSWERS = importlib.util.find_spec("deit_hf.training.answer_store") is not None
NUM_GENERATED_CLASSES = 10
NOTES = (
    "all use the paper's augmentation, without repeats (timm has them only in distributed training)",
    "transformers: Trainer with timm's transforms; it does not mix images, and its DeiT has no stochastic depth",
    "waits for data: share of the time in which the process of the training waited for the next batch",
)
WITHOUT_TEACHER = (
    "no rows with a teacher: name one with `--teacher SOURCE`, or measure the cost of an architecture with `--teacher "
    "timm:regnety_160 --random_teacher`"
)


@dataclass(frozen=True)
class Setup:
    """What all trainings have in common.

    Attributes:
        size: of the student: `tiny`, `small` or `base`.
        rows: of the data, with encoded images.
        data_args: where the rows are from.
        files: bytes or paths of the images.
        labels: of the images.
        num_classes: of the data.
        folder: for files of the trainings.
        teacher: its source; None for trainings without one.
    """

    size: str
    rows: datasets.Dataset
    data_args: DataArguments
    files: list[bytes | str]
    labels: list[int]
    num_classes: int
    folder: str
    image_size: int
    batch_size: int
    num_epochs: int
    num_workers: int
    dtype: str
    compiled: bool
    teacher: str | None = None

    @property
    def variant(self) -> str:
        """The plain variant, or the distilled one with a teacher."""
        return f"deit_{self.size}{'' if self.teacher is None else '_distilled'}_patch16_224"

    @property
    def num_images(self) -> int:
        """Images of a run; incomplete batches are left out."""
        return len(self.files) // self.batch_size * self.batch_size * self.num_epochs

    def trainer_options(self, name: str) -> dict[str, Any]:
        """Options of transformers' `TrainingArguments`."""
        return {
            "output_dir": f"{self.folder}/{name}",
            "num_train_epochs": self.num_epochs,
            "per_device_train_batch_size": self.batch_size,
            "dataloader_num_workers": self.num_workers,
            "weight_decay": 0.05,
            "bf16": self.dtype == "bfloat16",
            "torch_compile": self.compiled,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }


@dataclass(frozen=True)
class Run:
    """One training of `num_epochs`: seconds, and the seconds in which it waited for a batch."""

    seconds: float
    waiting: float


def measure_trainings(
    *,
    dataset_name: str | None = None,
    train_dir: str | None = None,
    train_split: str = "train",
    image_column_name: str = "image",
    label_column_name: str = "label",
    num_images: int = 64,
    size: str = "tiny",
    teacher: str | None = None,
    random_teacher: bool = False,
    num_epochs: int = 1,
    num_workers: int = 2,
    batch_size: int | None = None,
    num_rounds: int = 3,
    image_size: int = 224,
    dtype: str = "float32",
    compiled: bool = False,
    num_threads: int | None = None,
) -> Comparison:
    """Measures trainings of deit_hf, timm and transformers on the same files.

    Args:
        dataset_name: Hub id or local directory. Without it and `train_dir`, JPEGs are generated.
        train_dir: folder with one sub-folder per class.
        train_split: of the dataset.
        image_column_name: column that holds the images.
        label_column_name: column that holds the labels.
        num_images: images of an epoch, at least `batch_size`.
        size: of the student.
        teacher: source of the teacher, as in a training; None leaves out the rows with a teacher.
        random_teacher: whether the teacher is `timm:NAME` with random weights.
        num_epochs: epochs of one run.
        num_workers: data workers.
        batch_size: images per step, an even number. Default: 8 on CPUs, 256 on an accelerator.
        num_rounds: measured runs of each training; one more comes first as a warm-up.
        image_size: side of a view in pixels, a multiple of 16.
        dtype: `float32`, or `bfloat16` for mixed precision.
        compiled: whether all models are compiled with `torch.compile`.
        num_threads: of torch on the CPU. Default: torch's own choice.

    Raises:
        OSError: a source does not exist.
        ValueError: a number is out of range, or the teacher does not fit the data.
    """
    device = device_of_benchmarks()
    batch_size = (8 if device.type == "cpu" else 256) if batch_size is None else batch_size
    _check(batch_size=batch_size, num_rounds=num_rounds, num_epochs=num_epochs, num_workers=num_workers)
    check("image_size", image_size, lambda v: v >= 16 and v % 16 == 0, "a multiple of 16 pixels")
    is_enough: Any = {"allowed": lambda v: v >= batch_size, "description": f"{batch_size} or more, as `batch_size`"}
    check("num_images", num_images, **is_enough)
    check_choice("size", size, ("tiny", "small", "base"))
    check_choice("dtype", dtype, tuple(DTYPES))
    _check_random_teacher(teacher, random_teacher)
    if compiled:
        check_compiler(device)
    with tempfile.TemporaryDirectory() as folder, threads(num_threads):
        columns: Any = {"image_column_name": image_column_name, "label_column_name": label_column_name}
        if dataset_name is None and train_dir is None:
            train_dir = _write_generated(num_images, folder)
        data_args = DataArguments(
            dataset_name=dataset_name,
            train_dir=train_dir,
            train_split=train_split,
            max_train_samples=num_images,
            **columns,
        )
        options = {"image_size": image_size, "num_epochs": num_epochs, "num_workers": num_workers, "dtype": dtype}
        setup = _setup(data_args, folder, size=size, batch_size=batch_size, compiled=compiled, **options)
        check(
            "num_images", len(setup.files), lambda v: v >= batch_size, f"{batch_size} or more, which is `batch_size`"
        )
        source = _random_weights(teacher, setup) if random_teacher and teacher else teacher
        runs = in_turn(_contenders(setup, source), num_rounds)
        notes = [*NOTES, WITHOUT_TEACHER if teacher is None else _teacher_note(teacher, random_teacher)]
        settings = {"size": size, "num_images": len(setup.files), "batch_size": batch_size, **options}
        settings |= {"compiled": compiled, "num_rounds": num_rounds, "threads": torch.get_num_threads()}
        return Comparison("training", settings, _rows(runs, setup.num_images), notes)


def _check(**numbers: int) -> None:
    check(
        "batch_size", numbers["batch_size"], lambda v: v >= 2 and v % 2 == 0, "an even number, since pairs are mixed"
    )
    check("num_workers", numbers["num_workers"], lambda v: v >= 0, "0 or more")
    for name in ("num_rounds", "num_epochs"):
        check(name, numbers[name], lambda v: v >= 1, "1 or more")


def _check_random_teacher(teacher: str | None, random_teacher: bool) -> None:
    if random_teacher and (teacher is None or not teacher.startswith("timm:") or names_weights(teacher)):
        raise ValueError(
            f"`random_teacher` needs `teacher` timm:NAME without a file, but it is {teacher}; pass --teacher "
            "timm:regnety_160, or leave `random_teacher` out"
        )


def _write_generated(num_images: int, folder: str) -> str:
    """Writes generated JPEGs as class folders, and returns their folder."""
    rows = generate_jpegs(num_images).cast_column("image", datasets.Image(decode=False))
    root = Path(folder, "images")
    for index, row in enumerate(rows):
        path = root / f"class_{index % min(NUM_GENERATED_CLASSES, num_images)}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["image"]["bytes"])
    return str(root)


def _setup(data_args: DataArguments, folder: str, **options: Any) -> Setup:
    rows = load_image_datasets(data_args)[0]
    assert isinstance(rows, datasets.Dataset)
    undecoded = rows.cast_column(data_args.image_column_name, datasets.Image(decode=False))
    files = [file["bytes"] or file["path"] for file in undecoded[data_args.image_column_name]]
    labels = list(rows[data_args.label_column_name])
    feature = rows.features[data_args.label_column_name]
    num_classes = getattr(feature, "num_classes", None) or max(labels) + 1
    if num_classes < 2:
        raise ValueError("the images have 1 class, but a classifier needs 2 or more; name another dataset")
    return Setup(
        rows=rows, data_args=data_args, files=files, labels=labels, num_classes=num_classes, folder=folder, **options
    )


def _random_weights(teacher: str, setup: Setup) -> str:
    """Saves a randomly initialised timm model with the classes of the data, and returns its source."""
    path = f"{setup.folder}/teacher.safetensors"
    save_file(create_timm_model(teacher, setup.num_classes, pretrained=False).state_dict(), path)
    return f"{teacher}@{path}"


def _teacher_note(teacher: str, random_teacher: bool) -> str:
    return f"teacher: {teacher}{', with random weights: only its cost counts' if random_teacher else ''}"


def _contenders(setup: Setup, teacher: str | None) -> dict[Contender, Callable[[], Run]]:
    """Returns a function for each row of the table that trains once; its models and workers are made once."""
    contenders: dict[Contender, Callable[[], Run]] = {
        (PLAIN, OURS): _timed_trainer(_own_trainer(setup, *_own_options(setup, "plain"))),
        (PLAIN, "timm"): _timm(setup, None),
        (PLAIN, "transformers"): _transformers(setup),
    }
    if teacher is not None:
        taught = replace(setup, teacher=teacher)
        trainer = _own_trainer(taught, *_own_options(taught, "online"))
        contenders[ONLINE, OURS] = _timed_trainer(trainer)
        contenders[ONLINE, "timm"] = _timm(taught, trainer.teacher)
        if STORES_ANSWERS:
            contenders[STORED, OURS] = _stored(taught)
    return contenders


def _own_options(setup: Setup, name: str, **options: Any) -> tuple[ModelArguments, DistillationArguments]:
    args = DistillationArguments(
        **setup.trainer_options(name),
        distillation_type="none" if setup.teacher is None else "hard",
        repeated_augmentation=1,
        warmup_epochs=0,
        **options,
    )
    student: Any = {"variant": setup.variant, "image_size": setup.image_size}
    return ModelArguments(**student, teacher_model_name_or_path=setup.teacher), args


def _own_trainer(setup: Setup, model_args: ModelArguments, args: DistillationArguments) -> DistillationTrainer:
    return make_trainer(model_args, setup.data_args, args, ImageParts(train=setup.rows))[0]


def _stored(setup: Setup) -> Callable[[], Run]:
    """Stores the teacher's answers for all epochs of a run, and returns the training that reads them."""
    from ..training.answer_store import store_answers  # type: ignore[import-not-found]

    model_args, args = _own_options(setup, "stored", teacher_cache=f"{setup.folder}/answers")
    store_answers(model_args, setup.data_args, args)
    return _timed_trainer(_own_trainer(setup, replace(model_args, teacher_model_name_or_path=None), args))


def _transformers(setup: Setup) -> Callable[[], Run]:
    """`Trainer` with transformers' plain DeiT and cross-entropy."""
    config = DeiTConfig.from_variant(setup.variant, image_size=setup.image_size, num_labels=setup.num_classes)
    images = TimmImages(setup.files, setup.labels)
    images.transform = timm_view(setup.image_size)
    trainer = transformers.Trainer(
        transformers_model(DeiTForImageClassification(config)),
        transformers.TrainingArguments(
            **setup.trainer_options("transformers"), dataloader_drop_last=True, remove_unused_columns=False
        ),
        train_dataset=images,
        data_collator=_collated,
    )
    return _timed_trainer(trainer)


def _collated(items: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    views, labels = zip(*items, strict=True)
    return {"pixel_values": torch.stack(views), "labels": torch.tensor(labels)}


def _timm(setup: Setup, teacher: Teacher | None) -> Callable[[], Run]:
    training = TimmTraining(
        setup.variant,
        TimmImages(setup.files, setup.labels),
        num_classes=setup.num_classes,
        teacher=teacher,
        image_size=setup.image_size,
        batch_size=setup.batch_size,
        num_workers=setup.num_workers,
        dtype=DTYPES[setup.dtype],
        device=device_of_benchmarks(),
        compiled=setup.compiled,
    )
    return _timed(partial(training.run, setup.num_epochs), training.waiting)


def _timed_trainer(trainer: transformers.Trainer) -> Callable[[], Run]:
    waiting: list[float] = []
    trainer.get_batch_samples = _recorded(trainer.get_batch_samples, waiting)
    return _timed(trainer.train, waiting)


def _recorded(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """Returns the function, which then adds the duration of each call to a list."""

    def timed(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            seconds.append(time.perf_counter() - start)

    return timed


def _timed(run: Callable[[], Any], waiting: list[float]) -> Callable[[], Run]:
    """Returns a function that runs and measures; the run adds the seconds that it waits to a list."""

    def timed() -> Run:
        waiting.clear()
        start = time.perf_counter()
        run()
        synchronize(device_of_benchmarks())
        return Run(time.perf_counter() - start, sum(waiting))

    return timed


def _rows(runs: Mapping[Contender, list[Run]], num_images: int) -> list[dict[str, Any]]:
    speeds = {contender: [num_images / run.seconds for run in each] for contender, each in runs.items()}
    rows = rows_of(speeds)
    for row in rows:
        contender = row["setting"], row["package"]
        row["data_wait"] = statistics.median(run.waiting / run.seconds for run in runs[contender])
        if row["setting"] != PLAIN:
            row["of_no_teacher"] = statistics.median(ratios_of(speeds[contender], speeds[PLAIN, row["package"]]))
    return rows
