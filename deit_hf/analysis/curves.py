"""Training curves: losses, accuracy of each head, agreement with the teacher, learning rate, waiting for data."""

import math
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..atomic_files import written_aside

MAX_LABEL = 24  # characters
MAX_POINTS = 300  # of a curve; more values are drawn as means of consecutive ones
_MEASURED = re.compile(
    r"eval_(?P<averaged>ema_)?(?:(?P<part>.+)_)?(?P<metric>loss|top1)(?:_(?P<head>average|cls|distillation))?",
    re.DOTALL,
)
_TERMS = {"loss": "training", "loss_cls": "training: labels", "loss_distillation": "training: teacher"}
_HEADS = {"": "model", "average": "mean of both heads", "cls": "class head", "distillation": "distillation head"}
_AVERAGED = (None, "average")  # the heads whose averaged weights are drawn
_HEAD_COLORS = {"": "C0", "average": "C0", "cls": "C1", "distillation": "C2"}  # as the losses of these heads
# Inches; a layout of known size takes half the time of one that matplotlib computes.
_WIDTH, _LEFT, _RIGHT, _BELOW = 8.0, 0.55, 0.12, 0.5
_TITLE, _LEGEND_LINE = 0.32, 0.19


class Curve(NamedTuple):
    """A line of a panel: values by position on the horizontal axis; a colour of the cycle, which a page can choose."""

    label: str
    values: Mapping[float, float]
    color: str
    style: str = "-"


class Panel(NamedTuple):
    """Axes with curves of one unit.

    Attributes:
        title: above.
        curves: what to draw.
        height: of the axes in inches.
        may_be_logarithmic: whether a logarithmic axis makes sense.
        lowest_top: the axis begins at 0 and ends at least here, if it is not logarithmic; None fits it to the values.
    """

    title: str
    curves: Sequence[Curve]
    height: float = 2.7
    may_be_logarithmic: bool = False
    lowest_top: float | None = None

    @property
    def legend_lines(self) -> int:
        """Lines of the legend, which has two columns; a single curve has none."""
        return 0 if len(self.curves) < 2 else math.ceil(len(self.curves) / 2)


