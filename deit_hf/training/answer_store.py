"""The stored answers of a teacher in a training: which store fits, and the answers to each batch.

answer_filling.py fills a store. Its files are described in distillation/teacher_cache.py.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PreTrainedConfig

from ..data.dataset import EvaluationViews, TrainingViews
from ..data.fingerprint import data_fingerprint, images_fingerprint, spread_places
from ..data.mixing import MAX_BLOCK_SIZE, Mixing, dominating_classes
from ..data.sampling import ViewSampler
from ..data.streaming import StreamViews
from ..data.transforms import VIEW_OPTIONS, uses_color_jitter
from ..distillation.answer_format import BLOCK
from ..distillation.losses import TopLogits, hard_logits
from ..distillation.teacher import Teacher
from ..distillation.teacher_cache import AnswerStore
from ..distillation.view_checksums import ViewCheck
from ..evaluation.teacher_fit import NUM_VIEWS, Counted, TeacherFit, count_right
from ..hub.public_text import shown
from ..hub.store_files import fetch_store
from ..model.image_processing_deit import crop_size, statistics_of
from ..reliability.run_lock import decided_by_first
from .arguments import DistillationArguments
from .same_run import teacher_facts


@dataclass(frozen=True)
class Views:
    """The views of a training.

    Attributes:
        args: the recipe.
        config: the student's configuration, with its classes.
        processor: image processor of the student.
        views: training views by key.
        sampler: their order.
        evaluation: evaluation views of the teacher's accuracy, or None.
    """

    args: DistillationArguments
    config: PreTrainedConfig
    processor: Any
    views: TrainingViews
    sampler: ViewSampler
    evaluation: EvaluationViews | None = None

    @property
    def evaluation_data(self) -> dict[str, Any] | None:
        """Identifies the evaluation images and labels."""
        return None if self.evaluation is None else images_fingerprint(self.evaluation.images)

    @property
    def num_epochs(self) -> int:
        """Number of epochs with different views."""
        args, steps = self.args, len(self.sampler) // self.sampler.step_size
        num_epochs = math.ceil(args.max_steps / steps if args.max_steps > 0 else args.num_train_epochs)
        return num_epochs if args.teacher_cache_epochs is None else min(num_epochs, args.teacher_cache_epochs)


def fingerprint_of(views: Views, teacher: Teacher | None, precision: str) -> dict[str, Any]:
    """What the answers of a teacher depend on, and nothing else, as JSON values.

    The student, learning rates, the seed of the initialisation, and how a step is split into processes and batches do
    not count, so that one store serves several trainings.

    Args:
        views: of the training.
        teacher: None leaves out what belongs to it.
        precision: `no`, `fp16` or `bf16`: of the training, in which the teacher computes, too.
    """
    args = views.args
    found: dict[str, Any] = {"distillation_type": args.distillation_type}
    if args.distillation_type == "soft":
        found["distillation_temperature"] = float(args.distillation_temperature)
    found |= {name: getattr(args, name) for name in VIEW_OPTIONS}
    if not uses_color_jitter(args.random_augment):
        found["color_jitter"] = 0.0
    found |= {"mixing": _mixing(args), "repeated_augmentation": args.repeated_augmentation}
    found |= {"on_bad_image": args.on_bad_image, "step_size": views.sampler.step_size}
    found |= {"views_per_epoch": len(views.sampler), "data_seed": views.sampler.seed}
    if isinstance(views.views, StreamViews):
        found |= {name: getattr(args, name) for name in ("num_streams", "shuffle_buffer_size")}
    found |= {"image_size": list(crop_size(views.processor)), "data": data_fingerprint(views.views)}
    found |= {f"student_{name}": list(values) for name, values in statistics_of(views.processor).items()}
    found["classes"] = [str(views.config.id2label[index]) for index in sorted(views.config.id2label)]
    found["teacher_precision"] = {"no": "float32"}.get(precision, precision)
    return found if teacher is None else {**found, **teacher_facts(teacher)}


def _mixing(args: DistillationArguments) -> dict[str, float] | None:
    if not args.mixes:
        return None
    found: dict[str, float] = {name: getattr(args, name) for name in ("mixup_alpha", "cutmix_alpha")}
    if all(found.values()):
        found["mixup_switch_prob"] = args.mixup_switch_prob
    return {**found, "block": min(MAX_BLOCK_SIZE, args.global_batch_size)}


class StoredAnswers:
    """Takes the place of a teacher in a training, and checks that its views are the stored ones.

    Attributes:
        store: the answers.
        source: the directory or repository that the user named.
        was_asked: whether `logits` has been called.
    """

    def __init__(self, views: Views, teacher: Teacher | None, precision: str):
        """Opens the store `teacher_cache`; downloads it if that is the name of a dataset on the Hub.

        Args:
            views: of the training.
            teacher: only compared with the one that gave the answers; None trusts the store.
            precision: of the teacher's autocast.

        Raises:
            FileNotFoundError: there is no such store, or it lacks an epoch.
            ValueError: its answers are to other views or of another teacher; names each difference.
        """
        assert views.args.teacher_cache is not None
        args, self.source = views.args, views.args.teacher_cache
        epochs = range(views.num_epochs)
        directory = decided_by_first(
            lambda: fetch_store(self.source, token=args.hub_token, epochs=epochs), args.distributed_state
        )
        assert directory is not None
        self.store = AnswerStore.read(directory)
        self.store.check(fingerprint_of(views, teacher, precision))
        decided_by_first(lambda: self.store.verify(epochs), args.distributed_state)
        self._evaluation_data, self._view_size = views.evaluation_data, crop_size(views.processor)
        self.was_asked = False
        self._check = ViewCheck(self.store)
        # otherwise a block is divided between processes, and no process could compare it alone
        self._has_whole_blocks = args.world_size == 1 or args.train_batch_size % BLOCK == 0

    @property
    def name(self) -> str:
        """Name of the teacher that gave the answers."""
        return str(self.store.facts["teacher"])

    @property
    def teacher_facts(self) -> dict[str, Any]:
        """The `teacher_facts` of the teacher that gave the answers."""
        return {name: self.store.fingerprint[name] for name in ("teacher", "teacher_labels")}

    @property
    def in_words(self) -> str:
        """The teacher and its accuracy, for the run summary."""
        facts, evaluation = self.store.facts, self.evaluation
        size = (
            "the student's" if facts["teacher_image_size"] is None else "x".join(map(str, facts["teacher_image_size"]))
        )
        top1 = "not measured" if evaluation is None else evaluation.in_words("images")
        source = f"{shown(self.name)} at {size} pixels, answers stored in {self.source}"
        return f"{source}; top-1 on the evaluation split {top1}"

    @property
    def evaluation(self) -> Counted | None:
        """The teacher's correct answers on the evaluation data; None if they were not measured on this data."""
        top1, data = (self.store.facts[name] for name in ("teacher_top1", "evaluation_data"))
        if top1 is None or data != self._evaluation_data:
            return None
        return Counted(round(top1 * data["rows"]), data["rows"])

    def fit(self, views: TrainingViews, sampler: ViewSampler, mixing: Mixing | None) -> TeacherFit:
        """How often the stored answers to some views of epoch 0 are right, one of each image; decodes no image.

        Args:
            views: training views by key.
            sampler: of the training, in epoch 0.
            mixing: of the training, or None.
        """
        if isinstance(views, StreamViews):
            return TeacherFit(self.evaluation, note="not measured on training views, whose labels are in a stream")
        wanted = spread_places(len(sampler), NUM_VIEWS)
        if mixing is not None:  # partners, so an even number
            pairs = spread_places(len(sampler) // 2, NUM_VIEWS // 2)
            wanted = [2 * pair + side for pair in pairs for side in (0, 1)]
        chosen = set(wanted)
        samples = [key.sample for key in itertools.islice(sampler, wanted[-1] + 1) if key.position in chosen]
        assert views.images.labels is not None
        labels = torch.from_numpy(views.images.labels[samples])
        counts = torch.zeros(len(samples), dtype=torch.bool)
        counts[np.unique(samples, return_index=True)[1]] = True  # the first view of each image
        rows = self.store.rows(0, wanted)
        answers = rows.indices[:, 0] if isinstance(rows, TopLogits) else rows
        if mixing is None:
            return TeacherFit(self.evaluation, views=count_right(answers, labels.where(counts, -1)))
        kept = [mixing.draw(0, place // mixing.block_size, self._view_size).ratio for place in wanted]
        mixed = count_right(answers, dominating_classes(labels, torch.tensor(kept)).where(counts, -1))
        return TeacherFit(self.evaluation, mixed=mixed, note="its answers to views without mixing are not stored")

    def check_views(self, epoch: int, positions: Sequence[int], checksums: Sequence[int]) -> None:
        """Compares the views of a batch with the stored ones; all processes call it together.

        Args:
            epoch: of the views.
            positions: (B,), in the epoch.
            checksums: (B,), of the pixels.

        Raises:
            ValueError: they differ; names epoch, positions and versions of the libraries.
        """
        if not self._has_whole_blocks:
            both = gather_object([*zip(positions, checksums, strict=True)])
            positions, checksums = ([pair[i] for pair in both] for i in (0, 1))
        self._check.add(epoch, positions, checksums)

    def logits(self, epoch: int, positions: Sequence[int], device: torch.device) -> Tensor | TopLogits:
        """The answers to a batch: for hard distillation logits (B, C) with the same argmax as the teacher's.

        Args:
            epoch: of the views.
            positions: (B,), in the epoch.
            device: of the answers.

        Raises:
            ValueError: the file is damaged.
        """
        self.was_asked = True
        rows = self.store.rows(epoch, positions)
        if isinstance(rows, TopLogits):
            return TopLogits(*(each.to(device) for each in rows))
        return hard_logits(rows.to(device), self.store.format.num_classes)
