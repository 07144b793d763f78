"""Probabilities of classes; logits that are not finite are refused, because they answer nothing."""

from torch import Tensor


def probabilities(logits: Tensor) -> Tensor:
    """Returns the softmax of logits (..., C) in float32.

    Raises:
        ValueError: see `check_finite`.
    """
    check_finite(logits)
    return logits.float().softmax(dim=-1)


def check_finite(logits: Tensor) -> None:
    """Refuses logits (..., C) of a model with a NaN or an infinite value; their greatest one is not its answer.

    Raises:
        ValueError: a logit is not finite.
    """
    is_bad = ~logits.isfinite().all(dim=-1)
    if is_bad.any():
        raise ValueError(
            f"the logits of the model are NaN or infinite for {int(is_bad.sum())} of {is_bad.numel()} images, but "
            f"must be finite (they are {str(logits.dtype).removeprefix('torch.')}): the weights are damaged, or the "
            "values are too large for this type; save the model again in float32 "
            "(`model.float().save_pretrained(DIR)`), or name another one"
        )
