"""How long a model takes for one image on this machine."""

import statistics
import time

import torch
from torch import nn

NUM_WARMUP, NUM_MEASURED = 3, 20


@torch.no_grad()
def milliseconds_per_image(model: nn.Module, image_size: tuple[int, int], device: torch.device) -> float:
    """Returns the median time of a forward pass of one image in milliseconds, without decoding and preprocessing.

    Args:
        model: takes `pixel_values` (1, 3, height, width) as its first argument; moved to `device`, in eval mode.
        image_size: (height, width) in pixels.
        device: where to measure.
    """
    model.to(device).eval()
    pixel_values = torch.zeros(1, 3, *image_size, device=device)
    times = []
    for _ in range(NUM_WARMUP + NUM_MEASURED):
        start = time.perf_counter()
        model(pixel_values)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[NUM_WARMUP:])
