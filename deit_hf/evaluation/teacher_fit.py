"""Whether a teacher fits the views of a training: how often it is right on them, without and with mixing.

A student learns from the teacher's answers to its own training views: cropped, augmented and mixed. A teacher that was
trained without such views can be right on most evaluation images and wrong on many of these.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate.utils import send_to_device
from torch import Tensor

from ..data.dataset import TrainingViews, ViewCollator
from ..data.finishing import PixelFinisher
from ..data.mixing import Mixing, dominating_classes, kept_shares
from .accuracy_text import percent
from .intervals import wilson_interval

NUM_VIEWS = 512  # one standard error is about 2 points
LONGEST = 10.0  # seconds, after which no other batch is measured
# The metrics of each kind of images: share of correct answers, number.
METRICS = {
    "evaluation": ("teacher_top1_on_evaluation", "teacher_evaluation_images"),
    "views": ("teacher_top1_on_views", "teacher_views"),
    "mixed": ("teacher_top1_on_mixed_views", "teacher_mixed_views"),
}


class Counted(NamedTuple):
    """Correct answers to a number of images or views."""

    num_correct: int
    num_images: int

    @property
    def top1(self) -> float:
        """The share of correct answers, in [0, 1]."""
        return self.num_correct / self.num_images

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `top1`."""
        return wilson_interval(self.num_correct, self.num_images)

    def in_words(self, unit: str) -> str:
        """Such as `69.14 % (512 views, 95 % interval 65.0 to 73.0)`."""
        low, high = (f"{100 * end:.1f}" for end in self.interval)
        return f"{percent(self.top1)} ({self.num_images:,} {unit}, 95 % interval {low} to {high})"


@dataclass(frozen=True)
class TeacherFit:
    """How often a teacher is right; None where this was not measured.

    The training views are of images that the teacher may have been trained on, so its accuracy on them can also be
    higher than on the evaluation images.

    Attributes:
        evaluation: on the evaluation images.
        views: on training views before they are mixed.
        mixed: on mixed training views: the class with the greater share. Views with equal shares do not count.
        note: why something was not measured; can be empty.
    """

    evaluation: Counted | None = None
    views: Counted | None = None
    mixed: Counted | None = None
    note: str = ""

    def in_words(self) -> str:
        """The accuracy on training views, for the run summary."""
        found = [] if self.views is None else [f"top-1 {self.views.in_words('views')}"]
        if self.mixed is not None:
            found.append(f"predicts the dominating class of {self.mixed.in_words('mixed views')}")
        return "; ".join([*found, *([self.note] if self.note else [])]) or "not measured"

    def metrics(self) -> dict[str, float]:
        """The shares and the numbers of images or views, by name."""
        found: dict[str, float] = {}
        for kind, (share, number) in METRICS.items():
            counted = getattr(self, kind)
            if counted is not None:
                found |= {share: counted.top1, number: counted.num_images}
        return found

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any]) -> "TeacherFit":
        """Reads `metrics` of a fit among others, without its note."""
        counts: Any = {
            kind: Counted(round(metrics[share] * metrics[number]), metrics[number])
            for kind, (share, number) in METRICS.items()
            if share in metrics
        }
        return cls(**counts)


@torch.no_grad()
def measure_fit(
    teacher: Callable[[Tensor], Tensor],
    views: TrainingViews,
    *,
    mixing: Mixing | None,
    finish: PixelFinisher,
    batch_size: int,
    device: torch.device,
) -> tuple[Counted | None, Counted | None]:
    """Measures a teacher on about `NUM_VIEWS` training views, on fewer if that takes longer than `LONGEST`.

    The global random states do not change. Each pair of views has a mix of its own: in a training, many views share
    one, and so few views would have only a few mixes. Of several views of an image, which fill a batch, only the first
    counts: the interval is one of independent images.

    Args:
        teacher: maps the student's `pixel_values` (B, channels, height, width) to logits (B, C) in its label order.
        views: of the training. An image that cannot be decoded is replaced.
        mixing: of the training, or None.
        finish: of the training.
        batch_size: views of one call of the teacher; even with `mixing`.
        device: of the teacher.

    Returns:
        The correct answers to views without mixing, and to mixed ones if there are any.
    """
    views, collate, start = copy.copy(views), ViewCollator(None), 0.0
    views.skip_bad_images = True  # the training raises the error, if it shows the image
    right: list[Tensor] = []
    right_if_mixed: list[Tensor] = []
    keys = views.some_keys(-(-min(NUM_VIEWS, len(views)) // batch_size) * batch_size)
    for first in range(0, len(keys), batch_size):
        chosen = keys[first : first + batch_size]
        made = collate([views[key] for key in chosen])
        batch: dict[str, Any] = send_to_device(made, device)
        labels, pixels, erasures = batch["labels"], batch["pixels"], batch["erasures"]
        counts = torch.tensor([key.repeat == 0 for key in chosen], device=device)
        right.append(_right(teacher(finish(pixels, erasures)).argmax(dim=-1), labels.where(counts, -1)))
        if mixing is not None:
            size = pixels.shape[2], pixels.shape[3]
            draws = [(slice(i, i + 2), mixing.draw(0, (first + i) // 2, size)) for i in range(0, len(labels), 2)]
            classes = dominating_classes(labels, kept_shares(draws).to(device))
            answers = teacher(finish(pixels, erasures, draws)).argmax(dim=-1)
            right_if_mixed.append(_right(answers, classes.where(counts, -1)))
        start = start or time.perf_counter()  # the first batch can include a compilation
        if time.perf_counter() - start > LONGEST:
            break
    return _counted(right), _counted(right_if_mixed)


def count_right(answers: Tensor, classes: Tensor) -> Counted | None:
    """Counts the answers (B,) that are the classes (B,); a class of -1 does not count. None if no class counts."""
    return _counted([_right(answers, classes)])


def _right(answers: Tensor, classes: Tensor) -> Tensor:
    counts = classes >= 0
    return (answers == classes)[counts].cpu()


def _counted(right: Sequence[Tensor]) -> Counted | None:
    number = sum(map(len, right))
    return Counted(sum(int(each.sum()) for each in right), number) if number else None
