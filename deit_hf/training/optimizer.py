"""Which parameters are trained, decay and at which rate (section 5 and table 9 of the paper).

How the learning rate moves is in schedule.py.
"""

import difflib
import re
from collections import defaultdict
from typing import Any

import timm.optim
from torch import nn
from torch.optim import Optimizer

TOKEN_NAMES = ("cls_token", "distillation_token", "position_embeddings", "pos_embed", "dist_token")
TORCH_BETAS = (0.9, 0.999)
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


def check_timm_optimizer(name: str) -> None:
    """Refuses what timm does not know, and what needs second derivatives, which no Trainer computes.

    Raises:
        ValueError: names the closest ones.
    """
    names = [known for known in timm.optim.list_optimizers() if not timm.optim.get_optimizer_info(known).second_order]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "DeiT's transfer used sgd, DeiT III lamb"
        raise ValueError(f"`timm_optimizer` is {name!r}, which is no optimizer of timm that can be used here; {hint}")


def create_timm_optimizer(
    name: str, groups: list[dict[str, Any]], *, betas: tuple[float, float], eps: float
) -> Optimizer:
    """An optimizer of timm: `sgd` is Nesterov's with momentum 0.9, `lamb` clips the gradient to norm 1 by itself.

    Source: official main.py:56-67: `eps` goes to every optimizer that has one, `betas` only if they are not AdamW's.

    Args:
        name: one that `check_timm_optimizer` takes.
        groups: of `parameter_groups`, each with its own learning rate.
        betas: (first, second) moment's decay.
        eps: added to denominators.
    """
    options = {} if betas == TORCH_BETAS else {"betas": betas}
    return timm.optim.create_optimizer_v2(groups, opt=name, lr=groups[0]["lr"], eps=eps, **options)
