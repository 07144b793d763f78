"""Which parameters are trained, decay and at which rate, how that rate follows from the batch, and its schedule.

Section 5 and table 9 of the paper. The options that lead here are in arguments.py.
"""

import contextlib
import difflib
import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

import timm.optim
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedConfig

from .configuration_deit import DeiTConfig

logger = logging.getLogger(__name__)

BATCH_SIZE_OF_BASE_LEARNING_RATE = 512  # table 9: learning rate 0.0005 x batch size / 512
PAPER_GLOBAL_BATCH_SIZE = 1024  # table 9
BASE_WIDTH = 768  # table 1
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


def scaled_learning_rate(base_learning_rate: float, global_batch_size: int) -> float:
    """The learning rate of a global batch (all processes and accumulation steps); official main.py:349-351."""
    return base_learning_rate * global_batch_size / BATCH_SIZE_OF_BASE_LEARNING_RATE


def warn_of_global_batch(config: PreTrainedConfig, *, global_batch_size: int, num_accumulation_steps: int) -> None:
    """Warns when a base-size DeiT is trained from scratch with another global batch than the paper's 1024.

    Source: users of the official code report 78.8 % top-1 at a batch of 512 instead of 81.8 % for the base size,
    while tiny and small came out as published.

    Args:
        config: the student's; one that was loaded with weights is a fine-tuning.
        global_batch_size: views of one optimizer step.
        num_accumulation_steps: forward passes of one optimizer step.
    """
    is_base = isinstance(config, DeiTConfig) and config.hidden_size == BASE_WIDTH
    if not is_base or config.name_or_path or global_batch_size == PAPER_GLOBAL_BATCH_SIZE:
        return
    in_one_pass = global_batch_size // num_accumulation_steps
    advice = f"set `gradient_accumulation_steps` to {PAPER_GLOBAL_BATCH_SIZE // in_one_pass}"
    if PAPER_GLOBAL_BATCH_SIZE % in_one_pass:
        advice = "choose `per_device_train_batch_size` x processes x `gradient_accumulation_steps` to be that"
    logger.warning(
        "the global batch is %d images, but the paper's results for the base size need %d, even with the learning "
        "rate scaled; %s",
        *(global_batch_size, PAPER_GLOBAL_BATCH_SIZE, advice),
    )


def cosine_schedule_with_warmup(
    optimizer: Optimizer,
    *,
    num_warmup_steps: int,
    num_steps: int,
    warmup_learning_rate: float,
    min_learning_rate: float,
    official_steps_in_epoch: int | None = None,
) -> LambdaLR:
    """Linear warm-up, then a cosine down to a minimum; a pure function of the step, so that a resume is exact.

    Source: table 9; official main.py:77-89, where `warmup_learning_rate` (1e-6) and `min_learning_rate` (1e-5) are
    not scaled with the batch.
    Differs: unless `official_steps_in_epoch` is given, the rate changes every step and the cosine starts where the
    warm-up ends. The official rate changes once an epoch, one epoch late (main.py:432), and its cosine counts from
    the first epoch (test_official_stepping_is_timms_schedule_in_the_official_loop).

    Args:
        optimizer: its learning rate is the peak, times the `learning_rate_scale` of a group; all groups keep their
            ratios at every step.
        num_warmup_steps: optimizer steps of the warm-up.
        num_steps: optimizer steps of the whole training.
        warmup_learning_rate: the rate of the first step, if there is a warm-up; at most the peak.
        min_learning_rate: the rate at the end; at most the peak.
        official_steps_in_epoch: optimizer steps of an epoch, for the official code's rate.
    """
    group = optimizer.param_groups[0]
    peak: float = group["lr"] / group.get("learning_rate_scale", 1.0)
    factor = partial(
        _cosine_factor,
        num_warmup_steps=num_warmup_steps,
        num_steps=num_steps,
        first=min(warmup_learning_rate / peak, 1.0) if peak else 1.0,
        last=min(min_learning_rate / peak, 1.0) if peak else 1.0,
        official_steps_in_epoch=official_steps_in_epoch,
    )
    return LambdaLR(optimizer, factor)


def _cosine_factor(
    step: int, *, num_warmup_steps: int, num_steps: int, first: float, last: float, official_steps_in_epoch: int | None
) -> float:
    """The learning rate at a step, as a share of the peak."""
    cosine_start = num_warmup_steps
    if official_steps_in_epoch is not None:
        epochs_done = step // official_steps_in_epoch
        # after its epoch t the official loop sets the rate that belongs to t, so that epochs 0 and 1 share one
        step, cosine_start = max(epochs_done - 1, 0) * official_steps_in_epoch, 0
    if step < num_warmup_steps:
        return first + (1 - first) * step / num_warmup_steps
    progress = min((step - cosine_start) / max(1, num_steps - cosine_start), 1.0)
    return last + (1 - last) * (1 + math.cos(math.pi * progress)) / 2


@contextlib.contextmanager
def keeps_rates(scheduler: Any) -> Iterator[None]:
    """A schedule keeps its peak rates while the state of a checkpoint, which has its own, is loaded.

    transformers would go on with the checkpoint's, whatever `learning_rate` says now.

    Args:
        scheduler: of the run that goes on; one without a function of the step is left alone.
    """
    if not isinstance(scheduler, LambdaLR):
        yield
        return
    peaks = list(scheduler.base_lrs)
    yield
    if scheduler.base_lrs == peaks:
        return
    logger.warning("the peak learning rate is %g from here on; it was %g", max(peaks), max(scheduler.base_lrs))
    scheduler.base_lrs = peaks
    groups = scheduler.optimizer.param_groups
    for group, peak, factor in zip(groups, peaks, scheduler.lr_lambdas, strict=True):
        group["initial_lr"], group["lr"] = peak, peak * factor(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in groups]
