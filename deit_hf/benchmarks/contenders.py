"""The trainings that the benchmark of training compares: those of deit_hf, timm and transformers on the same files."""

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import datasets
import torch
import transformers

from ..argument_checks import check, check_choice
from ..data.sources.arguments import DataArguments
from ..data.sources.load import ImageParts
from ..distillation.teacher import Teacher
from ..model.arguments import ModelArguments
from ..model.configuration_deit import DeiTConfig
from ..model.modeling_deit import DeiTForImageClassification
from ..training.answer_filling import store_answers
from ..training.arguments import DistillationArguments
from ..training.run import make_trainer
from ..training.trainer import DistillationTrainer
from .comparison import DTYPES, OURS, Contender, check_compiler, device_of_benchmarks, synchronize
from .peers import PAPER, TimmImages, TimmTraining, timm_view, transformers_model

PLAIN, ONLINE, STORED = "no teacher", "teacher in each step", "stored answers"


@dataclass(frozen=True)
class Setup:
    """What all trainings have in common.

    Attributes:
        size: of the student: `tiny`, `small` or `base`.
        batch_size: images per step.
        rows: of the data, with encoded images.
        data_args: where the rows are from.
        files: bytes or paths of the images.
        labels: of the images.
        num_classes: of the data.
        folder: for files of the trainings.
        image_size: side of a view in pixels, a multiple of 16.
        num_epochs: epochs of one run.
        num_workers: data workers.
        dtype: `float32`, or `bfloat16` for mixed precision.
        compiled: whether all models are compiled with `torch.compile`.
        teacher: its source; None for trainings without one.

    Raises:
        ValueError: a value is out of range, or there is no compiler.
    """

    size: str
    batch_size: int
    rows: datasets.Dataset
    data_args: DataArguments
    files: list[bytes | str]
    labels: list[int]
    num_classes: int
    folder: str
    image_size: int = 224
    num_epochs: int = 1
    num_workers: int = 2
    dtype: str = "float32"
    compiled: bool = False
    teacher: str | None = None

    def __post_init__(self) -> None:
        check_choice("size", self.size, ("tiny", "small", "base"))
        check_choice("dtype", self.dtype, tuple(DTYPES))
        check("image_size", self.image_size, lambda v: v >= 16 and v % 16 == 0, "a multiple of 16 pixels")
        check("num_epochs", self.num_epochs, lambda v: v >= 1, "1 or more")
        check("num_workers", self.num_workers, lambda v: v >= 0, "0 or more")
        if self.compiled:
            check_compiler(device_of_benchmarks())

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
            "dataloader_pin_memory": device_of_benchmarks().type != "cpu",
            "learning_rate": 5e-4,
            "weight_decay": PAPER["weight_decay"],
            "use_cpu": device_of_benchmarks().type == "cpu",  # else `Trainer` refuses bf16
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


def contenders_of(setup: Setup, teacher: str | None) -> dict[Contender, Callable[[], Run]]:
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
        contenders[STORED, OURS] = _stored(taught)
    return contenders


def _own_options(setup: Setup, name: str, **options: Any) -> tuple[ModelArguments, DistillationArguments]:
    args = DistillationArguments(
        **setup.trainer_options(name),
        distillation_type="none" if setup.teacher is None else "hard",
        repeated_augmentation=1,
        warmup_epochs=0,
        min_learning_rate=0.0,
        **options,
    )
    student: Any = {"variant": setup.variant, "image_size": setup.image_size}
    return ModelArguments(**student, teacher_model_name_or_path=setup.teacher), args


def _own_trainer(setup: Setup, model_args: ModelArguments, args: DistillationArguments) -> DistillationTrainer:
    return make_trainer(model_args, setup.data_args, args, ImageParts(train=setup.rows))[0]


def _stored(setup: Setup) -> Callable[[], Run]:
    """Stores the teacher's answers for all epochs of a run, and returns the training that reads them."""
    model_args, args = _own_options(setup, "stored", teacher_cache=f"{setup.folder}/answers")
    with contextlib.redirect_stdout(sys.stderr):  # the table alone is the output
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

    def timed() -> Run:
        training.waiting.clear()
        start = time.perf_counter()
        training.run(setup.num_epochs)
        synchronize(device_of_benchmarks())
        return Run(time.perf_counter() - start, sum(training.waiting))

    return timed


def _timed_trainer(trainer: transformers.Trainer) -> Callable[[], Run]:
    waiting: list[float] = []
    trainer.get_batch_samples = _recorded(trainer.get_batch_samples, waiting)
    trainer.remove_callback(transformers.PrinterCallback)  # each round would print its losses
    epochs = _Epochs()
    trainer.add_callback(epochs)

    def timed() -> Run:
        epochs.seconds.clear()
        waiting.clear()
        trainer.train()
        return Run(sum(epochs.seconds), sum(waiting))

    return timed


class _Epochs(transformers.TrainerCallback):
    """Measures epochs, without what a trainer does once: a long training takes no longer for it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        synchronize(args.device)
        self.seconds.append(time.perf_counter() - self._start)


def _recorded(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """Returns the function, which then adds the duration of each call to a list."""

    def timed(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            seconds.append(time.perf_counter() - start)

    return timed
