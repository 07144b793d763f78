"""Optimizers of timm, by name."""

import difflib
from typing import Any

import timm.optim
from torch.optim import Optimizer

TORCH_BETAS = (0.9, 0.999)


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
