"""Compiled models, whose weights would be saved under names that nobody loads."""

from accelerate.utils import extract_model_from_parallel, is_compiled_module
from torch import nn


def without_compiled_names(model: nn.Module) -> nn.Module:
    """The model that `torch.compile` has wrapped, still compiled, with the names of its weights.

    The wrapper adds `_orig_mod.` to every name; transformers saves these names, and loads none of them.

    Args:
        model: changed in place: parts that were compiled on their own lose their wrappers, too.

    Returns:
        The model itself; a copy of it is not compiled.
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
