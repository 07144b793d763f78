"""The time of a forward pass: the median, without the first passes."""

import time

import pytest
import torch

from deit_hf.analysis.latency import NUM_WARMUP, milliseconds


def test_the_median_of_the_passes_after_the_warm_up_is_reported(monkeypatch: pytest.MonkeyPatch):
    lasts = [9.0] * NUM_WARMUP + [0.002, 0.004, 0.5]
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    calls = []

    class Slow(torch.nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> None:
            clock[0] += lasts[len(calls)]
            calls.append((tuple(pixel_values.shape), torch.is_grad_enabled()))

    assert milliseconds(Slow(), torch.zeros(2, 3, 4, 4), num_measured=3) == pytest.approx(4.0)
    assert calls == [((2, 3, 4, 4), False)] * (NUM_WARMUP + 3)
