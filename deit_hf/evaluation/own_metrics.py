"""Combines a caller's own `compute_metrics` with the accuracy of the heads."""

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction

from .confusion import Confusion
from .metrics import HeadAccuracy

logger = logging.getLogger(__name__)

ComputeMetrics = Callable[..., dict[str, Any]]
PreprocessLogits = Callable[[Tensor, Tensor], Tensor]


class MetricsWithAccuracy:
    """Computes the accuracy of all heads, and the metrics of a caller's function.

    `Trainer` passes one batch at a time. A function with an argument `compute_result` gets each batch. Any other
    function is called once, with arrays of the whole evaluation, as by `Trainer` without `batch_eval_metrics`.

    Attributes:
        accuracy: of the heads.
    """

    def __init__(self, own: ComputeMetrics, preprocess: PreprocessLogits | None = None):
        """Stores the functions.

        Args:
            own: converts an `EvalPrediction` to metrics. Its `predictions` are logits (N, C), of both heads combined
                if there are two. Its `label_ids` are (N,), or (N, K) padded with -1 if rows have several correct
                labels. With `include_for_metrics` it also has `losses` and `inputs` (only those of this process,
                because transformers does not gather them).
            preprocess: converts (logits, labels) to the `predictions` of `own`, for example to the best classes to
                save memory.
        """
        self.accuracy, self.own, self.preprocess = HeadAccuracy(), own, preprocess
        self._takes_batches = "compute_result" in inspect.signature(own).parameters
        self._warned_of: set[str] = set()
        self.reset()

    @property
    def confusion(self) -> Confusion | None:
        """Confusion matrix of the last result; see `HeadAccuracy`."""
        return self.accuracy.confusion

    def reset(self) -> None:
        """Discards the batches of an unfinished evaluation."""
        self.accuracy.reset()
        self._batches: list[dict[str, Any]] = []

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, Any]:
        """Adds a batch; with `compute_result`, returns the metrics of all batches since the last result."""
        metrics: dict[str, Any] = dict(self.accuracy(prediction, compute_result))
        heads, labels = prediction.predictions, prediction.label_ids
        answer = torch.as_tensor(heads[0] if isinstance(heads, tuple) else heads)  # (B, C)
        if self.preprocess is not None:
            answer = self.preprocess(answer, torch.as_tensor(labels))
        inputs = prediction.inputs["pixel_values"] if isinstance(prediction.inputs, dict) else prediction.inputs
        batch = {"predictions": answer, "label_ids": labels, "losses": prediction.losses, "inputs": inputs}
        if self._takes_batches:
            own = self.own(EvalPrediction(**batch), compute_result=compute_result)
        else:
            self._batches.append({name: _array(part) for name, part in batch.items() if part is not None})
            if not compute_result:
                return {}
            batches, self._batches = self._batches, []
            whole = {name: np.concatenate([each[name] for each in batches]) for name in batches[0]}
            own = self.own(EvalPrediction(**whole))
        if not compute_result:
            return {}
        self._check(own, metrics)
        return {**metrics, **own}

    def _check(self, own: Any, measured: Mapping[str, Any]) -> None:
        if not isinstance(own, Mapping):
            raise TypeError(f"`compute_metrics` returns {type(own).__name__}, but must return a dict of metrics")
        for name in sorted(own.keys() & measured.keys()):
            if name != "loss":
                raise ValueError(
                    f"`compute_metrics` returns `{name}`, which deit_hf already computes; give yours another name"
                )
            if name not in self._warned_of:
                logger.warning("`compute_metrics` returns `%s`, which replaces the one of deit_hf", name)
            self._warned_of.add(name)


def _array(values: Any) -> np.ndarray:
    tensor = torch.as_tensor(values).detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def metrics_of(own: ComputeMetrics | None, preprocess: PreprocessLogits | None) -> ComputeMetrics:
    """Returns a `compute_metrics` that measures the accuracy of all heads, and calls the user's function if given."""
    if own is not None and not isinstance(own, HeadAccuracy):
        return MetricsWithAccuracy(own, preprocess)
    if preprocess is not None:
        raise ValueError(
            "`preprocess_logits_for_metrics` is given without a `compute_metrics` that would read it; leave it out"
        )
    return own or HeadAccuracy()
