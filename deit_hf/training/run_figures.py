"""The figures of a training in its output directory: curves while it trains, and its first views with their targets.

Only the first process draws. A figure that cannot be drawn is a warning and never ends a training. No random state
changes.
"""

import importlib.util
import logging
import textwrap
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, TrainerCallback

from ..analysis.confusion_matrix import plot_confusion_matrix
from ..analysis.curves import plot_training_curves
from ..analysis.views_figure import MAX_CAPTION_LINE, MAX_LINE, draw_views, short_names, target_lines
from ..data.mixing import mix_targets
from ..distillation.losses import TopLogits
from ..hub.run_files import CONFUSION_MATRIX, CURVES
from ..model.labels import real_names

VIEWS = "training_views.png"
MAX_SHARE = 0.02  # of the time of a training, for its curves
NUM_VIEWS = 16

logger = logging.getLogger(__name__)


class TrainingCurves(TrainerCallback):
    """Draws the curves of a training to `training_curves.png` in its output directory, while it trains.

    It draws after each evaluation and each checkpoint, and at the end. To draw takes about half a second; a drawing
    that would make this more than `MAX_SHARE` of the time is left to the next evaluation.

    The trainings of the commands have this callback; give it to a `DistillationTrainer` as one of its `callbacks`.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._fails = self._is_due = False
        self._num_drawn = -1  # entries of the log
        self._next_time = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._reset()
        if state.is_world_process_zero:
            can_draw()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._is_due = True  # not now: the evaluations of other sets follow

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._is_due = True

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._is_due and time.monotonic() >= self._next_time:
            self.draw(args, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.draw(args, state)

    @property
    def is_drawn(self) -> bool:
        """Whether the figure of this training is in its directory."""
        return self._num_drawn >= 0 and not self._fails

    def draw(self, args: Any, state: Any) -> None:
        """Draws the log of `state` on the first process, if that has not been done."""
        self._is_due = False
        if self._fails or not state.is_world_process_zero or not can_draw():
            return
        if len(state.log_history) == self._num_drawn:
            return
        start = time.monotonic()
        path = Path(args.output_dir) / CURVES
        self._fails = not _drawn(path, lambda: plot_training_curves(state.log_history, path))
        now = time.monotonic()
        self._num_drawn, self._next_time = len(state.log_history), now + (now - start) / MAX_SHARE


class FirstViews(TrainerCallback):
    """Draws the first training views with their targets to `training_views.png`, to check the data of a training.

    The views are those that the student sees: augmented, erased and mixed. A training that resumes keeps the figure.

    Attributes:
        by_default: whether to draw if the option `training_views` is not given.
    """

    def __init__(self, normalisation: Callable[[], Mapping[str, Sequence[float]]], config: Callable[[], Any]):
        """Takes functions, because a trainer may get another model.

        Args:
            normalisation: returns the student's `mean` and `std`.
            config: returns the student's configuration, which has the class names.
        """
        self.normalisation, self.config = normalisation, config
        self.by_default = self._collects = False
        self._forget()

    def _forget(self) -> None:
        self._views: list[Tensor] = []  # each (3, height, width)
        self._shares: list[Tensor] = []  # each (C,)
        self._answers: list[int] = []
        self._place: tuple[int, int] | None = None  # epoch and position of the first view

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._forget()
        wanted = self.by_default if args.training_views is None else args.training_views
        is_kept = state.global_step > 0 and (Path(args.output_dir) / VIEWS).exists()
        self._collects = bool(wanted and state.is_world_process_zero and not is_kept and can_draw())

    def see(self, batch: Mapping[str, Any], pixel_values: Tensor) -> None:
        """Takes the first views of a batch.

        Args:
            batch: of training views, as the collator makes it.
            pixel_values: (B, channels, height, width), normalised, erased and mixed.
        """
        if not self._collects or len(self._views) >= NUM_VIEWS:
            return
        number = NUM_VIEWS - len(self._views)
        labels, ratios = batch["labels"][:number].cpu(), batch.get("mix_ratios")
        if not labels.is_floating_point():  # without smoothing
            ratios = None if ratios is None else ratios[:number].cpu()
            labels = mix_targets(labels, ratios, num_classes=self.config().num_labels, smoothing=0.0)
        if not self._views and "positions" in batch:
            self._place = batch["epoch"], batch["positions"][0]
        self._views += pixel_values[:number].detach().float().cpu()
        self._shares += labels

    def see_answers(self, teacher_logits: Tensor | TopLogits | None) -> None:
        """Takes the teacher's answers, (B, C) or the greatest ones, to the batch that was seen last."""
        number = len(self._views) - len(self._answers)
        if self._collects and teacher_logits is not None and number:
            answers = (
                teacher_logits.indices[:, 0] if isinstance(teacher_logits, TopLogits) else teacher_logits.argmax(1)
            )
            self._answers += answers[:number].tolist()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._collects and len(self._views) >= NUM_VIEWS:
            self._draw(args)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._collects and self._views:
            self._draw(args)

    def _draw(self, args: Any) -> None:
        path = Path(args.output_dir) / VIEWS
        _drawn(path, lambda: self._draw_to(path, args))
        self._collects = False
        self._forget()

    def _draw_to(self, path: Path, args: Any) -> None:
        mean, std = (torch.tensor(self.normalisation()[name])[:, None, None] for name in ("mean", "std"))
        views = (torch.stack(self._views) * std + mean).clamp(0, 1)
        views = views.expand(-1, 3, -1, -1).permute(0, 2, 3, 1)  # (N, height, width, 3), also of grey ones
        names = class_names(self.config())
        titles = [target_lines(shares.numpy(), names) for shares in self._shares]
        if len(self._answers) == len(titles):
            short = short_names(names, MAX_LINE - 9)
            titles = [
                [*lines, f"teacher: {short[answer]}"] for lines, answer in zip(titles, self._answers, strict=True)
            ]
        draw_views(views.numpy(), titles, path, caption=self._caption(args))

    def _caption(self, args: Any) -> list[str]:
        height, width = self._views[0].shape[1:]
        place = ""
        if self._place is not None:
            epoch, first = self._place
            place = f" of epoch {epoch + 1}, from view {first + 1:,}" if epoch or first else " of the training"
        done = ["augmented", *["erased"] * (args.random_erase_prob > 0), *["mixed"] * args.mixes]
        notes = [f"{', '.join(done)}; shown without normalisation"]
        if args.label_smoothing:
            notes.append(f"label smoothing {args.label_smoothing:g} not shown")
        if args.repeated_augmentation > 1:
            notes.append(f"{args.repeated_augmentation} views of each image, spread over a step")
        first_line = (
            f"First {len(self._views)} views{place}, {width} x {height} pixels, with the shares of their classes"
        )
        return [first_line, *textwrap.wrap("; ".join(notes), MAX_CAPTION_LINE)]


