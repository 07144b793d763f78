"""The class that each head of a model answers for each image, and how confident it is."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..model.probabilities import probabilities
from .metric_names import HEADS
from .metrics import ranked_classes

ONLY = "only"  # the head of a model with one head


class Answers(NamedTuple):
    """The answers of one head.

    Attributes:
        classes: (N,), predicted classes.
        confidences: (N,), their softmax probabilities, in [0, 1].
        in_top5: (N,) of bool, whether the label is among the five best classes.
    """

    classes: np.ndarray
    confidences: np.ndarray
    in_top5: np.ndarray


@torch.no_grad()
def confident_answers(
    logits_of: Callable[[Tensor], tuple[Tensor, ...]], batches: Iterable[dict[str, Any]]
) -> dict[str, Answers]:
    """Returns the answers by head: of `average`, `cls` and `distillation`, or of `only` with one head.

    Args:
        logits_of: maps `pixel_values` (B, channels, height, width) to logits (B, C): of the only head, or in the order
            of `HEADS` (see `head_logits`).
        batches: with `pixel_values`, and `labels` (B,) in the class order of the logits.

    Raises:
        ValueError: a logit is NaN or infinite.
    """
    found: dict[str, list[tuple[np.ndarray, ...]]] = {}
    for batch in batches:
        heads = logits_of(batch["pixel_values"])
        for name, logits in zip(HEADS if len(heads) > 1 else (ONLY,), heads, strict=True):
            confidences = probabilities(logits).amax(dim=-1).cpu().numpy()
            ranked = ranked_classes(logits.float())  # (B, <=5)
            hits = (ranked == batch["labels"].cpu().numpy()[:, None]).any(axis=1)
            found.setdefault(name, []).append((ranked[:, 0], np.minimum(confidences, 1.0), hits))
    return {name: Answers(*map(np.concatenate, zip(*parts, strict=True))) for name, parts in found.items()}
