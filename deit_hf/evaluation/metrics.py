"""Accuracy of class head, distillation head and both together, exact for any batch size and number of processes.

The paper reports all three (table 3). The metric is a class based on the `evaluate` library; no script is downloaded.
"""

from collections.abc import Mapping
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction

from ..model.probabilities import check_finite
from .confusion import Confusion
from .fusion import Fusion
from .metric_names import HEADS


def head_logits(outputs: Mapping[str, Tensor], fusion: Fusion) -> tuple[Tensor, ...]:
    """Returns the logits (B, C) of the only head, or of both heads combined and of each head, in the order of `HEADS`.

    Source: sec. 4 adds the softmaxes of the two heads. Differs: the default, `logit_mean`, takes the mean of their
    logits, as the model itself and the official models.py:59 do; all published numbers are measured this way.

    Args:
        outputs: of a model; with two heads, `logits` is the mean of `cls_logits` and `distillation_logits`.
        fusion: how the heads are combined. For `softmax_sum`, the result is the logarithm of the mean probability: the
            ranking is that of the sum, and the cross-entropy is that of the mean probability.
    """
    if "distillation_logits" not in outputs:
        return (outputs["logits"],)
    heads = outputs["cls_logits"], outputs["distillation_logits"]
    if fusion == "logit_mean":
        return outputs["logits"], *heads
    log_probabilities = torch.stack([head.float().log_softmax(dim=-1) for head in heads])  # (2, B, C)
    return log_probabilities.logsumexp(dim=0) - np.log(2), *heads


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative logarithm of the total probability of the correct classes; the cross-entropy if there is only one.

    Args:
        logits: (B, C); half precision is computed in float32.
        labels: (B,), or (B, K) if several classes may be correct; negative values are padding.

    Returns:
        (B,), in nats.
    """
    right = labels.reshape(len(labels), -1)  # (B, K)
    log_probabilities = logits.float().log_softmax(dim=-1).gather(1, right.clamp(min=0))  # (B, K)
    return -log_probabilities.masked_fill(right < 0, -torch.inf).logsumexp(dim=1)


class TopKAccuracy(evaluate.Metric):
    """Top-1 and top-5 accuracy; `compute` returns `top1` and `top5` in [0, 1].

    Call `add_batch(predictions=ranked_classes(logits), references=labels)` for each batch, then `compute()`.
    An image with several correct classes counts as correct if one of them is among the best 1 or 5.
    """

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value("int64")
        return evaluate.MetricInfo(
            description="top-1 and top-5 accuracy",
            citation="",
            inputs_description="predictions: (B, <=5) class indices, best first; references: (B,) class indices, or "
            "(B, K) padded with -1",
            features=[
                datasets.Features({"predictions": datasets.Sequence(label), "references": references})
                for references in (datasets.Sequence(label), label)
            ],
        )

    def _compute(self, predictions: list[list[int]], references: list[int] | list[list[int]]) -> dict[str, float]:
        ranked, right = np.asarray(predictions), np.asarray(references).reshape(len(predictions), -1)
        hits = (ranked[:, :, None] == right[:, None, :]).any(axis=2)  # (images, <=5)
        return {"top1": float(hits[:, :1].any(axis=1).mean()), "top5": float(hits.any(axis=1).mean())}


def ranked_classes(logits: Tensor) -> np.ndarray:
    """Returns the five best classes of each row of logits (B, C), best first: (B, min(5, C))."""
    return logits.topk(min(5, logits.shape[-1]), dim=-1).indices.cpu().numpy()


class HeadAccuracy:
    """Computes accuracy and loss batch by batch; a `compute_metrics` for `Trainer` with `batch_eval_metrics`.

    Predictions are logits (B, C) of a model with one head, or a tuple of them in the order of `HEADS`. The result has
    `loss` (mean `negative_log_likelihood`, in nats), and `top1` and `top5`. With two heads it has `top1_average`,
    `top1_cls` and `top1_distillation`, and the same for `top5`; "average" stands for both heads combined, whose loss
    is reported. If every image has exactly one correct label, it has `balanced_accuracy` and `macro_f1` (confusion.py)
    of each of them, too.

    Attributes:
        num_images: number of images in the last result.
        confusion: confusion matrix of the last result, of the only head or of both heads combined; None if an image
            has several correct labels.
    """

    def __init__(self, *, needs_finite: bool = False) -> None:
        """Resets the counters.

        Args:
            needs_finite: refuse logits that are NaN or infinite. A training must not end because of some.
        """
        self.needs_finite = needs_finite
        self.num_images = 0
        self.confusion: Confusion | None = None
        self.reset()

    def reset(self) -> None:
        """Discards the batches since the last result."""
        self._metrics: list[TopKAccuracy] = []
        self._confusions: list[Confusion] = []
        self._single = True  # whether all images so far have one correct label
        self._loss_sum, self._num_images = 0.0, 0

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        logits = prediction.predictions if isinstance(prediction.predictions, tuple) else (prediction.predictions,)
        self.add(tuple(torch.as_tensor(head) for head in logits), torch.as_tensor(prediction.label_ids))
        return self.result() if compute_result else {}

    def add(self, logits: tuple[Tensor, ...], labels: Tensor) -> None:
        """Adds one batch.

        Args:
            logits: (B, C), one tensor, or one for each of `HEADS`.
            labels: (B,), or (B, K) padded with -1.

        Raises:
            ValueError: a logit is not finite, and `needs_finite` is True.
        """
        if self.needs_finite:
            for head in logits:
                check_finite(head)
        self._metrics = self._metrics or [TopKAccuracy(keep_in_memory=True) for _ in logits]
        ranked = [ranked_classes(head.float()) for head in logits]
        for metric, classes in zip(self._metrics, ranked, strict=True):
            metric.add_batch(predictions=classes, references=labels.cpu().numpy())
        right = labels.cpu().numpy().reshape(len(labels), -1)  # (B, K)
        self._single = self._single and bool(((right >= 0).sum(axis=1) == 1).all())
        self._confusions = self._confusions or [Confusion(head.shape[-1]) for head in logits]
        for confusion, classes in zip(self._confusions, ranked, strict=True):
            if self._single:
                confusion.add(right.max(axis=1), classes[:, 0])
        self._loss_sum += negative_log_likelihood(logits[0], labels).sum().item()
        self._num_images += len(labels)

    def result(self) -> dict[str, float]:
        """Returns the metrics of all batches since the last result, and resets the counters."""
        result: dict[str, float] = {"loss": self._loss_sum / self._num_images}
        names = [f"_{head}" for head in HEADS] if len(self._metrics) > 1 else [""]
        for name, metric in zip(names, self._metrics, strict=True):
            accuracy: dict[str, Any] = metric.compute()
            result.update({f"{key}{name}": value for key, value in accuracy.items()})
        for name, confusion in zip(names, self._confusions if self._single else [], strict=False):
            result.update({f"{key}{name}": value for key, value in confusion.means().items()})
        self.num_images = self._num_images
        self.confusion = self._confusions[0] if self._single else None
        self.reset()
        return result
