"""The ways to combine the outputs of two heads; metrics.py computes them."""

from typing import Literal

Fusion = Literal["logit_mean", "softmax_sum"]
FUSIONS: dict[Fusion, str] = {
    "logit_mean": "mean of both heads' logits",
    "softmax_sum": "sum of both heads' softmaxes",
}
