"""Models of timm by name, with weights from timm's own sources or from a file that is read without running code."""

import os
from collections.abc import Mapping
from typing import Any

import timm
from torch import nn


def is_timm_source(source: str) -> bool:
    """Whether a model's name is one of timm's: `timm:<name>`, `timm:<name>@<file>` or `timm/<name>` on the Hub."""
    return source.startswith("timm:") or (source.startswith("timm/") and not os.path.isdir(source))


def names_weights(source: str) -> bool:
    """Whether such a name comes with weights; without them it is a model to train from scratch."""
    return "@" in source or source.startswith("timm/")


def name_in_timm(source: str) -> str:
    """The architecture in such a name, with the tag of its weights if it has one."""
    return source.removeprefix("timm:").removeprefix("timm/").partition("@")[0]


def is_deit_of_timm(source: str) -> bool:
    """Whether such a name is that of weights of a DeiT, for which this package has models of its own."""
    return is_timm_source(source) and names_weights(source) and name_in_timm(source).startswith(("deit_", "deit3_"))


def create_timm_model(source: str, num_classes: int | None = None, pretrained: bool = True) -> nn.Module:
    """A timm model by its name here (see `is_timm_source`).

    Args:
        source: such as `timm:resnet18.a1_in1k` or `timm:resnet18@weights.safetensors`. Files are never unpickled
            beyond tensors.
        num_classes: None keeps the classifier of the weights; another number than theirs starts a new one.
        pretrained: False starts at random and needs no file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: timm has no such model, or the file does not fit it.
    """
    name, at, path = source.removeprefix("timm:").partition("@")
    if at and not path:
        raise ValueError(f"`{source}` names no file after `@`; name one, or leave `@` out")
    name = f"hf-hub:{name}" if name.startswith("timm/") else name
    if not name.startswith("hf-hub:") and not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5])
        raise ValueError(
            f"timm {timm.__version__} has no model `{name}`; some that it has: {close or 'timm.list_models()'}"
        )
    overlay: dict[str, Any] = {}
    if path and pretrained:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"no weights at `{path}` (from `{source}`)")
        overlay = {"file": path, "num_classes": _num_classes_of_file(name, path)}
        num_classes = overlay["num_classes"] if num_classes is None else num_classes
    kwargs = {} if num_classes is None else {"num_classes": num_classes}
    try:
        return timm.create_model(name, pretrained=pretrained, pretrained_cfg_overlay=overlay or None, **kwargs)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"`{source}` cannot be loaded, the weights do not fit timm's `{name}`; name the model that they belong "
            f"to, or convert those of a DeiT: python scripts/convert_checkpoint.py {path or 'FILE'} DIR ({reason})"
        ) from error


def _num_classes_of_file(name: str, path: str) -> int:
    """Classes of the weights in a file, by the shape of timm's classifier layer."""
    try:
        state = timm.models.load_state_dict(path, weights_only=True)
    except Exception as error:  # bytes of any kind come here: a damaged pickle fails in a dozen ways
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(
            f"`{path}` is not a file of weights that can be read safely ({reason}); name a "
            "`.safetensors` or `.pth` file of tensors"
        ) from error
    cfg = timm.get_pretrained_cfg(name)
    classifier = cfg.classifier[0] if isinstance(cfg.classifier, (tuple, list)) else cfg.classifier
    weight = state.get(f"{classifier}.weight") if isinstance(state, Mapping) else None
    return cfg.num_classes if weight is None else len(weight)
