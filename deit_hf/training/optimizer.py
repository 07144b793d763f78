"""Parameter groups and optimizer: what is trained, with which weight decay and learning rate (sec. 5, table 9).

The change of the learning rate over time is in schedule.py.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR
from transformers import PreTrainedModel

from ..model.build import head_names
from .arguments import DistillationArguments
from .timm_optimizers import create_timm_optimizer

logger = logging.getLogger(__name__)

# Entries of a parameter group that are set by options. Other entries can be state that the optimizer keeps there.
GROUP_OPTIONS = ("weight_decay", "betas", "eps", "momentum", "dampening", "nesterov", "alpha", "amsgrad")
HEAD = "head"  # the value of `train_only` for the classifiers of any model
TOKEN_NAMES = ("cls_token", "distillation_token", "position_embeddings", "pos_embed", "dist_token")
# names of layers in this package and its checkpoints, and in transformers' ViT and DeiT
_BLOCK = re.compile(r"(?:^|\.)(?:encoder\.layer|(?:deit|vit)\.layers)\.(\d+)\.")


def decay_parameter_names(model: nn.Module) -> list[str]:
    """Returns the names of parameters with weight decay: matrices and kernels, not biases, norms, tokens or positions.

    Source: official code through timm 0.3's `add_weight_decay` and `no_weight_decay`.
    Differs: the distillation token does not decay (it does in timm 0.3.2, but not in current timm).
    """
    return [name for name, p in model.named_parameters() if p.ndim > 1 and name.rpartition(".")[2] not in TOKEN_NAMES]


def train_only(model: nn.Module, pattern: str) -> None:
    """Freezes all parameters whose name the pattern does not match, and keeps frozen modules in eval mode.

    Args:
        model: changed in place; the batch statistics of modules without a trained parameter no longer change.
        pattern: regular expression to search for in each name. `classifier` trains only the head;
            `attention|classifier` also trains the attention layers, as arXiv:2203.09795 fine-tunes (its code also
            trains the positions: `attention|classifier|position_embeddings`). `head` trains only the classifiers,
            whatever they are called in the model.

    Raises:
        ValueError: the pattern matches no parameter, or is not a regular expression.
    """
    try:
        trained = {name for name, _ in model.named_parameters() if re.search(pattern, name)}
        if pattern == HEAD and isinstance(model, PreTrainedModel):
            trained = set(head_names(model))
    except re.error as error:
        raise ValueError(f"`train_only` is {pattern!r}, which is not a regular expression: {error}") from error
    if not trained:
        names = [name for name, _ in model.named_parameters()]
        raise ValueError(f"`train_only` {pattern!r} matches no parameter; the model has {', '.join(names[-4:])}, ...")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    frozen = []
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            frozen.append(module)

    def keep_in_eval_mode(*_: object) -> None:
        for module in frozen:
            module.eval()

    model.register_forward_pre_hook(keep_in_eval_mode)


def layer_numbers(model: nn.Module) -> dict[str, int]:
    """Returns the layer number of each parameter by name; layer 0 is the embeddings.

    Source: timm's groups of its own DeiT: block i is layer i + 1, and the heads are one layer above the last block.
    The norm after the last block belongs to that block (in BEiT's code, to the head).

    Raises:
        ValueError: a name is not one of DeiT or ViT in this package or in transformers.
    """
    names = [name for name, _ in model.named_parameters()]
    numbers = {name: int(match[1]) + 1 for name in names if (match := _BLOCK.search(name))}
    last = max(numbers.values(), default=0)
    for name in names:
        if name not in numbers:
            part = re.search(r"(?:^|\.)(embeddings|layernorm|(?:\w+_)?classifier)\.", name)
            if part is None or not last:
                raise ValueError(
                    f"`layer_decay` needs the layers of a DeiT or ViT, but `{name}` of {type(model).__name__} is in "
                    "none of them; set `layer_decay` to 1"
                )
            numbers[name] = {"embeddings": 0, "layernorm": last}.get(part[1], last + 1)
    return numbers


def parameter_groups(
    model: nn.Module, *, learning_rate: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Returns parameter groups for an optimizer, one or two per layer: with and without weight decay.

    The groups are ordered from the heads down to the embeddings; within a layer, the one with weight decay is first.

    Source: layer-wise learning-rate decay of BEiT (arXiv:2106.08254), as in timm's `param_groups_layer_decay`.

    Args:
        model: its frozen parameters are left out.
        learning_rate: of the heads, before the schedule is applied.
        weight_decay: of the parameters in `decay_parameter_names`.
        layer_decay: in (0, 1], ratio of the learning rates of a layer and the layer above it; only DeiT and ViT can
            have less than 1.

    Returns:
        Groups with `params`, `weight_decay`, `lr` and `learning_rate_scale`, by which `lr` is already multiplied.

    Raises:
        ValueError: `layer_decay` is below 1, but the model is not a DeiT or ViT.
    """
    decaying = set(decay_parameter_names(model))
    numbers = layer_numbers(model) if layer_decay < 1 else {}
    top = max(numbers.values(), default=0)
    members = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members[top - numbers.get(name, 0), name not in decaying].append(parameter)
    return [
        {
            "params": members[layers_above, is_exempt],
            "weight_decay": 0.0 if is_exempt else weight_decay,
            "lr": learning_rate * layer_decay**layers_above,
            "learning_rate_scale": layer_decay**layers_above,
        }
        for layers_above, is_exempt in sorted(members)
    ]


def check_layers(model: nn.Module, args: DistillationArguments) -> None:
    """Raises ValueError if `layer_decay` is below 1, but the model is not a DeiT or ViT."""
    if args.layer_decay < 1:
        layer_numbers(model)


def create_own_optimizer(
    model: nn.Module,
    args: DistillationArguments,
    transformers_own: Callable[[], tuple[type[Optimizer], dict[str, Any]]],
) -> Optimizer | None:
    """Returns an optimizer over `parameter_groups`, or None if `Trainer` can create the one of the options.

    Args:
        model: the student.
        args: the recipe.
        transformers_own: returns class and keyword arguments of the optimizer that `Trainer` would create.
    """
    if args.timm_optimizer is None and args.layer_decay == 1:
        return None
    assert args.learning_rate is not None
    groups = parameter_groups(
        model, learning_rate=args.learning_rate, weight_decay=args.weight_decay, layer_decay=args.layer_decay
    )
    if args.timm_optimizer:
        betas = (args.adam_beta1, args.adam_beta2)
        return create_timm_optimizer(args.timm_optimizer, groups, betas=betas, eps=args.adam_epsilon)
    optimizer_class, options = transformers_own()
    return optimizer_class(groups, **options)


def group_options(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Returns the entries of each parameter group, without its parameters."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def restore_group_options(optimizer: Optimizer, own: Sequence[dict[str, Any]], schedule: LRScheduler) -> None:
    """Sets this run's options, such as `weight_decay`, again after the state of a checkpoint was loaded.

    Args:
        optimizer: with the loaded state.
        own: `group_options` before loading.
        schedule: of the learning rate; if it changes the momentum as well, the loaded options stay.

    Raises:
        ValueError: the loaded state is that of another optimizer.
    """
    changed = {}
    for group, options in zip(optimizer.param_groups, own, strict=True):
        missing = sorted(options.keys() - group.keys())
        if missing:
            raise ValueError(
                "the checkpoint holds the state of another optimizer than this run's: it lacks "
                f"{', '.join(missing)}; use the same one (`optim`, `timm_optimizer`), or start a new run from the "
                "checkpoint's weights with `model_name_or_path`"
            )
        for name in GROUP_OPTIONS if not isinstance(schedule, CyclicLR | OneCycleLR) else ():
            if name in options and group[name] != options[name]:
                changed[name] = f"`{name}` of the optimizer is {options[name]} from here on; it was {group[name]}"
                group[name] = options[name]
    if changed:
        logger.warning("%s", "; ".join(changed.values()))
