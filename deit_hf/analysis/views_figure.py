"""A figure of training views with their targets, to check the data of a training."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .curves import save_figure, shortened

NUM_COLUMNS = 4
MAX_LINE, MAX_CAPTION_LINE = 29, 105  # characters that fit above a view, and above all of them
# Inches.
_WIDTH, _BETWEEN, _LINE = 8.0, 0.12, 0.16


def draw_views(
    views: np.ndarray, titles: Sequence[Sequence[str]], path: str | Path, *, caption: Sequence[str]
) -> None:
    """Draws views in a grid and saves them as a PNG file of 800 pixels width, which is complete or absent.

    Small views are enlarged without smoothing.

    Args:
        views: (N, height, width, 3) in [0, 1].
        titles: lines above each view.
        path: of the PNG file.
        caption: lines at the top.

    Raises:
        ImportError: matplotlib, an optional dependency, is not installed.
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # an optional dependency, imported only to draw

    side = (_WIDTH - _BETWEEN) / NUM_COLUMNS - _BETWEEN
    height = side * views.shape[1] / views.shape[2]
    row = _LINE * max(map(len, titles)) + height + _BETWEEN
    above = _LINE * len(caption) + 2 * _BETWEEN
    figure = Figure(figsize=(_WIDTH, above + row * -(-len(views) // NUM_COLUMNS)))
    axis = figure.add_axes((0, 0, 1, 1))  # its units are inches from the upper left corner
    smoothing = "antialiased" if side * figure.dpi < 2 * views.shape[2] else "nearest"
    for i, line in enumerate(caption):
        axis.text(_BETWEEN, _BETWEEN + _LINE * i, line, fontsize=9, va="top", parse_math=False)
    for i, (view, lines) in enumerate(zip(views, titles, strict=True)):
        left = _BETWEEN + i % NUM_COLUMNS * (side + _BETWEEN)
        bottom = above + (i // NUM_COLUMNS + 1) * row - _BETWEEN
        axis.imshow(view, extent=(left, left + side, bottom, bottom - height), interpolation=smoothing)
        for k, line in enumerate(reversed(lines)):
            axis.text(left, bottom - height - 0.03 - _LINE * k, line, fontsize=8, va="bottom", parse_math=False)
    axis.set(xlim=(0, _WIDTH), ylim=(figure.get_figheight(), 0), aspect="auto")
    axis.axis("off")
    save_figure(figure, path, dpi=100)


def target_lines(shares: np.ndarray, names: Sequence[str]) -> list[str]:
    """Describes a target as `rose 0.70 + tulip 0.30`, in two lines if it is long; quotes classes that are numbers.

    Args:
        shares: of the classes, (C,); they sum to 1. At most two are told.
        names: of the classes.
    """
    first, second = np.argsort(-shares, kind="stable")[:2].tolist() if len(shares) > 1 else (0, 0)
    if shares[first] > 0.995:
        return [short_names(names, MAX_LINE)[first]]
    names = [f'"{name}"' if name.isdecimal() else name for name in names]
    line = f"{names[first]} {shares[first]:.2f} + {names[second]} {shares[second]:.2f}"
    if len(line) <= MAX_LINE:
        return [line]
    short = short_names(names, MAX_LINE - 7)
    return [f"{short[first]} {shares[first]:.2f} +", f"{short[second]} {shares[second]:.2f}"]


def short_names(names: Sequence[str], length: int = 24) -> list[str]:
    """Class names of at most `length` characters, which differ.

    Of several names in one, as ImageNet's classes have, the first is enough if no other class has it. Else the middle
    is cut out, and if that does not help, the number of the class is added.
    """
    short = [shortened(name if len(name) <= length else name.split(",")[0], length) for name in names]
    times = Counter(short)
    pairs = zip(names, short, strict=True)
    short = [each if times[each] == 1 else shortened(name, length) for name, each in pairs]
    times = Counter(short)
    ends = ["" if times[each] == 1 else f" #{index}" for index, each in enumerate(short)]
    return [shortened(each, length - len(end)) + end for each, end in zip(short, ends, strict=True)]
