"""The figures of a report as SVG text that takes the colours of the page, so that it can be light or dark."""

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from .curves import plot_training_curves

MIN_IMAGES = 5  # of a bin, for the lines of the reliability diagram; fewer are noise
PAGE_COLOR = "#010203"  # stands for the text colour of the page until the SVG is written
COLORS = ("#3b82f6", "#e08a00", "#10a37f", "#d0488f", "#8b6cef", "#7a7a7a")  # readable on white and on black
_STYLE = {
    "svg.fonttype": "none",  # text stays text, in the font of the page
    "svg.hashsalt": "deit_hf",  # the same file in each call
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), PAGE_COLOR
    ),
}


def require_matplotlib() -> None:
    """Checks that figures can be drawn.

    Raises:
        ImportError: matplotlib, an optional dependency, is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'the page needs matplotlib, which is not installed: pip install "deit_hf[viz]"; or write the numbers '
            "alone with --output report.json"
        ) from error


@contextlib.contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    cycle = matplotlib.cycler(color=COLORS)  # type: ignore[attr-defined]  # missing in its types
    with matplotlib.rc_context({**_STYLE, "axes.prop_cycle": cycle}):
        yield


def _inline(svg: str, description: str) -> str:
    """Makes a file of matplotlib part of a page: no header, no names that repeat, a description."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace(PAGE_COLOR, "currentColor")
    view_box = re.findall(r'viewBox="[^"]*"', svg)[0]
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return re.sub(r"^<svg[^>]*>", f'<svg {view_box} role="img" aria-label="{escape(description)}" {names}>', svg)


def _saved(figure: Any, description: str) -> str:
    file = StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return _inline(file.getvalue(), description)


def reliability_figure(model: Mapping[str, Any]) -> str:
    """Draws accuracy over confidence: bars of the model's answer, a line for each of two heads, and counts below.

    Bins of few images are not part of the lines.

    Args:
        model: of the facts of a report.

    Returns:
        An `svg` element.
    """
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(4.6, 4.8), layout="constrained")
        axis, below = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
        main, *heads = model["heads"]
        bins = [each for each in main["bins"] if each["images"]]
        width = main["bins"][0]["high"]
        middles = [(each["low"] + each["high"]) / 2 for each in bins]
        axis.bar(middles, [each["accuracy"] for each in bins], 0.9 * width, alpha=0.55, label=main["title"])
        for color, head in zip(COLORS[1:], heads, strict=False):
            shown = [each for each in head["bins"] if each["images"] >= MIN_IMAGES]
            if not shown:
                continue
            points = [(each["confidence"], each["accuracy"]) for each in shown]
            axis.plot(*zip(*points, strict=True), marker=".", color=color, label=head["title"])
        axis.plot([0, 1], [0, 1], "--", color=PAGE_COLOR, linewidth=1, label="perfect")
        axis.set_ylabel("accuracy")
        axis.set(xlim=(0, 1), ylim=(0, 1.02))
        axis.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        total = sum(each["images"] for each in bins)
        below.bar(middles, [100 * each["images"] / total for each in bins], 0.9 * width, alpha=0.55)
        below.set_xlabel("confidence")
        below.set_ylabel("% of images")
        for each in (axis, below):
            each.grid(alpha=0.2)
        words = ", ".join(f"{each['title']}: ECE {100 * each['ece']:.1f} %" for each in model["heads"])
        return _saved(figure, f"Reliability diagram of {model['name']}. {words}")


def classes_figure(models: Sequence[Mapping[str, Any]]) -> str:
    """Draws the accuracy of the classes of each model, from the worst class to the best one.

    Args:
        models: of the facts of a report.

    Returns:
        An `svg` element.
    """
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(7, 3), layout="constrained")
        axis = figure.subplots()
        for model in models:
            accuracies = np.sort([each["accuracy"] for each in model["classes"] if each["images"]])
            places = np.linspace(0, 100, len(accuracies))
            axis.plot(places, 100 * accuracies, label=model["name"].replace("$", r"\$"), drawstyle="steps-mid")
        axis.set(xlabel="classes in percent, from the worst to the best", ylabel="accuracy in percent", ylim=(-2, 102))
        axis.grid(alpha=0.2)
        axis.legend(fontsize="small")
        names = " and ".join(model["name"] for model in models)
        return _saved(figure, f"Accuracy of the classes, sorted, of {names}; the numbers are in the table")


def curves_figure(name: str, log_history: Sequence[Mapping[str, Any]]) -> str:
    """Draws the training curves of a run.

    Args:
        name: of the model.
        log_history: see `plot_training_curves`.

    Returns:
        An `svg` element.
    """
    with _style(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "curves.svg"
        plot_training_curves(log_history, path)
        words = f"Loss, accuracy, learning rate and waiting for data in the training of {name}"
        return _inline(path.read_text(encoding="utf-8"), words)
