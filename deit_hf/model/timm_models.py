"""Creates models of timm by name, with weights from timm's sources or from a file, whose code is never executed."""

import os
from collections.abc import Mapping
from typing import Any

import timm
from torch import nn

from .local_sources import is_unreachable, unreachable_hub


def is_timm_source(source: str) -> bool:
    """Whether a name denotes a timm model: `timm:<name>`, `timm:<name>@<file>` or `timm/<name>` on the Hub."""
    return source.startswith("timm:") or (source.startswith("timm/") and not os.path.isdir(source))


def names_weights(source: str) -> bool:
    """Whether the name of a timm model includes weights; without them the model is trained from scratch."""
    return "@" in source or source.startswith("timm/")


def name_in_timm(source: str) -> str:
    """Returns timm's own name for the model: the architecture, with the tag of the weights if there is one."""
    return source.removeprefix("timm:").removeprefix("timm/").partition("@")[0]


def is_deit_of_timm(source: str) -> bool:
    """Whether a name denotes timm weights of a DeiT, which are loaded as a model of this package."""
    return is_timm_source(source) and names_weights(source) and name_in_timm(source).startswith(("deit_", "deit3_"))


def create_timm_model(source: str, num_classes: int | None = None, pretrained: bool = True) -> nn.Module:
    """Creates a timm model by its name (see `is_timm_source`).

    Args:
        source: such as `timm:resnet18.a1_in1k` or `timm:resnet18@weights.safetensors`. Only tensors are unpickled
            from a file.
        num_classes: None keeps the classifier of the weights; a different number of classes starts a new one.
        pretrained: False initialises the model at random and needs no file.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: the Hub cannot be reached.
        ValueError: timm has no such model, or the weights do not fit it.
    """
    name, at, path = source.removeprefix("timm:").partition("@")
    if at and not path:
        raise ValueError(f"`{source}` has no file after `@`; name one, or leave `@` out")
    name = f"hf-hub:{name}" if name.startswith("timm/") else name
    if not name.startswith("hf-hub:") and not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5])
        raise ValueError(
            f"timm {timm.__version__} has no model `{name}`; similar names: {close or 'see timm.list_models()'}"
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
    except OSError as error:
        if is_unreachable(error):
            raise unreachable_hub(source) from error
        raise
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"`{source}` cannot be loaded, because the weights do not fit timm's `{name}`; name the model that they "
            "belong to, or convert the weights of a DeiT with deit-hf convert "
            f"{path or 'FILE'} DIR ({reason})"
        ) from error


def _num_classes_of_file(name: str, path: str) -> int:
    """Returns the number of classes of the weights in a file, from the shape of timm's classifier layer."""
    try:
        state = timm.models.load_state_dict(path, weights_only=True)
    except Exception as error:  # a damaged pickle can raise almost any exception
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(
            f"`{path}` is not a file of weights that can be read safely ({reason}); name a "
            "`.safetensors` or `.pth` file of tensors"
        ) from error
    cfg = timm.get_pretrained_cfg(name)
    classifier = cfg.classifier[0] if isinstance(cfg.classifier, (tuple, list)) else cfg.classifier
    weight = state.get(f"{classifier}.weight") if isinstance(state, Mapping) else None
    return cfg.num_classes if weight is None else len(weight)
