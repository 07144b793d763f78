"""Accuracy of class head, distillation head and both together, exact for any batch size and number of processes.

The paper reports all three (table 3). No metric script is fetched: the metric is a class of the `evaluate` library.
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
    """Logits (B, C) of a model's only head, or with two heads of both together and of each, in the order of `HEADS`.

    Source: sec. 4 adds the softmaxes of the two heads. Differs: the default, `logit_mean`, takes the mean of their
    logits, which is the model's own answer, as in official models.py:59; all published numbers are of this kind.

    Args:
        outputs: of a model; with two heads `logits` is the mean of `cls_logits` and `distillation_logits`.
        fusion: how two heads answer together. Of `softmax_sum` the result is the logarithm of the mean probability:
            it ranks as the sum does, and its cross-entropy is that of the mean probability.
    """
    if "distillation_logits" not in outputs:
        return (outputs["logits"],)
    heads = outputs["cls_logits"], outputs["distillation_logits"]
    if fusion == "logit_mean":
        return outputs["logits"], *heads
    log_probabilities = torch.stack([head.float().log_softmax(dim=-1) for head in heads])  # (2, B, C)
    return log_probabilities.logsumexp(dim=0) - np.log(2), *heads


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,), in nats: of the probability that (B, C) logits give to the right classes; cross-entropy if there is one.

    Args:
        logits: (B, C); half precision is computed in float32.
        labels: (B,), or (B, K) where several classes may be right; negative ones only fill up.
    """
    right = labels.reshape(len(labels), -1)  # (B, K)
    log_probabilities = logits.float().log_softmax(dim=-1).gather(1, right.clamp(min=0))  # (B, K)
    return -log_probabilities.masked_fill(right < 0, -torch.inf).logsumexp(dim=1)


class TopKAccuracy(evaluate.Metric):
    """Top-1 and top-5 accuracy of classes ranked best first; `compute` gives `top1` and `top5` in [0, 1].

    Call `add_batch(predictions=ranked_classes(logits), references=labels)` as often as needed, then `compute()`.
    An image with several right classes counts as right if one of them is among the best 1 or 5.
    """

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value("int64")
        return evaluate.MetricInfo(
            description="top-1 and top-5 accuracy",
            citation="",
            inputs_description="predictions: (B, <=5) class indices, best first; references: (B,) class indices, or "
            "(B, K) filled up with -1",
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
    """The five best classes of each row of (B, C) logits, best first: (B, min(5, C))."""
    return logits.topk(min(5, logits.shape[-1]), dim=-1).indices.cpu().numpy()


class Confusion:
    """How often each class was answered for each class, of images with one right class.

    Args:
        names: of the classes, in label order.
    """

    def __init__(self, names: Sequence[str]):
        self.names = names
        self._codes: list[np.ndarray] = []

    def add(self, labels: np.ndarray, answers: np.ndarray) -> None:
        """Counts a batch of class indices: labels (B,) or (B, 1), answers (B,)."""
        self._codes.append(labels.reshape(len(answers)) * len(self.names) + answers)

    def report(self) -> dict[str, list[dict[str, Any]]]:
        """What was counted, as plain data.

        Returns:
            `classes`: for each class, in label order, its `index`, `name`, number of `images`, `correct` answers, and
            `accuracy` in [0, 1], None without images; `confusion`: for each pair that occurs the class indices `true`
            and `predicted`, and its `count`; right answers are pairs, too.
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
    """Counts a whole evaluation, batch by batch, for the `compute_metrics` of a Trainer with `batch_eval_metrics`.

    Predictions are logits (B, C) of a model with one head, or a tuple of them in the order of `HEADS`. The result
    holds `loss` (`negative_log_likelihood` of the answer, in nats) and `top1`, `top5`, or with two heads
    `top1_average`, `top1_cls`, `top1_distillation` and the same for `top5`; "average" is both heads together. Where
    every image has one right label there are `balanced_accuracy` and `macro_f1` (balance.py) of each of them, too.

    Attributes:
        num_images: counted by the last result.
    """

    def __init__(self, confusion: Confusion | None = None) -> None:
        """With a `confusion`, that one counts the answers, too."""
        self.confusion, self.num_images = confusion, 0
        self.reset()

    def reset(self) -> None:
        """Forgets the batches since the last result."""
        self._metrics: list[TopKAccuracy] = []
        self._tallies: list[ClassTally] = []
        self._single = True  # whether all images so far have one right label
        self._loss_sum, self._num_images = 0.0, 0

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        logits = prediction.predictions if isinstance(prediction.predictions, tuple) else (prediction.predictions,)
        self.add(tuple(torch.as_tensor(head) for head in logits), torch.as_tensor(prediction.label_ids))
        return self.result() if compute_result else {}

    def add(self, logits: tuple[Tensor, ...], labels: Tensor) -> None:
        """Counts one batch: logits (B, C) of one head or of all three, labels (B,), or (B, K) filled up with -1."""
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
        """The metrics of all batches since the last result."""
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
