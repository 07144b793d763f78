"""Models of `torch.compile`: removes the wrapper, so that weights are saved under their normal names."""

from accelerate.utils import extract_model_from_parallel, is_compiled_module
from torch import nn


def without_compiled_names(model: nn.Module) -> nn.Module:
    """Unwraps a model of `torch.compile`; it stays compiled.

    The wrapper adds `_orig_mod.` to every weight name. transformers saves such names, but cannot load them.

    Args:
        model: changed in place: sub-modules that were compiled separately are unwrapped, too.

    Returns:
        The model inside the wrapper, or `model` itself. A copy of it is not compiled.
    """
    for part in list(model.modules()):
        for name, child in part.named_children():
            if is_compiled_module(child) and not is_compiled_module(part):
                setattr(part, name, _unwrapped(child))
    return _unwrapped(model) if is_compiled_module(model) else model


def _unwrapped(compiled: nn.Module) -> nn.Module:
    module: nn.Module = extract_model_from_parallel(compiled, keep_torch_compile=False)
    # what `nn.Module.compile` sets, with the backend and mode of the wrapper
    module._compiled_call_impl = compiled.dynamo_ctx(module._call_impl)  # type: ignore[operator]
    return module


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is compiled by `torch.compile` or in place, and is compiled again for each batch size."""
    return is_compiled_module(module) or module._compiled_call_impl is not None
