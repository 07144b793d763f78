"""Which parameters are trained, decay and at which rate (section 5 and table 9 of the paper).

How the learning rate moves is in schedule.py.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR
from torch.utils.hooks import RemovableHandle

from .arguments import DistillationArguments
from .timm_optimizers import create_timm_optimizer

logger = logging.getLogger(__name__)

# Of an optimizer's groups: what options say. Others of its entries can be state that the optimizer keeps there.
GROUP_OPTIONS = ("weight_decay", "betas", "eps", "momentum", "dampening", "nesterov", "alpha", "amsgrad")
TOKEN_NAMES = ("cls_token", "distillation_token", "position_embeddings", "pos_embed", "dist_token")
# names of this package and its checkpoints, and those of transformers' own ViT and DeiT
_BLOCK = re.compile(r"(?:^|\.)(?:encoder\.layer|(?:deit|vit)\.layers)\.(\d+)\.")


def decay_parameter_names(model: nn.Module) -> list[str]:
    """Names of the parameters that weight decay acts on: matrices and kernels, but no bias, norm, token or position.

    Source: official code through timm 0.3's `add_weight_decay` and `no_weight_decay`.
    Differs: the distillation token does not decay (timm 0.3.2 let it decay, timm today does not).
    """
    return [name for name, p in model.named_parameters() if p.ndim > 1 and name.rpartition(".")[2] not in TOKEN_NAMES]


def train_only(model: nn.Module, pattern: str) -> None:
    """Freezes every parameter whose name the pattern does not match, and keeps what is wholly frozen in eval mode.

    Args:
        model: changed in place; the batch statistics of its frozen parts no longer move.
        pattern: regular expression, found anywhere in a name: `classifier` trains a new head,
            `attention|classifier` the attention layers too, as arXiv:2203.09795 fine-tunes (its code trains the
            positions as well: `attention|classifier|position_embeddings`).

    Raises:
        ValueError: the pattern matches no parameter, or is no regular expression.
    """
    try:
        trained = {name for name, _ in model.named_parameters() if re.search(pattern, name)}
    except re.error as error:
        raise ValueError(f"`train_only` is {pattern!r}, which is no regular expression: {error}") from error
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
    """The layer of each parameter by name, counted from the pixels up.

    Source: timm's groups of its own DeiT: embeddings 0, block i is i + 1, the heads are one above the last block.
    The norm after the last block counts as a part of it (BEiT's code has it with the head).

    Raises:
        ValueError: a name is not among those of DeiT and ViT, as this package and transformers have them.
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
    """What is trained, in groups for an optimizer: by layer from the heads down, what decays before what does not.

    Source: layer-wise decay of BEiT (arXiv:2106.08254), as in timm's `param_groups_layer_decay`.

    Args:
        model: its frozen parameters are in no group.
        learning_rate: of the heads, before any schedule.
        weight_decay: of the parameters that `decay_parameter_names` gives.
        layer_decay: in (0, 1], a layer's rate over that of the layer above it; below 1 only for DeiT and ViT.

    Returns:
        Groups with `params`, `weight_decay`, `lr`, and the `learning_rate_scale` that is already in `lr`.

    Raises:
        ValueError: the model has no layers for a `layer_decay` below 1.
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
    """Raises ValueError for a `layer_decay` that a model cannot follow, as its layers have other names."""
    if args.layer_decay < 1:
        layer_numbers(model)


def create_own_optimizer(
    model: nn.Module,
    args: DistillationArguments,
    transformers_own: Callable[[], tuple[type[Optimizer], dict[str, Any]]],
) -> Optimizer | None:
    """The optimizer over `parameter_groups` that the options ask for, or None where transformers' own will do.

    Args:
        model: the student.
        args: the recipe.
        transformers_own: gives class and keyword arguments of the optimizer that transformers would make.
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


def keep_options(optimizer: Optimizer, schedule: LRScheduler) -> RemovableHandle:
    """Makes an optimizer keep this run's options, such as `weight_decay`, when the state of a checkpoint is loaded.

    Args:
        optimizer: of the run.
        schedule: its schedule; if it changes the momentum as well, the options of the checkpoint are used.

    Returns:
        Its `remove()` ends this. Loading raises ValueError if the state is that of another optimizer.
    """

    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]

    def restore_options(optimizer: Optimizer) -> None:
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

    return optimizer.register_load_state_dict_post_hook(restore_options)
