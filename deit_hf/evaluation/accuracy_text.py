"""Accuracies for people: in percent, as words in a line or as a table. Files keep them as fractions."""

from collections.abc import Collection, Mapping
from typing import Any

from .metric_names import HEADS, SHARES, MeasuredSet, accuracy_name, measured_sets

_NAMES = {"top1": "top-1", "top5": "top-5", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"}
_HEAD_NAMES = {"average": "both heads", "cls": "class head", "distillation": "distillation head"}


def percent(share: float, digits: int = 2) -> str:
    """Formats a fraction in [0, 1] in percent, such as `94.17 %`."""
    return f"{100 * share:.{digits}f} %"


def accuracy_line(metrics: Mapping[str, Any], name: str = "top1") -> str:
    """Formats one accuracy in percent: of all evaluation sets, of each head, and of averaged weights.

    Args:
        metrics: of an evaluation.
        name: one of `SHARES`.

    Returns:
        Such as `top-1 74.2 (class 72.2, distillation 68.6)`; empty if the metrics have no such accuracy.
    """
    found = []
    for measured in measured_sets(metrics):
        for averaged in (False, True):
            text = _heads(metrics, measured, name, averaged=averaged)
            title = "" if measured == MeasuredSet() else measured.title.removeprefix("evaluation: ")
            words = title, "averaged weights" if averaged else "", text
            found += [" ".join(filter(None, words))] if text else []
    return f"{_NAMES[name]} {', '.join(found)}" if found else ""


def _heads(metrics: Mapping[str, Any], measured: MeasuredSet, name: str, *, averaged: bool) -> str:
    """The accuracy of the only head, or of both heads together with that of each in parentheses; empty if unknown."""
    keys = {head: accuracy_name(name, **measured._asdict(), head=head, averaged=averaged) for head in ("", *HEADS)}
    values = {head: f"{100 * metrics[key]:.1f}" for head, key in keys.items() if key in metrics}
    if not {"", "average"} & values.keys():
        return ""
    shows_each = "cls" in values and not averaged
    each = f" (class {values['cls']}, distillation {values['distillation']})" if shows_each else ""
    return values.get("", values.get("average", "")) + each


def accuracy_table(metrics: Mapping[str, Any], *, names: Collection[str] = SHARES) -> str:
    """Formats the accuracies in percent and the losses of an evaluation.

    Args:
        metrics: of an evaluation, on one or several sets.
        names: the columns, of `SHARES`.

    Returns:
        A table with a row for each evaluation set, head and kind of weights; empty if the metrics have no accuracy.
    """
    rows = []
    for measured in measured_sets(metrics):
        for averaged in (False, True):
            for head in ("", *HEADS):
                keys = {
                    name: accuracy_name(name, **measured._asdict(), head=head, averaged=averaged) for name in names
                }
                cells = {name: percent(metrics[key]) for name, key in keys.items() if key in metrics}
                loss = accuracy_name("loss", **measured._asdict(), averaged=averaged)  # of the model's answer
                if cells and head in ("", "average") and loss in metrics:
                    cells["loss"] = f"{metrics[loss]:.4f}"
                title = (measured.title, "averaged weights" if averaged else "", _HEAD_NAMES.get(head, ""))
                rows += [{"": ", ".join(filter(None, title)), **cells}] if cells else []
    if not rows:
        return ""
    columns = [name for name in ("", *names, "loss") if any(name in row for row in rows)]
    lines = [{name: _NAMES.get(name, name) for name in columns}, *rows]
    widths = {name: max(len(line.get(name, "")) for line in lines) for name in columns}
    return "\n".join(
        "  ".join(
            [f"{line.get('', ''):{widths['']}}"] + [f"{line.get(name, '-'):>{widths[name]}}" for name in columns[1:]]
        )
        for line in lines
    )