def class_names(config: PreTrainedConfig) -> list[str]:
    """The class names of a model in order; numbers if it has none."""
    return real_names(config.id2label) or [f"class {i}" for i in range(config.num_labels)]


def draw_confusion_matrix(report: Mapping[str, Any], directory: Path, title: str) -> bool:
    """Draws `confusion_matrix.png`; returns whether it is drawn.

    Args:
        report: of `Confusion.report`.
        directory: of the run.
        title: the part of the data that was measured.
    """
    path = directory / CONFUSION_MATRIX
    return can_draw() and _drawn(path, lambda: plot_confusion_matrix(report, path, title))


@lru_cache(maxsize=1)
def can_draw() -> bool:
    """Whether matplotlib is installed; logs once how to get it."""
    found = importlib.util.find_spec("matplotlib") is not None
    if not found:
        logger.info(
            'the figures %s, %s and %s are not drawn: they need matplotlib (pip install "deit_hf[viz]")',
            CURVES,
            VIEWS,
            CONFUSION_MATRIX,
        )
    return found


def _drawn(path: Path, draw: Callable[[], None]) -> bool:
    """Draws a figure; if that fails, logs a warning and returns False."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # letters that are not in the font
            draw()
    except Exception as error:  # whatever it is, the training is worth more
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        logger.warning("%s could not be drawn (%s); the training continues without it", path, reason)
        return False
    return True
