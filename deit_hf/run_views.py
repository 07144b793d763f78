"""The views of one run: its rows, what is done to each image, their order, and their batches."""

from dataclasses import dataclass
from typing import Any

import datasets

from .arguments import DistillationArguments
from .data import EvaluationViews, ImageDataset, TrainingViews, ViewCollator
from .image_processing_deit import crop_size
from .mixing import MAX_BLOCK_SIZE, Mixing
from .sampling import ViewSampler
from .sharded_rows import ShardedRows
from .streaming import ImageStream, StreamSampler, StreamViews
from .transforms import VIEW_OPTIONS, evaluation_view, training_view


@dataclass(frozen=True)
class RunViews:
    """Makes the views of a run from its options.

    Attributes:
        args: the recipe.
        processor: image processor of the student.
        num_classes: of the student.
        image_column_name: column of images.
        label_column_name: column of class indices.
    """

    args: DistillationArguments
    processor: Any
    num_classes: int
    image_column_name: str
    label_column_name: str

    @property
    def seed(self) -> int:
        """Of order, views and mixing; the same on all processes."""
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    @property
    def _columns(self) -> dict[str, Any]:
        return {"image_column_name": self.image_column_name, "label_column_name": self.label_column_name}

    def training(self, rows: datasets.Dataset | datasets.IterableDataset | ShardedRows) -> TrainingViews:
        """Augmented views by key."""
        view = training_view(
            crop_size(self.processor),
            mean=tuple(self.processor.image_mean),
            std=tuple(self.processor.image_std),
            **{name: getattr(self.args, name) for name in VIEW_OPTIONS},
        )
        options: Any = {"seed": self.seed, "skip_bad_images": self.args.on_bad_image == "skip"}
        if isinstance(rows, datasets.IterableDataset | ShardedRows):
            stream = ImageStream(rows, num_images=self.args.num_train_samples, **self._columns)
            return StreamViews(stream, view, num_classes=self.num_classes, **options)
        images = ImageDataset(rows, num_classes=self.num_classes, **self._columns)
        return TrainingViews(images, view, **options)

    def evaluation(self, rows: datasets.Dataset) -> EvaluationViews:
        """Views by row; here a row may have a list of right labels."""
        images = ImageDataset(rows, num_classes=self.num_classes, several_labels=True, **self._columns)
        return EvaluationViews(images, evaluation_view(self.processor))

    def collator(self) -> ViewCollator:
        """Views -> a batch of the model, mixed as the options say."""
        mixing = Mixing(
            mixup_alpha=self.args.mixup_alpha,
            cutmix_alpha=self.args.cutmix_alpha,
            switch_prob=self.args.mixup_switch_prob,
            block_size=min(MAX_BLOCK_SIZE, self.args.global_batch_size),
            seed=self.seed,
        )
        return ViewCollator(mixing)

    def sampler(self, views: TrainingViews, *, step_size: int) -> ViewSampler:
        """Keys of views in a global order, which Accelerate shares out.

        Args:
            views: what `training` made.
            step_size: views of one optimizer step, of all processes.
        """
        args = self.args
        order = {"num_repeats": args.repeated_augmentation, "seed": self.seed, "step_size": step_size}
        if not isinstance(views, StreamViews):
            return ViewSampler(len(views), **order)
        return StreamSampler(
            views.images,
            num_streams=args.num_streams,
            buffer_size=args.shuffle_buffer_size,
            batch_size=args.train_batch_size,
            process_index=args.process_index,
            num_processes=args.world_size,
            **order,
        )
