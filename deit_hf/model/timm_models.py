"""Models of timm by name, with weights from timm's own sources or from a file that is read without running code."""

import os
from collections.abc import Mapping
from typing import Any

import timm
from safetensors import SafetensorError
from torch import nn


def is_timm_source(source: str) -> bool:
    """Whether a model's name is one of timm's: `timm:<name>`, `timm:<name>@<file>` or `timm/<name>` on the Hub."""
    return source.startswith("timm:") or (source.startswith("timm/") and not os.path.isdir(source))


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
    name, _, path = source.removeprefix("timm:").partition("@")
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
        raise ValueError(f"`{source}` cannot be loaded, the weights do not fit timm's `{name}`: {reason}") from error


def _num_classes_of_file(name: str, path: str) -> int:
    """Classes of the weights in a file, by the shape of timm's classifier layer."""
    try:
        state = timm.models.load_state_dict(path, weights_only=True)
    except (RuntimeError, ValueError, KeyError, EOFError, OSError, SafetensorError) as error:
        raise ValueError(f"`{path}` is not a file of weights that can be read safely: {str(error)[:300]}") from error
    cfg = timm.get_pretrained_cfg(name)
    classifier = cfg.classifier[0] if isinstance(cfg.classifier, (tuple, list)) else cfg.classifier
    weight = state.get(f"{classifier}.weight") if isinstance(state, Mapping) else None
    return cfg.num_classes if weight is None else len(weight)
