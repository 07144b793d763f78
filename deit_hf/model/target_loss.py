"""The loss of transformers' own models for mixed targets, which it would take for those of several labels."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from .layers import at_least_float32
from .modeling_deit import DeiTPreTrainedModel


def takes_targets(model: PreTrainedModel) -> None:
    """Gives a model of transformers the cross-entropy of targets (B, C), as the models of this package have it.

    Without it a model that is called with mixed labels learns by binary cross-entropy, and is saved as one of several
    labels, whose pipeline answers with sigmoids.

    Args:
        model: changed in place; models of this package, and those that say that they have several labels, stay.
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
