"""Accuracy of class head, distillation head and both together, exact for any batch size and number of processes.

The paper reports all three (table 3). The metric is a class based on the `evaluate` library; no script is downloaded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction

from .balance import ClassTally
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


class Confusion:
    """Confusion matrix of an evaluation; every image must have exactly one correct class.

    Args:
        names: class names in label order.
    """

    def __init__(self, names: Sequence[str]):
        self.names = names
        self._codes: list[np.ndarray] = []

    def add(self, labels: np.ndarray, answers: np.ndarray) -> None:
        """Adds a batch of labels (B,) or (B, 1) and predicted classes (B,)."""
        self._codes.append(labels.reshape(len(answers)) * len(self.names) + answers)

    def report(self) -> dict[str, list[dict[str, Any]]]:
        """Returns the counts as plain data.

        Returns:
            `classes`: for each class, in label order, its `index`, `name`, number of `images`, `correct` predictions,
            and `accuracy` in [0, 1], None without images; `confusion`: for each pair of classes that occurs, the
            class indices `true` and `predicted`, and its `count`. Correct predictions are pairs, too.
        """
        num_classes = len(self.names)
        codes, counts = np.unique(np.concatenate(self._codes), return_counts=True)
        true, predicted = np.divmod(codes, num_classes)
        images = np.bincount(true, weights=counts, minlength=num_classes).astype(int).tolist()
        correct = np.bincount(true, weights=counts * (true == predicted), minlength=num_classes).astype(int).tolist()
        return {
            "classes": [
                {"index": i, "name": name, "images": n, "correct": right, "accuracy": right / n if n else None}
                for i, (name, n, right) in enumerate(zip(self.names, images, correct, strict=True))
            ],
            "confusion": [
                {"true": t, "predicted": p, "count": n}
                for t, p, n in zip(true.tolist(), predicted.tolist(), counts.tolist(), strict=True)
            ],
        }


class HeadAccuracy:
    """Computes accuracy and loss batch by batch; a `compute_metrics` for `Trainer` with `batch_eval_metrics`.

    Predictions are logits (B, C) of a model with one head, or a tuple of them in the order of `HEADS`. The result has
    `loss` (mean `negative_log_likelihood`, in nats), and `top1` and `top5`. With two heads it has `top1_average`,
    `top1_cls` and `top1_distillation`, and the same for `top5`; "average" stands for both heads combined, whose loss
    is reported. If every image has exactly one correct label, it has `balanced_accuracy` and `macro_f1` (balance.py)
    of each of them, too.

    Attributes:
        num_images: number of images in the last result.
    """

    def __init__(self, confusion: Confusion | None = None) -> None:
        """Resets the counters.

        Args:
            confusion: also gets the predictions of the only head, or of both heads combined.
        """
        self.confusion, self.num_images = confusion, 0
        self.reset()

    def reset(self) -> None:
        """Discards the batches since the last result."""
        self._metrics: list[TopKAccuracy] = []
        self._tallies: list[ClassTally] = []
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
        """
        self._metrics = self._metrics or [TopKAccuracy(keep_in_memory=True) for _ in logits]
        ranked = [ranked_classes(head.float()) for head in logits]
        for metric, classes in zip(self._metrics, ranked, strict=True):
            metric.add_batch(predictions=classes, references=labels.cpu().numpy())
        right = labels.cpu().numpy().reshape(len(labels), -1)  # (B, K)
        self._single = self._single and bool(((right >= 0).sum(axis=1) == 1).all())
        self._tallies = self._tallies or [ClassTally(head.shape[-1]) for head in logits]
        for tally, classes in zip(self._tallies, ranked, strict=True):
            if self._single:
                tally.add(right.max(axis=1), classes[:, 0])
        if self.confusion is not None:
            self.confusion.add(labels.cpu().numpy(), ranked[0][:, 0])
        self._loss_sum += negative_log_likelihood(logits[0], labels).sum().item()
        self._num_images += len(labels)

    def result(self) -> dict[str, float]:
        """Returns the metrics of all batches since the last result, and resets the counters."""
        result: dict[str, float] = {"loss": self._loss_sum / self._num_images}
        names = [f"_{head}" for head in HEADS] if len(self._metrics) > 1 else [""]
        for name, metric in zip(names, self._metrics, strict=True):
            accuracy: dict[str, Any] = metric.compute()
            result.update({f"{key}{name}": value for key, value in accuracy.items()})
        for name, tally in zip(names, self._tallies if self._single else [], strict=False):
            result.update({f"{key}{name}": value for key, value in tally.result().items()})
        self.num_images = self._num_images
        self.reset()
        return result
