"""A Trainer with a teacher (sec. 4), or with the stored answers of one."""

from functools import partial
from typing import Any

from accelerate.utils import send_to_device
from torch import Tensor
from transformers import BaseImageProcessor, PreTrainedConfig

from ..data.finishing import PixelFinisher
from ..distillation.losses import TopLogits
from ..distillation.teacher import Teacher, fitting_teacher
from ..evaluation.teacher_accuracy import teacher_accuracy
from ..evaluation.teacher_fit import Counted, TeacherFit, measure_fit
from ..model.compiled import is_compiled
from ..model.image_processing_deit import statistics_of
from ..reliability.out_of_memory import evaluation_advice, explained_out_of_memory
from ..reliability.run_lock import decided_by_first
from .answer_store import StoredAnswers, Views
from .logging_trainer import LoggingTrainer

FIT_BATCH_SIZE = 16  # small, because a slow teacher on a CPU should take seconds; a compiled one keeps its batch size


class TeacherTrainer(LoggingTrainer):
    """A `LoggingTrainer` that answers training views with a teacher, or from a store.

    Attributes:
        teacher: None without a teacher, and if its answers are stored.
        answers: the stored answers, or None.
        fit: how often the teacher is right on the training views; None before the first training, or if that was not
            measured.
    """

    def __init__(self, *args: Any, teacher: Teacher | None, **options: Any):
        """Takes the arguments of `DistillationTrainer`."""
        self.teacher = teacher
        self.answers: StoredAnswers | None = None
        self.fit: TeacherFit | None = None
        self._given_teacher = teacher  # `teacher` is None while its answers are stored
        self._answered: Any = None  # the training views that `answers` belong to
        self._place: tuple[int, list[int]] | None = None  # epoch and positions of the batch
        super().__init__(*args, **options)

    def check_student(self, config: PreTrainedConfig, processor: BaseImageProcessor) -> None:
        """Refuses a teacher that is missing, not needed, or does not fit the student's pixels and labels."""
        self.teacher = self._given_teacher if self.teacher is None else self.teacher
        if self.teacher is None and self.args.teacher_cache is not None:
            return
        self.teacher = fitting_teacher(
            self.teacher,
            distillation_type=self.args.distillation_type,
            student_config=config,
            student_mean=statistics_of(processor)["mean"],
            student_std=statistics_of(processor)["std"],
        )

    def take_teacher(self) -> None:
        """Moves the teacher to the device; or opens the store of its answers, and drops the teacher.

        Raises:
            FileNotFoundError: there is no such store, or it lacks an epoch.
            ValueError: the store does not fit; names each difference.
        """
        self.answers, self._answered = None, self.train_dataset
        if self.args.teacher_cache is not None and self.train_dataset is not None:
            teacher = self._given_teacher if self.teacher is None else self.teacher
            self.answers = StoredAnswers(self.described_views(), teacher, self.accelerator.mixed_precision)
            self.teacher, self._given_teacher = None, teacher
        elif self.teacher is not None:
            self.teacher.to(self.args.device)

    def has_other_views(self) -> bool:
        """Whether the training views are not those for which the store was opened."""
        return self.args.teacher_cache is not None and self._answered is not self.train_dataset

    def described_views(self) -> Views:
        """Returns what the training views of the current options depend on."""
        sampler = self.make_view_sampler()
        sets = self.eval_dataset
        evaluation = next(iter(sets.values())) if isinstance(sets, dict) else sets
        return Views(self.args, self.model.config, self.processing_class, self.train_dataset, sampler, evaluation)

    def pixel_values(self, batch: dict[str, Any]) -> Tensor:
        """Returns the normalised, erased and mixed pixels (B, channels, height, width) of a training batch."""
        return self._views.pixel_values(batch)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Like `Trainer.floating_point_ops`, which looks for `pixel_values`, for a batch of training views."""
        return super().floating_point_ops({"pixel_values": inputs["pixels"]} if "pixels" in inputs else inputs)

    @property
    def teacher_name(self) -> str | None:
        """The name of the teacher, or its class if it has no name; None without a teacher."""
        if self.answers is not None:
            return self.answers.name
        if self.teacher is None or self.teacher.name != "teacher":
            return None if self.teacher is None else self.teacher.name
        return f"a {type(self.teacher.module).__name__}"

    def see_views(self, batch: dict[str, Any]) -> None:
        """Remembers the place of a training batch in its epoch, and compares its views with the stored ones.

        Raises:
            ValueError: they differ; names epoch, positions and versions of the libraries.
        """
        if self.answers is not None:
            self._place = batch["epoch"], batch["positions"]
            self.answers.check_views(*self._place, batch["checksums"])

    def teacher_logits(self, pixel_values: Tensor) -> Tensor | TopLogits | None:
        """Returns the answers to the batch that was seen last, (B, C) or its greatest ones; None without a teacher.

        Args:
            pixel_values: (B, channels, height, width), of the batch; not used if the answers are stored.
        """
        if self.answers is not None:
            assert self._place is not None
            return self.answers.logits(*self._place, pixel_values.device)
        if self.teacher is None:
            return None
        with self.accelerator.autocast():
            return self.teacher(pixel_values)

    def measure_fit(self) -> TeacherFit | None:
        """Measures the teacher on the evaluation data and on about 512 training views; None without a teacher.

        The first process measures the training views for all. Random states and data workers are not used. Stored
        answers are compared with the labels of their views.
        """
        mixing, views = self._views.collator().mixing, self.train_dataset
        if self.answers is not None:
            return self.answers.fit(views, self.make_view_sampler(), mixing)
        if self.teacher is None:
            return None
        evaluation = None
        if self.eval_dataset is not None:
            dataset = (
                next(iter(self.eval_dataset.values())) if isinstance(self.eval_dataset, dict) else self.eval_dataset
            )
            evaluation = Counted(round(self.evaluate_teacher()["top1"] * len(dataset)), len(dataset))
        module, batch_size = self.teacher.module, self.args.train_batch_size
        measure = partial(
            measure_fit,
            self.teacher,
            views,
            mixing=mixing,
            finish=PixelFinisher(**statistics_of(self.processing_class)),
            batch_size=batch_size if is_compiled(module) else FIT_BATCH_SIZE,
            device=self.args.device,
        )
        with self.accelerator.autocast():
            measured = decided_by_first(measure, self.args.distributed_state)
        assert measured is not None
        return TeacherFit(evaluation, *measured)

    def evaluate_teacher(self) -> dict[str, float]:
        """Returns `top1`, `top5` and `loss` of the teacher on `eval_dataset`, or on the first of several.

        The teacher gets the student's evaluation views, normalised and resized for it as in training. The numbers
        can therefore differ a little from those with the teacher's own preprocessing.

        Raises:
            ValueError: the trainer has no teacher or no `eval_dataset`.
        """
        for name in ("teacher", "eval_dataset"):
            if getattr(self, name) is None:
                raise ValueError(f"the trainer has no `{name}`, which `evaluate_teacher` needs; create it with one")
        assert self.teacher is not None
        dataset = next(iter(self.eval_dataset.values())) if isinstance(self.eval_dataset, dict) else self.eval_dataset
        batches = (send_to_device(batch, self.args.device) for batch in self.get_eval_dataloader(dataset))
        advice = partial(evaluation_advice, self.args.per_device_eval_batch_size)
        with self.accelerator.autocast(), explained_out_of_memory(advice):
            return teacher_accuracy(self.teacher, batches, self.accelerator.gather_for_metrics)
