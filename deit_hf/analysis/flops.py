"""The multiply-adds of any model, counted while it runs."""

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def multiply_adds(model: nn.Module, pixel_values: Tensor) -> int:
    """Counts the multiply-adds of matrix products and convolutions, which papers on image models call FLOPs.

    Differs: `model_cost` also counts the normalisations, and the tokens of the last layer that our models leave out.

    Args:
        model: takes the pixels as its first argument; on their device, in eval mode.
        pixel_values: (B, channels, height, width); the result is for all B images.
    """
    # fused attention on a CPU is not counted; this backend is two matrix products, which are
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(pixel_values)
    return counter.get_total_flops() // 2  # the counter counts a multiply-add as two
