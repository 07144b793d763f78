"""A Trainer that logs the terms of the loss, shows its progress, and evaluates the same weights once."""

from contextlib import closing
from typing import Any

from transformers.trainer_utils import TrainOutput

from ..data.fingerprint import spread_places
from ..data.resizing import typical_short_side
from ..data.streaming import StreamViews
from ..distillation.teacher import Teacher
from ..model.image_processing_deit import crop_size
from .data_wait import DataWait
from .input_report import InputReport
from .loss_log import LossLog
from .optimizing_trainer import OptimizingTrainer
from .progress import Progress, replace_progress

NUM_SIZES = 8  # images whose size is read


class LoggingTrainer(OptimizingTrainer):
    """An `OptimizingTrainer` with a log of the loss terms and a console of its own.

    Attributes:
        teacher: set by a subclass; None without one.
        loss_log: means of the loss terms; a subclass adds them and the callback.
        data_wait: measures how long the device waits for data.
        input_report: says so after the first steps, and what to do.
        progress: draws and prints, unless `verbose` is set, or transformers draws in a notebook.
    """

    teacher: Teacher | None = None

    def __init__(self, *args: Any, **options: Any):
        """Takes the arguments of `DistillationTrainer`, except those of the objective."""
        self._last_evaluation: tuple[int, dict[str, float]] | None = None  # step and metrics of all sets
        super().__init__(*args, **options)
        self.loss_log = LossLog(self.step_outcome)
        self.data_wait = DataWait(self.step_outcome, self.args.device)
        self.input_report = InputReport(self.data_wait, teacher=lambda: self.teacher, sizes=self._sizes)
        for callback in (self.data_wait, self.input_report):
            self.add_callback(callback)
        self.progress = Progress(self._eval_parts, self._recent_means)
        if not self.args.verbose:
            replace_progress(self.callback_handler.callbacks, self.progress)

    def _eval_parts(self) -> list[str]:
        return list(self.eval_dataset) if isinstance(self.eval_dataset, dict) else []

    def _recent_means(self) -> dict[str, float]:
        return {**self.loss_log.recent_means(), **self.data_wait.recent()}

    def _sizes(self) -> tuple[float | None, int]:
        """Returns the typical short side of the training images, or None for a stream, and the side of a view."""
        view = max(crop_size(self.processing_class))
        if self.train_dataset is None or isinstance(self.train_dataset, StreamViews):
            return None, view
        images = self.train_dataset.images
        return typical_short_side(images.source(place) for place in spread_places(len(images), NUM_SIZES)), view

    def train(self, resume_from_checkpoint: str | bool | None = None, **options: Any) -> TrainOutput:
        """Like `Trainer.train`; removes the bars from the console however the training ends."""
        self._last_evaluation = None
        with closing(self.progress):
            return super().train(resume_from_checkpoint, **options)

    def get_batch_samples(self, *args: Any, **options: Any) -> tuple[list, Any]:
        """Like `Trainer.get_batch_samples`, and measures the time in which the device waits for the batches."""
        with self.data_wait.fetching() as batches:
            found, num_items = super().get_batch_samples(*args, **options)
            batches += found
        return found, num_items

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Like `Trainer.log`, with the share of the time in which the device waited for data."""
        self.data_wait.complete(logs)
        super().log(logs, start_time)

    # ---- evaluation ----

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Like `Trainer.evaluate`; also remembers the metrics for `metrics_of_weights`."""
        try:
            metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        finally:
            self.progress.close_evaluation()
        if eval_dataset is None and metric_key_prefix == "eval":
            self._last_evaluation = self.state.global_step, dict(metrics)
        return metrics

    def load_best_model(self) -> None:
        """Also forgets the metrics of the last step, if the best checkpoint is of another step."""
        super().load_best_model()
        if self.state.best_model_checkpoint is not None and self.state.best_global_step != self.state.global_step:
            self._last_evaluation = None

    def metrics_of_weights(self) -> dict[str, float]:
        """Returns the metrics of the weights at the end of a training, without measuring the same weights twice.

        Call it before anything is changed after the training: weights, evaluation data and options.
        """
        step, metrics = self._last_evaluation or (None, {})
        return dict(metrics) if step == self.state.global_step else self.evaluate()

    # ---- checkpoints ----

    def running_state(self) -> dict[str, Any]:
        """Also returns the sums of the loss log."""
        return {**super().running_state(), "means": self.loss_log.state()}

    def restore_running_state(self, state: dict[str, Any] | None) -> None:
        """Also restores or resets the loss log."""
        super().restore_running_state(state)
        self.loss_log.restore(None if state is None else state["means"])
