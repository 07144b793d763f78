"""The confusion matrix in parts that people can read: the most frequent mistakes, a small matrix, a figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .curves import save_figure
from .views_figure import short_names

MAX_WHOLE, MAX_COMPACT = 25, 15  # classes of a whole matrix; of the part that is shown of a larger one


def frequent_confusions(model: Mapping[str, Any], most: int) -> list[dict[str, Any]]:
    """The most frequent mistakes: `true`, `predicted`, `count`, and `share` of the images of the true class."""
    wrong = [each for each in model["confusion"] if each["true"] != each["predicted"]]
    wrong.sort(key=lambda each: (-each["count"], each["true"], each["predicted"]))
    return [{**each, "share": each["count"] / model["classes"][each["true"]]["images"]} for each in wrong[:most]]


def compact_matrix(model: Mapping[str, Any], most: int) -> tuple[list[int], np.ndarray]:
    """The part of the confusion matrix with the classes of the most frequent confusions.

    Args:
        model: of the facts of a report.
        most: number of classes.

    Returns:
        Their indices in label order, (K,), and counts (K, K + 1): rows are labels, columns are predictions, and the
        last column has predictions of all other classes. K is less than `most` if fewer classes occur.
    """
    pairs = [*frequent_confusions(model, len(model["confusion"])), *model["confusion"]]
    ranked = dict.fromkeys(pair[side] for pair in pairs for side in ("true", "predicted"))  # unique, in order
    shown = sorted([*ranked][:most])
    places = {index: place for place, index in enumerate(shown)}
    matrix = np.zeros((len(shown), len(shown) + 1), dtype=int)
    for each in model["confusion"]:
        if each["true"] in places:
            matrix[places[each["true"]], places.get(each["predicted"], len(shown))] += each["count"]
    return shown, matrix


def shown_matrix(model: Mapping[str, Any]) -> tuple[list[int], np.ndarray, bool]:
    """The confusion matrix that a page has room for.

    Args:
        model: `classes` and `confusion`, as `Confusion.report` returns them.

    Returns:
        `compact_matrix`, without the column of other classes if all are shown, and whether all are shown.
    """
    occurring = {each[side] for each in model["confusion"] for side in ("true", "predicted")}
    whole = len(occurring) <= MAX_WHOLE
    shown, counts = compact_matrix(model, len(occurring) if whole else MAX_COMPACT)
    return shown, counts[:, : len(shown)] if whole else counts, whole


def plot_confusion_matrix(report: Mapping[str, Any], path: str | Path, title: str) -> None:
    """Plots the confusion matrix, or the classes of the most frequent confusions, and saves it; see `save_figure`.

    Args:
        report: of `Confusion.report`.
        path: of the file.
        title: what was measured.

    Raises:
        ImportError: matplotlib, an optional dependency, is not installed.
    """
    from matplotlib.figure import Figure  # an optional dependency

    shown, counts, whole = shown_matrix(report)
    short = short_names([each["name"] for each in report["classes"]])
    names = [short[index].replace("$", r"\$") for index in shown]
    columns = names if whole else [*names, "other classes"]
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)  # (K, K) or (K, K + 1)
    side = max(3.2, 1.4 + 0.36 * len(columns))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axis = figure.subplots()
    drawn = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(drawn, ax=axis, shrink=0.7, label="share of the class")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if shares[row, column] > 0.55 else "black"
            axis.text(column, row, f"{count:,}", ha="center", va="center", fontsize=7, color=color)
    axis.set_xticks(range(len(columns)), columns, rotation=90)
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="prediction", ylabel="label")
    of = "" if whole else f"\nthe {len(shown)} most confused of {len(report['classes']):,} classes"
    axis.set_title(f"{title}{of}", fontsize="medium")
    save_figure(figure, path, dpi=120)
