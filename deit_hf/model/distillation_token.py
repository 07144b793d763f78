"""Gives a plain DeiT the distillation token, or takes it from a distilled one: the names and rows that change.

The classes are in modeling_deit.py, which asks here when weights and the wanted model differ in the token.
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
    """Whether the arguments of `from_pretrained` ask for distilled weights without their token.

    Args:
        config: a `DeiTConfig`, or None, which leaves it to the weights.
        options: the keyword arguments.
        source: of the weights, for the error.
        stored: gives their configuration; called only if the arguments ask for or against the token.

    Raises:
        TypeError: `use_distillation_token` is not True, False or None.
        ValueError: they ask for a token that the weights do not have.
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
    """Name in the distilled student of a parameter of the plain model."""
    return plain_name.replace("vit.", "deit.", 1).replace("classifier.", "cls_classifier.", 1)


def plain_name(name: str) -> str:
    """Name in the plain model of a parameter of a distilled one."""
    return name.replace("deit.", "vit.", 1).replace("cls_classifier.", "classifier.", 1)


def fresh_names(student: PreTrainedModel) -> set[str]:
    """Names of what a student has and a plain model lacks: the distillation token and its head."""
    return {name for name in student.state_dict() if "distillation_" in name}


def without_token(distilled: PreTrainedModel, make: Callable[[Any], Model], source: Any) -> Model:
    """The plain model around the weights of a distilled one, without the token, its position and its head; says so.

    Args:
        distilled: it is not to be used afterwards, as both share their memory.
        make: the plain model of a configuration.
        source: of the weights, for the message.

    Returns:
        In eval mode.
    """
    config = copy.deepcopy(distilled.config)
    config.use_distillation_token = False
    with torch.device("meta"):  # no time spent on initial values
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
    """transformers' loading info of a distilled model, as that of the model without its token."""
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
    """Of a position table (1, 2 + N, D) all rows but the second, which is the distillation token's."""
    return torch.cat([tensor[:, :1], tensor[:, 2:]], dim=1) if name.endswith("position_embeddings") else tensor
