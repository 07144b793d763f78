"""A faster teacher: compiled, or with another memory layout if that is faster here."""

import logging
import time

import torch
from torch import Tensor

from .teacher import Teacher

logger = logging.getLogger(__name__)

NUM_STEPS = 20  # timed with each layout
LONGEST = 10.0  # seconds, for each layout


def compile_teacher(teacher: Teacher) -> None:
    """Compiles the module in place when it is first called; names of weights and the fingerprint stay the same."""
    teacher.module.compile()


def choose_layout(teacher: Teacher, pixel_values: Tensor) -> None:
    """Uses channels-last for weights and pixels if this is faster for such a batch, and logs both times.

    It is faster for some convnets and versions of torch, and slower for others, such as the grouped convolutions of
    RegNet. The answers differ by rounding.

    Args:
        teacher: on its device.
        pixel_values: (B, channels, height, width), a batch of the size of the training, on the same device.
    """
    seconds = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        teacher.use_layout(layout)
        seconds[layout] = _seconds_per_step(teacher, pixel_values)
    fastest = min(seconds, key=lambda layout: seconds[layout])
    teacher.use_layout(fastest)
    contiguous, channels_last = (1000 * value for value in seconds.values())
    logger.warning(
        "the teacher takes %.1f ms for a batch of %d, with channels-last %.1f ms: %s",
        *(contiguous, len(pixel_values), channels_last),
        "channels-last is used" if fastest is torch.channels_last else "channels-last is not used",
    )


def _seconds_per_step(teacher: Teacher, pixel_values: Tensor) -> float:
    """Median time of a few steps; the first ones, which choose algorithms, are not counted."""
    times, begin = [], time.perf_counter()
    for step in range(NUM_STEPS + 2):
        start = time.perf_counter()
        teacher(pixel_values)
        if pixel_values.device.type != "cpu":
            torch.accelerator.synchronize()
        times.append(time.perf_counter() - start)
        if step >= 2 and time.perf_counter() - begin > LONGEST:
            break
    counted = sorted(times[2:])
    return counted[len(counted) // 2]
