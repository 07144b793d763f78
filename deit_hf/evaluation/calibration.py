"""Calibration: whether predictions made with a confidence of 80 % are correct in 80 % of the cases."""

from typing import NamedTuple

import numpy as np

NUM_BINS = 15


class ReliabilityBin(NamedTuple):
    """The predictions whose confidence is in (low, high]; those of confidence 0 are in the first bin.

    Attributes:
        low: lower end of the confidences.
        high: upper end.
        images: number of predictions.
        confidence: their mean confidence; None without images.
        accuracy: share of correct ones; None without images.
    """

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


def reliability_bins(confidences: np.ndarray, correct: np.ndarray, num_bins: int = NUM_BINS) -> list[ReliabilityBin]:
    """Groups predictions by their confidence, for a reliability diagram.

    Source: Guo et al. 2017, "On calibration of modern neural networks", sec. 2.

    Args:
        confidences: (N,), probability of the predicted class, in [0, 1].
        correct: (N,) of bool.
        num_bins: bins of equal width.

    Returns:
        All bins, in order.

    Raises:
        ValueError: the arrays are empty or have different lengths, or a confidence is NaN or outside of [0, 1].
    """
    if confidences.shape != correct.shape or confidences.ndim != 1 or not len(confidences):
        raise ValueError(
            f"`confidences` {confidences.shape} and `correct` {correct.shape} must have the shape (N,), with N >= 1"
        )
    if not (confidences.min() >= 0 and confidences.max() <= 1):  # NaN, too
        raise ValueError(f"`confidences` are in [{confidences.min()}, {confidences.max()}], but must be in [0, 1]")
    edges = np.linspace(0, 1, num_bins + 1)
    places = np.clip(np.searchsorted(edges, confidences.astype(np.float64), side="left") - 1, 0, None)  # (N,)
    bins = []
    for place in range(num_bins):
        inside = places == place
        images = int(inside.sum())
        means = (float(each[inside].mean(dtype=np.float64)) if images else None for each in (confidences, correct))
        bins.append(ReliabilityBin(float(edges[place]), float(edges[place + 1]), images, *means))
    return bins


def expected_calibration_error(bins: list[ReliabilityBin]) -> float:
    """Mean distance of confidence and accuracy over the bins, weighted by their images (ECE), in [0, 1].

    Source: Guo et al. 2017, equation 3.
    """
    total = sum(each.images for each in bins)
    return sum(
        each.images / total * abs(each.accuracy - each.confidence)
        for each in bins
        if each.accuracy is not None and each.confidence is not None
    )
