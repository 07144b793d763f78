"""Which parameters are trained and decay, how the learning rate follows from the batch, and its schedule (table 9)."""

import math
import re
from functools import partial

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

BATCH_SIZE_OF_BASE_LEARNING_RATE = 512  # table 9: learning rate 0.0005 x batch size / 512
TOKEN_NAMES = ("cls_token", "distillation_token", "position_embeddings", "pos_embed", "dist_token")


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
            `attention|classifier` the attention layers too, as arXiv:2203.09795 fine-tunes.

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


def scaled_learning_rate(base_learning_rate: float, global_batch_size: int) -> float:
    """The learning rate of a global batch (all processes and accumulation steps); official main.py:349-351."""
    return base_learning_rate * global_batch_size / BATCH_SIZE_OF_BASE_LEARNING_RATE


def cosine_schedule_with_warmup(
    optimizer: Optimizer,
    *,
    num_warmup_steps: int,
    num_steps: int,
    warmup_learning_rate: float,
    min_learning_rate: float,
) -> LambdaLR:
    """Linear warm-up, then a cosine down to a minimum, each step.

    Source: table 9; official main.py:77-89, where `warmup_learning_rate` (1e-6) and `min_learning_rate` (1e-5) are
    not scaled with the batch.
    Differs: the official rate changes once an epoch, one epoch late; this one every step.

    Args:
        optimizer: its learning rate is the peak.
        num_warmup_steps: optimizer steps of the warm-up.
        num_steps: optimizer steps of the whole training.
        warmup_learning_rate: the rate of the first step, if there is a warm-up; at most the peak.
        min_learning_rate: the rate at the end; at most the peak.
    """
    peak: float = optimizer.param_groups[0]["lr"]
    factor = partial(
        _cosine_factor,
        num_warmup_steps=num_warmup_steps,
        num_steps=num_steps,
        first=min(warmup_learning_rate / peak, 1.0) if peak else 1.0,
        last=min(min_learning_rate / peak, 1.0) if peak else 1.0,
    )
    return LambdaLR(optimizer, factor)


def _cosine_factor(step: int, *, num_warmup_steps: int, num_steps: int, first: float, last: float) -> float:
    """The learning rate at a step, as a share of the peak."""
    if step < num_warmup_steps:
        return first + (1 - first) * step / num_warmup_steps
    progress = min((step - num_warmup_steps) / max(1, num_steps - num_warmup_steps), 1.0)
    return last + (1 - last) * (1 + math.cos(math.pi * progress)) / 2
