"""Class weights of the label loss, computed from the number of training images of each class."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from ..data.dataset import TrainingViews
from ..distillation.losses import balanced_class_weights

logger = logging.getLogger(__name__)

IMBALANCE = 10  # images of the largest class over those of the smallest, from which a warning is logged
NOT_OF_A_STREAM = (
    "`class_weighting` is 'balanced', which needs the number of images of each class, but the labels of a stream are "
    "unknown before it is read; load the data (without `streaming`), or leave `class_weighting` out"
)


class ClassWeights:
    """Computes the weights for `class_weighting`, and keeps them for the same training views."""

    def __init__(self) -> None:
        self._views: TrainingViews | None = None
        self._weights: Tensor | None = None

    def __call__(
        self, class_weighting: str, views: TrainingViews | None, device: torch.device | str = "cpu"
    ) -> Tensor | None:
        """Returns weights (C,) on the device, or None without weighting or training data.

        Raises:
            ValueError: `class_weighting` is set, but the training data is a stream, whose labels are unknown.
        """
        if class_weighting == "none" or views is None:
            return None
        if views is not self._views:
            counts = views.images.class_counts()
            if counts is None:
                raise ValueError(NOT_OF_A_STREAM)
            self._views, self._weights = views, balanced_class_weights(counts).float().to(device)
        return self._weights


def weights_in_words(weights: Tensor | None) -> str:
    """Describes the class weights for the run summary; empty for None."""
    if weights is None:
        return ""
    used, absent = weights[weights > 0], int((weights == 0).sum())
    return f"class weights {used.min():.3g} to {used.max():.3g}" + (f", 0 for {absent} without images" * bool(absent))


def warn_of_imbalance(counts: Sequence[int] | None, names: Sequence[str], class_weighting: str) -> None:
    """Warns if the classes of the training data differ much in size and `class_weighting` is not used.

    Args:
        counts: number of images of each class; None if unknown.
        names: of the classes, in the same order.
        class_weighting: the option.
    """
    occurring = [(count, name) for count, name in zip(counts or (), names, strict=False) if count]
    if not occurring or class_weighting != "none":
        return
    (fewest, smallest), (most, largest) = min(occurring), max(occurring)
    if most >= IMBALANCE * fewest:
        logger.warning(
            "class `%s` has %d training images and `%s` has %d, %.3g times as many: top-1 says little about small "
            "classes; look at balanced accuracy (`eval_balanced_accuracy`), and try `--class_weighting balanced`",
            *(smallest, fewest, largest, most, most / fewest),
        )
