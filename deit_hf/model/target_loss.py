"""Cross-entropy with mixed targets for models of transformers, which would treat them as multi-label targets."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from .layers import at_least_float32
from .modeling_deit import DeiTPreTrainedModel


def takes_targets(model: PreTrainedModel) -> None:
    """Makes a model of transformers use cross-entropy for targets (B, C), like the models of this package.

    Otherwise a model that is called with mixed labels is trained with binary cross-entropy. It is also saved as a
    multi-label model, and its pipeline then applies a sigmoid.

    Args:
        model: changed in place; models of this package and models configured as multi-label are not changed.
    """
    has_several = getattr(model.config, "problem_type", None) == "multi_label_classification"
    if not isinstance(model, DeiTPreTrainedModel) and not has_several:
        own = model.loss_function
        model.loss_function = partial(_loss_of_targets, own.args[0] if isinstance(own, partial) else own)


def _loss_of_targets(
    own: Callable[..., Tensor], labels: Tensor, logits: Tensor, config: Any, **options: Any
) -> Tensor:
    if labels.is_floating_point() and labels.shape == logits.shape:
        precise = at_least_float32(logits)
        return F.cross_entropy(precise, labels.to(precise))
    return own(labels, logits, config, **options)