def plot_training_curves(log_history: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Plots the log of a `Trainer` (`trainer.state.log_history`) and saves it as PNG, or as the file name says.

    The horizontal axis counts epochs if there are several, otherwise optimizer steps. An axis is logarithmic if half
    of its values would lie in its lowest tenth. What was not logged has no panel. The file is complete or absent.

    Args:
        log_history: entries with `step` and the values logged there. If the steps go back, because a training was
            restarted, later entries replace earlier ones.
        path: of the file.

    Raises:
        ImportError: matplotlib, an optional dependency, is not installed.
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # an optional dependency, imported only to draw

    log = _without_repeats(log_history)
    place = "epoch" if any(entry.get("epoch", 0) >= 2 for entry in log) else "step"
    log = [entry for entry in log if place in entry]
    rows = _rows(_panels(log, place))
    heights = [_TITLE + _LEGEND_LINE * _legend_lines(row) + row[0].height + _BELOW for row in rows]
    figure = Figure(figsize=(_WIDTH, sum(heights) or 2))
    if not rows:
        figure.text(0.5, 0.5, "nothing has been logged yet", ha="center", va="center")
    bottom = sum(heights)
    for row, height in zip(rows, heights, strict=True):
        bottom -= height
        width = _WIDTH / len(row) - _LEFT - _RIGHT
        for column, panel in enumerate(row):
            left = _LEFT + column * (width + _LEFT + _RIGHT)
            inches = np.array([left, bottom + _BELOW, width, panel.height])
            axis = figure.add_axes(tuple(inches / np.array(2 * [_WIDTH, sum(heights)])))
            _draw(axis, panel, _legend_lines(row))
            axis.set_xlim(0, max(1, *(entry[place] for entry in log)) * 1.02)
            axis.set_xlabel("epoch" if place == "epoch" else "optimizer step", fontsize="small")
    save_figure(figure, path, dpi=150)


def save_figure(figure: Any, path: str | Path, *, dpi: int) -> None:
    """Saves a figure of matplotlib as PNG, or as the file name says; the file is complete or absent."""
    path, file = Path(path), BytesIO()
    figure.savefig(file, format=path.suffix.removeprefix(".") or "png", dpi=dpi)
    with written_aside(path.parent) as aside:
        (aside / path.name).write_bytes(file.getvalue())


# ---- what is drawn ----


def _without_repeats(log_history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The entries in the order of their steps: those of steps that were trained again are left out."""
    kept: list[Mapping[str, Any]] = []
    for entry in log_history:
        if kept and kept[-1]["step"] > entry["step"]:
            kept = [each for each in kept if each["step"] < entry["step"]]
        kept.append(entry)
    return kept


def _panels(log: Sequence[Mapping[str, Any]], place: str) -> list[Panel]:
    """The panels that have curves: losses, the accuracies of each evaluation set, learning rate, waiting for data."""
    names = dict.fromkeys(name for entry in log for name in entry)  # unique, in order
    values = {name: found for name in names if (found := _values(log, place, name))}
    measured = [match for name in values if (match := _MEASURED.fullmatch(name))]
    terms = [name for name in _TERMS if name in values]
    if "loss_cls" in terms and "loss" in terms and _are_equal(values["loss_cls"], values["loss"]):
        terms.remove("loss_cls")  # it is the only term
    losses = [Curve(_TERMS[name], values[name], f"C{list(_TERMS).index(name)}") for name in terms]
    agreement = _percents(values.get("teacher_agreement", {}))
    parts = list(dict.fromkeys(match["part"] for match in measured if match["metric"] == "top1"))
    colors = {part: f"C{3 + i}" for i, part in enumerate(dict.fromkeys(match["part"] for match in measured))}
    for match in measured:
        if match["metric"] == "loss":
            label = shortened(match["part"] or "evaluation", MAX_LABEL - 10 * bool(match["averaged"]))
            averaged = ", averaged" if match["averaged"] else ""
            style = "--" if averaged else "-"
            losses.append(Curve(label + averaged, values[match.string], colors[match["part"]], style))
    shares = [_accuracies(measured, values, part) for part in parts]
    if agreement:
        title = shares[0].title if shares else "agreement with the teacher in %"
        curve = Curve("agreement with teacher", agreement, "0.5")
        shares[:1] = [Panel(title, [*(shares[0].curves if shares else ()), curve])]
    rate, waiting = values.get("learning_rate", {}), _percents(values.get("data_wait", {}))
    panels = [
        Panel("loss", losses, may_be_logarithmic=True),
        *shares,
        Panel("learning rate", [Curve("", rate, "C0")] if rate else [], 1.5, may_be_logarithmic=True, lowest_top=0),
        Panel("waiting for data, % of the time", [Curve("", waiting, "C0")] if waiting else [], 1.5, lowest_top=10),
    ]
    return [panel for panel in panels if panel.curves]


def _accuracies(measured: Sequence[re.Match[str]], values: Mapping[str, Mapping[float, float]], part: str) -> Panel:
    """The accuracy of each head on an evaluation set, and that of the averaged weights."""
    curves = []
    for match in measured:
        head = match["head"] or ""
        if match["metric"] == "top1" and match["part"] == part and not match["averaged"]:
            curves.append(Curve(_HEADS[head], _percents(values[match.string]), _HEAD_COLORS[head]))
    for match in measured:
        if match["metric"] == "top1" and match["part"] == part and match["averaged"] and match["head"] in _AVERAGED:
            curves.append(Curve("averaged weights", _percents(values[match.string]), "C0", "--"))
    return Panel("top-1 in %" + (f" on {shortened(part, MAX_LABEL)}" if part else ""), curves)


def _rows(panels: Sequence[Panel]) -> list[list[Panel]]:
    """Two panels of equal height in a row, as far as there are."""
    rows: list[list[Panel]] = []
    for panel in panels:
        if rows and len(rows[-1]) == 1 and rows[-1][0].height == panel.height:
            rows[-1].append(panel)
        else:
            rows.append([panel])
    return rows


def _legend_lines(row: Sequence[Panel]) -> int:
    return max(panel.legend_lines for panel in row)


def _values(log: Sequence[Mapping[str, Any]], place: str, name: str) -> dict[float, float]:
    """The values of a name; the first one of a step, because a later one may be of the best checkpoint."""
    values: dict[float, float] = {}
    for entry in log:
        if isinstance(entry.get(name), int | float) and math.isfinite(entry[name]):
            values.setdefault(entry[place], entry[name])
    return values


def _percents(values: Mapping[float, float]) -> dict[float, float]:
    return {place: 100 * value for place, value in values.items()}


def _are_equal(values: Mapping[float, float], others: Mapping[float, float]) -> bool:
    return values.keys() == others.keys() and np.allclose([*values.values()], [*others.values()], rtol=1e-4)


# ---- drawing ----


def _draw(axis: Any, panel: Panel, legend_lines: int) -> None:
    """Draws a panel.

    Args:
        axis: of matplotlib.
        panel: what to draw.
        legend_lines: space above for the longest legend in the row.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    for curve in panel.curves:
        places, values = _thinned(curve.values)
        marker = "." if len(places) <= 40 and (curve.style == "-" or len(places) == 1) else None
        label = curve.label.replace("$", r"\$")
        axis.plot(places, values, curve.style, color=curve.color, marker=marker, linewidth=1.3, label=label)
    title, everything = panel.title, [value for curve in panel.curves for value in curve.values.values()]
    if panel.may_be_logarithmic and _is_squashed(everything):
        title += " (logarithmic)"
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_minor_formatter(NullFormatter())
    else:
        axis.yaxis.set_major_locator(MaxNLocator(round(2.5 * panel.height), steps=(1, 2, 2.5, 5, 10)))
        if panel.lowest_top is not None:
            axis.set_ylim(0, max(panel.lowest_top, 1.05 * max(everything)) or 1)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.tick_params(labelsize="small")
    axis.grid(alpha=0.2)
    axis.spines[["top", "right"]].set_visible(False)
    above = 1 + (_LEGEND_LINE * legend_lines + 0.09) / panel.height
    axis.text(0, above, title.replace("$", r"\$"), transform=axis.transAxes, va="bottom")
    if panel.legend_lines:
        box: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, above - 0.03 / panel.height), "ncols": 2}
        spaces = {"labelspacing": 0.15, "columnspacing": 1, "handlelength": 1.6, "borderpad": 0.1, "borderaxespad": 0}
        axis.legend(fontsize="small", frameon=False, **box, **spaces)


def _thinned(values: Mapping[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Positions and values, in order; of more than `MAX_POINTS`, the means of as many groups."""
    points = np.array(list(values.items()), dtype=np.float64)  # (N, 2)
    if len(points) > MAX_POINTS:
        points = np.array([group.mean(axis=0) for group in np.array_split(points, MAX_POINTS)])
    return points[:, 0], points[:, 1]


def _is_squashed(values: Sequence[float]) -> bool:
    """Whether half of the values would lie in the lowest tenth of a linear axis, and all fit on a logarithmic one."""
    return min(values) > 0 and float(np.median(values)) < 0.1 * max(values)


def shortened(text: str, length: int) -> str:
    """Cuts out the middle of a text that is longer than `length` characters; joins lines."""
    text = " ".join(text.split())
    begin = (length - 3) // 2
    return text if len(text) <= length else f"{text[:begin]}...{text[begin + 3 - length :]}"
