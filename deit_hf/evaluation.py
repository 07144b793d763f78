"""Accuracy of class head, distillation head and their mean, exact for any batch size and number of processes.

The paper reports all three (table 3). No metric script is fetched: the metric is a class of the `evaluate` library.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import EvalPrediction

HEADS = ("average", "cls", "distillation")


class TopKAccuracy(evaluate.Metric):
    """Top-1 and top-5 accuracy of classes ranked best first; `compute` gives `top1` and `top5` in [0, 1].

    Call `add_batch(predictions=ranked_classes(logits), references=labels)` as often as needed, then `compute()`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="top-1 and top-5 accuracy",
            citation="",
            inputs_description="predictions: (B, <=5) class indices, best first; references: (B,) class indices",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("int64")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions: list[list[int]], references: list[int]) -> dict[str, float]:
        hits = np.asarray(predictions) == np.asarray(references)[:, None]
        return {"top1": float(hits[:, :1].any(axis=1).mean()), "top5": float(hits.any(axis=1).mean())}


def ranked_classes(logits: Tensor, num_best: int = 5) -> np.ndarray:
    """The best classes of each row of (B, C) logits, best first: (B, min(num_best, C))."""
    return logits.topk(min(num_best, logits.shape[-1]), dim=-1).indices.cpu().numpy()


class HeadAccuracy:
    """Counts a whole evaluation, batch by batch, for the `compute_metrics` of a Trainer with `batch_eval_metrics`.

    Predictions are logits (B, C) of a model with one head, or a tuple of them in the order of `HEADS`. The result
    holds `loss` (cross-entropy of the answer, in nats) and `top1`, `top5`, or with two heads `top1_average`,
    `top1_cls`, `top1_distillation` and the same for `top5`.
    """

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._metrics: list[TopKAccuracy] = []
        self._loss_sum, self._num_images = 0.0, 0

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        logits = prediction.predictions if isinstance(prediction.predictions, tuple) else (prediction.predictions,)
        self.add(tuple(torch.as_tensor(head) for head in logits), torch.as_tensor(prediction.label_ids))
        return self.result() if compute_result else {}

    def add(self, logits: tuple[Tensor, ...], labels: Tensor) -> None:
        """Counts one batch: logits (B, C) of one head or of all three, labels (B,)."""
        self._metrics = self._metrics or [TopKAccuracy(keep_in_memory=True) for _ in logits]
        for metric, head_logits in zip(self._metrics, logits, strict=True):
            metric.add_batch(predictions=ranked_classes(head_logits.float()), references=labels.cpu().numpy())
        self._loss_sum += F.cross_entropy(logits[0].float(), labels, reduction="sum").item()
        self._num_images += len(labels)

    def result(self) -> dict[str, float]:
        """The metrics of all batches since the last result."""
        result: dict[str, float] = {"loss": self._loss_sum / self._num_images}
        names = [f"_{head}" for head in HEADS] if len(self._metrics) > 1 else [""]
        for name, metric in zip(names, self._metrics, strict=True):
            accuracy: dict[str, Any] = metric.compute()
            result.update({f"{key}{name}": value for key, value in accuracy.items()})
        self._start()
        return result


def comparison_table(output_dirs: Sequence[str | os.PathLike]) -> str:
    """Top-1 of finished runs, a line each: of the only head, or of both heads and their mean.

    Args:
        output_dirs: each holds the `eval_results.json` of a run.

    Raises:
        FileNotFoundError: a run has none.
    """
    lines = [f"{'run':24} {'one head':>10} {'class':>10} {'distill.':>10} {'mean':>10}"]
    for output_dir in output_dirs:
        path = Path(output_dir) / "eval_results.json"
        if not path.is_file():
            raise FileNotFoundError(f"no evaluation at `{path}`; train with an evaluation split first")
        metrics = json.loads(path.read_text(encoding="utf-8"))
        names = ("eval_top1", "eval_top1_cls", "eval_top1_distillation", "eval_top1_average")
        cells = (f"{metrics[name]:10.2%}" if name in metrics else f"{'-':>10}" for name in names)
        lines.append(f"{Path(output_dir).name:24} {' '.join(cells)}")
    return "\n".join(lines)
