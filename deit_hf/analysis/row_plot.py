"""A figure of accuracies by row, with error bars."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Bar(NamedTuple):
    """One row of the figure.

    Attributes:
        name: of the row.
        values: accuracies in percent, one for each seed.
        error: of their mean, in points; drawn in both directions.
    """

    name: str
    values: list[float]
    error: float


def plot_rows(bars: Sequence[Bar], path: str | Path, *, title: str) -> None:
    """Draws the mean of each row with its error, and each seed as a small dot, and saves a PNG file.

    Args:
        bars: from top to bottom.
        path: of the PNG file.
        title: above the figure; says what the error bars are.

    Raises:
        ImportError: matplotlib, an optional dependency, is not installed.
    """
    from matplotlib.figure import Figure  # an optional dependency

    figure = Figure(figsize=(8, 1.2 + 0.42 * len(bars)), layout="constrained")
    axis = figure.subplots()
    places = np.arange(len(bars))[::-1]
    means = [float(np.mean(bar.values)) for bar in bars]
    ends = [max(mean + bar.error, *bar.values) for mean, bar in zip(means, bars, strict=True)]
    axis.errorbar(means, places, xerr=[bar.error for bar in bars], fmt="o", color="#08519c", capsize=4)
    for place, bar, mean, end in zip(places, bars, means, ends, strict=True):
        axis.plot(bar.values, np.full(len(bar.values), place - 0.22), ".", color="#6baed6", markersize=6)
        axis.text(end, place, f"   {mean:.1f}", va="center", fontsize="small")
    axis.set_yticks(places, [bar.name for bar in bars])
    axis.set_ylim(-0.6, len(bars) - 0.4)
    axis.margins(x=0.12)
    axis.set_xlabel("top-1 in percent")
    axis.set_title(title, fontsize="medium")
    axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
