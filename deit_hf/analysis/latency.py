"""How long a model takes on this machine."""

import statistics
import time

import torch
from torch import Tensor, nn

NUM_WARMUP, NUM_MEASURED = 3, 20


@torch.no_grad()
def milliseconds(model: nn.Module, pixel_values: Tensor, *, num_measured: int = NUM_MEASURED) -> float:
    """Returns the median time of a forward pass in milliseconds, without decoding and preprocessing.

    Args:
        model: takes the pixels as its first argument; on their device, in eval mode.
        pixel_values: (B, channels, height, width).
        num_measured: number of passes, after some that do not count.
    """
    times = []
    for _ in range(NUM_WARMUP + num_measured):
        start = time.perf_counter()
        model(pixel_values)
        if pixel_values.device.type != "cpu":
            torch.accelerator.synchronize(pixel_values.device)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[NUM_WARMUP:])
