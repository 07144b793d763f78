"""The input pipeline of a run: rows, augmentation, sampling order and batches."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import datasets
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, TrainerCallback

from ..data.dataset import EvaluationViews, ImageDataset, TrainingViews, ViewCollator
from ..data.finishing import PixelFinisher
from ..data.mixing import MAX_BLOCK_SIZE, Mixing, mix_targets
from ..data.sampling import ViewSampler
from ..data.sources.shards import ShardedRows
from ..data.streaming import ImageStream, StreamSampler, StreamViews
from ..data.transforms import VIEW_OPTIONS, evaluation_view, training_view
from ..distillation.view_checksums import view_checksum
from ..evaluation.metric_names import are_parts, check_best_metric
from ..model.image_processing_deit import crop_size, statistics_of
from ..model.labels import class_names, has_labels, match_labels, real_names, take_names
from .arguments import DistillationArguments
from .option_values import check_stream_options
from .small_runs import fit_batch_to_data

logger = logging.getLogger(__name__)

TRAINING_ADVICE = "rename the classes, or start a new head for the classes of the data"
EVALUATION_ADVICE = (
    "rename the classes of the data to those of the model, or name class folders by the model's class indices "
    "(0, 1, 2, ...)"
)


def _columns_of(rows: Any) -> Any:
    """Returns the dataset that has the `features` of the rows."""
    return rows.rows if isinstance(rows, ShardedRows) else rows


@dataclass(frozen=True)
class InputPipeline:
    """Makes the views of a run from its options.

    Attributes:
        args: the recipe.
        processor: image processor of the student.
        config: the student's configuration, with its classes.
        image_column_name: column with the images.
        label_column_name: column with the class indices.
        warned: notes on labels that were already logged.
    """

    args: DistillationArguments
    processor: Any
    config: PreTrainedConfig
    image_column_name: str
    label_column_name: str
    warned: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for name in ("image_column_name", "label_column_name"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(
                    f"`{name}` is {getattr(self, name)!r}, but must name one column: each image has one class"
                )

    @property
    def num_classes(self) -> int:
        """Number of classes of the student."""
        return self.config.num_labels

    @property
    def seed(self) -> int:
        """Seed of order, views and mixing; the same on all processes."""
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    @property
    def _columns(self) -> dict[str, Any]:
        return {"image_column_name": self.image_column_name, "label_column_name": self.label_column_name}

    def take_names(self, rows: datasets.Dataset | datasets.IterableDataset | ShardedRows | None) -> None:
        """Gives a student without class names those of its training data, and logs it."""
        names = None if rows is None else class_names(_columns_of(rows), self.label_column_name)
        if names is not None and take_names(self.config, names):
            self._warn_once(f"the student has no class names: it takes those of the training data ({names[0]!r}, ...)")

    def _label_indices(self, rows: Any, side: str, *, needs_all: bool) -> tuple[int, ...] | None:
        """Returns the student's class index for each class of the rows; None if they are the same."""
        match = match_labels(
            class_names(_columns_of(rows), self.label_column_name),
            None,
            real_names(self.config.id2label),
            self.num_classes,
            side=side,
            own_side="the model",
            needs_all=needs_all,
            numbers_are_indices=not needs_all,
            advice=TRAINING_ADVICE if needs_all else EVALUATION_ADVICE,
        )
        if match.note is not None:
            self._warn_once(match.note)
        return match.indices

    def _warn_once(self, note: str) -> None:
        if note not in self.warned and self.args.process_index == 0:
            logger.warning("%s", note)
        self.warned.add(note)

    def training(self, rows: datasets.Dataset | datasets.IterableDataset | ShardedRows) -> TrainingViews:
        """Returns augmented views by key, and fits the batch size to the number of images (`min_steps_per_epoch`)."""
        view = training_view(
            crop_size(self.processor),
            mean=statistics_of(self.processor)["mean"],
            std=statistics_of(self.processor)["std"],
            **{name: getattr(self.args, name) for name in VIEW_OPTIONS},
        )
        options: Any = {"seed": self.seed, "skip_bad_images": self.args.on_bad_image == "skip"}
        labels: Any = {"num_classes": self.num_classes}
        labels["label_indices"] = self._label_indices(rows, "the training data", needs_all=True)
        if isinstance(rows, datasets.IterableDataset | ShardedRows):
            stream = ImageStream(rows, num_images=self.args.num_train_samples, **self._columns)
            views: TrainingViews = StreamViews(stream, view, **labels, **options)
        else:
            check_stream_options(self.args, "give a `datasets.IterableDataset`")
            views = TrainingViews(ImageDataset(rows, **labels, **self._columns), view, **options)
        fit_batch_to_data(self.args, views)
        return views

    def evaluation(self, rows: datasets.Dataset) -> EvaluationViews:
        """Returns evaluation views by row; a row may have a list of correct labels."""
        indices = self._label_indices(rows, "the evaluation data", needs_all=False)
        labels: Any = {"num_classes": self.num_classes, "label_indices": indices, "several_labels": True}
        return EvaluationViews(ImageDataset(rows, **labels, **self._columns), evaluation_view(self.processor))

    def evaluations(self, data: Any) -> Any:
        """Applies `evaluation` to a dataset, or to each value of a dict; returns None for None.

        Raises:
            TypeError: a name in a dict is not a string, or the data is not a dataset.
            ValueError: a dict is empty, or has a name that metrics cannot contain.
        """
        if not are_parts(data):
            return None if data is None else self.evaluation(data)
        return {name: self.evaluation(rows) for name, rows in data.items()}

    def of_plain_rows(self, data: Any, *, needs_labels: bool = True) -> Any:
        """Applies `evaluation` to a `datasets.Dataset`; returns anything else, such as views or a name, unchanged.

        Args:
            data: rows, views, the name of an evaluation set, or None.
            needs_labels: whether rows must have labels.

        Raises:
            TypeError: the data is a list, a stream or a dict.
        """
        if isinstance(data, datasets.IterableDataset | list | ShardedRows):
            raise TypeError(
                f"the evaluation data is a {type(data).__name__}, but must be a `datasets.Dataset`, which has its "
                "rows by index; create one with `datasets.Dataset.from_list` or `from_generator`"
            )
        if isinstance(data, dict):
            raise TypeError(f"the data is a {type(data).__name__} of {', '.join(map(str, data))}; pass one of them")
        if not isinstance(data, datasets.Dataset):
            return data
        if needs_labels or has_labels(data, self.label_column_name):
            return self.evaluation(data)
        self._warn_once(f"the rows have no labels in `{self.label_column_name}`, so no metrics are computed")
        images = ImageDataset(
            data, image_column_name=self.image_column_name, label_column_name=None, num_classes=self.num_classes
        )
        return EvaluationViews(images, evaluation_view(self.processor))

    def named_views(self, data: Any, own: Any) -> EvaluationViews:
        """Returns the views of an evaluation.

        Args:
            data: rows, views, the name of an evaluation set, or None for the trainer's own set.
            own: evaluation set of the trainer, or a dict of several.

        Raises:
            TypeError: the data is a list, a stream or a dict.
            ValueError: there is no such evaluation set.
        """
        if isinstance(data, str) and data not in (own if isinstance(own, dict) else ()):
            sets = ", ".join(own) if isinstance(own, dict) else "none, because `eval_dataset` is not a dict"
            raise ValueError(f"there is no evaluation set {data!r}; the named ones are: {sets}")
        data = own[data] if isinstance(data, str) else own if data is None else data
        if data is None:
            raise ValueError("the trainer has no `eval_dataset`; create it with one, or pass the data to evaluate on")
        return self.of_plain_rows(data)

    def check_best_metric(self, eval_dataset: Any, model: PreTrainedModel) -> None:
        """Raises ValueError if `metric_for_best_model` is not reported, or would select the worst checkpoint."""
        if self.args.metric_for_best_model is not None and self.args.eval_strategy != "no":
            check_best_metric(
                self.args.metric_for_best_model,
                eval_dataset if isinstance(eval_dataset, dict) else [""],
                two_heads=hasattr(model, "distillation_classifier"),
                averaged=self.args.ema_decay > 0,
                greater_is_better=self.args.greater_is_better,
            )

    def model_inputs(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Returns `pixel_values` and `labels` of a training batch; labels are targets if mixed or smoothed."""
        return {
            "pixel_values": self.pixel_values(batch),
            "labels": self.targets(batch) if self.args.mixes or self.args.label_smoothing else batch["labels"],
        }

    def pixel_values(self, batch: Mapping[str, Any]) -> Tensor:
        """Returns the normalised, erased and mixed pixels (B, channels, height, width) of a training batch."""
        if "pixel_values" in batch:  # already finished
            return batch["pixel_values"]
        finish = PixelFinisher(**statistics_of(self.processor))
        return finish(batch["pixels"], batch["erasures"], batch.get("mixes", ()))

    def targets(self, batch: Mapping[str, Any]) -> Tensor:
        """Returns the mixed and smoothed targets (B, C) of a batch; rows sum to 1."""
        labels: Tensor = batch["labels"]
        if labels.is_floating_point():  # already targets
            return labels
        smoothing = self.args.label_smoothing
        return mix_targets(labels, batch.get("mix_ratios"), num_classes=self.num_classes, smoothing=smoothing)

    def collator(self) -> ViewCollator:
        """Returns the collator that makes a batch of views, and mixes it as in the options."""
        checksum = None if self.args.teacher_cache is None else view_checksum
        if not self.args.mixes:
            return ViewCollator(None, checksum)
        mixing = Mixing(
            mixup_alpha=self.args.mixup_alpha,
            cutmix_alpha=self.args.cutmix_alpha,
            switch_prob=self.args.mixup_switch_prob,
            block_size=min(MAX_BLOCK_SIZE, self.args.global_batch_size),
            seed=self.seed,
        )
        return ViewCollator(mixing, checksum)

    def sampler(self, views: TrainingViews, *, step_size: int) -> ViewSampler:
        """Returns a sampler of view keys in global order; Accelerate splits it between the processes.

        Args:
            views: from `training`.
            step_size: views per optimizer step, over all processes.
        """
        args = self.args
        order = {"num_repeats": args.repeated_augmentation, "seed": self.seed, "step_size": step_size}
        if isinstance(views, StreamViews):
            sampler: ViewSampler = StreamSampler(
                views.images,
                num_streams=args.num_streams,
                buffer_size=args.shuffle_buffer_size,
                batch_size=args.train_batch_size,
                process_index=args.process_index,
                num_processes=args.world_size,
                **order,
            )
        else:
            sampler = ViewSampler(len(views), **order)
        sampler.num_epochs = args.teacher_cache_epochs
        return sampler


class EpochOfViews(TrainerCallback):
    """Sets the sampler's epoch: `Trainer` does not reach it after a multi-process resume.

    Args:
        set_epoch: sets the epoch of the current sampler.
    """

    def __init__(self, set_epoch: Callable[[int], None]):
        self.set_epoch = set_epoch

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.set_epoch(int(state.epoch))
