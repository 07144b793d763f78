"""A caller's own `compute_metrics` next to the accuracy of the heads."""

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction

from .metrics import HeadAccuracy

logger = logging.getLogger(__name__)

ComputeMetrics = Callable[..., dict[str, Any]]
PreprocessLogits = Callable[[Tensor, Tensor], Tensor]


class MetricsWithAccuracy:
    """The accuracy of all heads, and what a caller's function computes of the model's answer.

    transformers hands over one batch at a time. A function that takes `compute_result` gets the batches as they come;
    any other one gets the whole evaluation once, as arrays, as transformers' own Trainer would call it.

    Attributes:
        accuracy: of the heads.
    """

    def __init__(self, own: ComputeMetrics, preprocess: PreprocessLogits | None = None):
        """Takes the functions.

        Args:
            own: `EvalPrediction` -> metrics; `predictions` are the model's answer (N, C) (of two heads: both
                together), `label_ids` are (N,), or (N, K) filled up with -1 where rows have several right labels;
                with `include_for_metrics` also `losses` and `inputs` (of this process: transformers gathers none).
            preprocess: (logits, labels) -> what `own` gets as `predictions`, such as the best classes to save memory.
        """
        self.accuracy, self.own, self.preprocess = HeadAccuracy(), own, preprocess
        self._takes_batches = "compute_result" in inspect.signature(own).parameters
        self._said: set[str] = set()
        self.reset()

    def reset(self) -> None:
        """Forgets the batches of an evaluation that did not end."""
        self.accuracy.reset()
        self._batches: list[dict[str, Any]] = []

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, Any]:
        """Takes a batch in; with `compute_result` the metrics of all batches since the last result."""
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
            raise TypeError(
                f"`compute_metrics` returns {type(own).__name__}, but must return a dict of metrics by name"
            )
        for name in sorted(own.keys() & measured.keys()):
            if name != "loss":
                raise ValueError(
                    f"`compute_metrics` returns `{name}`, which is measured here already; give yours another name"
                )
            if name not in self._said:
                logger.warning("`compute_metrics` returns `%s`, which replaces the one that is measured here", name)
            self._said.add(name)


def _array(values: Any) -> np.ndarray:
    tensor = torch.as_tensor(values).detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
