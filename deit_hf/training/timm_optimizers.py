"""The optimizers of timm, by name."""

import difflib
from typing import Any

import timm.optim
from torch.optim import Optimizer

TORCH_BETAS = (0.9, 0.999)


def check_timm_optimizer(name: str) -> None:
    """Refuses unknown names, and optimizers that need second derivatives, which `Trainer` does not compute.

    Raises:
        ValueError: suggests the closest names.
    """
    names = [known for known in timm.optim.list_optimizers() if not timm.optim.get_optimizer_info(known).second_order]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "DeiT's transfer used sgd, DeiT III lamb"
        raise ValueError(
            f"`timm_optimizer` is {name!r}, which is not an optimizer of timm that can be used here; {hint}"
        )


def create_timm_optimizer(
    name: str, groups: list[dict[str, Any]], *, betas: tuple[float, float], eps: float
) -> Optimizer:
    """Creates an optimizer of timm. `sgd` has Nesterov momentum 0.9; `lamb` also clips the gradient to norm 1.

    Source: official main.py:56-67: `eps` is passed to every optimizer that has one, `betas` only if they differ from
    AdamW's default.

    Args:
        name: a name that `check_timm_optimizer` accepts.
        groups: from `parameter_groups`, each with its own learning rate.
        betas: decay of the first and the second moment.
        eps: added to the denominator.
    """
    options = {} if betas == TORCH_BETAS else {"betas": betas}
    return timm.optim.create_optimizer_v2(groups, opt=name, lr=groups[0]["lr"], eps=eps, **options)
