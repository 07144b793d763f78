"""The class that each head of a model answers for each image, to compare models image by image."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..model.probabilities import check_finite
from .metric_names import HEADS
from .metrics import head_logits

LABELS = "labels"


@torch.no_grad()
def head_answers(model: PreTrainedModel, batches: Iterable[dict[str, Tensor]]) -> dict[str, np.ndarray]:
    """Returns the predicted classes by head, and the labels.

    Args:
        model: in evaluation mode; two heads are combined by the mean of their logits.
        batches: `pixel_values` (B, channels, height, width) and `labels` (B,), on the device of the model.

    Returns:
        (N,) each: `labels`, and the answers of `average`, `cls` and `distillation`, or of `only` with one head.

    Raises:
        ValueError: a logit is NaN or infinite.
    """
    found: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        logits = head_logits(model(pixel_values=batch["pixel_values"]), "logit_mean")
        for each in logits:
            check_finite(each)
        named = dict(zip(HEADS if len(logits) > 1 else ("only",), logits, strict=True))
        for name, values in {**{name: each.argmax(-1) for name, each in named.items()}, LABELS: batch[LABELS]}.items():
            found.setdefault(name, []).append(values.cpu().numpy())
    return {name: np.concatenate(parts).astype(np.uint16) for name, parts in found.items()}


def disagreement(answers: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Share of images on which two of several answers differ, in [0, 1], as in table 4 of the paper.

    Args:
        answers: (N,) each, classes by name: of labels, models or heads.
    """
    return {a: {b: float(np.mean(x != y)) for b, y in answers.items()} for a, x in answers.items()}


def mcnemar_test(correct: np.ndarray, others: np.ndarray) -> float:
    """Exact two-sided p-value of McNemar's test: whether two models that answer the same images are equally good.

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated proportions".

    Args:
        correct: (N,) of bool, whether each answer of the first model is correct.
        others: (N,) likewise of the second model.
    """
    return _binomial_test(int(np.sum(correct & ~others)), int(np.sum(~correct & others)))


def _binomial_test(first: int, second: int) -> float:
    """Two-sided p-value of `first` heads and `second` tails of a fair coin."""
    tosses, ways, total = first + second, 1, 0
    for heads in range(min(first, second) + 1):  # ways: binomial coefficients of (tosses, heads), exact
        total += ways
        ways = ways * (tosses - heads) // (heads + 1)
    return min(1.0, 2 * total / 2**tosses)


def paired_difference(correct: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Mean difference of two accuracies on the same images, and its standard error over images.

    Args:
        correct: (N,) or (seeds, N), whether the answers of the first model are correct.
        others: likewise; the seeds of an image are averaged before its difference counts.
    """
    difference = (np.atleast_2d(correct).mean(0) - np.atleast_2d(others).mean(0)).astype(float)  # (N,)
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))
