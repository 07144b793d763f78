"""Adds a distillation token to plain DeiT weights, or removes it from distilled ones: names and rows that change.

The model classes are in modeling_deit.py, which uses these functions in `from_pretrained`.
"""

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=PreTrainedModel)
NEEDS_TOKEN = (
    "this class needs the token; use DeiTForImageClassification for plain DeiT, or a config with "
    "`use_distillation_token=True`"
)


def drops_token(config: Any, options: Mapping[str, Any], source: Any, stored: Callable[[], Any]) -> bool:
    """Whether the arguments of `from_pretrained` request distilled weights without their token.

    Args:
        config: a `DeiTConfig`, or None to keep the token as it is in the weights.
        options: the keyword arguments of `from_pretrained`.
        source: of the weights, for the error message.
        stored: returns the configuration of the weights; called only if the arguments set `use_distillation_token`.

    Raises:
        TypeError: `use_distillation_token` is not True, False or None.
        ValueError: the arguments request a token that the weights do not have.
    """
    wanted = options.get("use_distillation_token", getattr(config, "use_distillation_token", None))
    if not isinstance(wanted, bool | None):
        raise TypeError(f"`use_distillation_token` is {wanted!r}, but must be True or False; leave it out to keep it")
    has_token = wanted is not None and stored().use_distillation_token
    if wanted and not has_token:
        raise ValueError(
            f"`use_distillation_token` is True, but `{source}` has no such token; leave it out, or load the weights "
            "with `DeiTForImageClassificationWithTeacher`, which gives them one"
        )
    return has_token and not wanted


def student_name(plain_name: str) -> str:
    """Converts a parameter name of the plain model to the name in the distilled student."""
    return plain_name.replace("vit.", "deit.", 1).replace("classifier.", "cls_classifier.", 1)


def plain_name(name: str) -> str:
    """Converts a parameter name of a distilled model to the name in the plain model."""
    return name.replace("deit.", "vit.", 1).replace("cls_classifier.", "classifier.", 1)


def fresh_names(student: PreTrainedModel) -> set[str]:
    """Returns the parameter names that only a distilled student has: the distillation token and its head."""
    return {name for name in student.state_dict() if "distillation_" in name}


def without_token(distilled: PreTrainedModel, make: Callable[[Any], Model], source: Any) -> Model:
    """Builds a plain model from a distilled one, without the token, its position and its head; logs a warning.

    Args:
        distilled: must not be used afterwards, because the two models share memory.
        make: builds the plain model from a configuration.
        source: of the weights, for the message.

    Returns:
        The plain model, in eval mode.
    """
    config = copy.deepcopy(distilled.config)
    config.use_distillation_token = False
    with torch.device("meta"):  # saves the time for initial values
        plain = make(config)
    dropped = fresh_names(distilled)
    state = {
        plain_name(name): _kept_rows(name, x) for name, x in distilled.state_dict().items() if name not in dropped
    }
    plain.load_state_dict(state, assign=True)
    has_head = any("classifier" in name for name in dropped)
    parts = "its row of the position table and its head (`distillation_classifier`)" if has_head else ""
    logger.warning(
        "`use_distillation_token` is False: the distillation token of `%s` is dropped, with %s",
        *(source, parts or "its row of the position table"),
    )
    return plain.eval()


def loading_info(info: dict[str, Any], distilled: PreTrainedModel) -> dict[str, Any]:
    """Converts transformers' loading info of a distilled model to that of the model without its token."""
    dropped = fresh_names(distilled)
    return {
        **info,
        "missing_keys": {plain_name(name) for name in info["missing_keys"] - dropped},
        "unexpected_keys": {*info["unexpected_keys"], *dropped},
        "mismatched_keys": {
            (plain_name(name), *shapes) for name, *shapes in info["mismatched_keys"] if name not in dropped
        },
    }


def _kept_rows(name: str, tensor: Tensor) -> Tensor:
    """Drops the row of the distillation token, the second one, if this is the position table (1, 2 + N, D)."""
    return torch.cat([tensor[:, :1], tensor[:, 2:]], dim=1) if name.endswith("position_embeddings") else tensor
