"""Names of the accuracies that an evaluation reports: `eval[_ema][_PART]_top1[_HEAD]`.

PART is the name of an evaluation set where there are several, `ema` stands for averaged weights.
"""

import difflib
import re
from collections.abc import Collection, Iterable
from typing import Any

HEADS = ("average", "cls", "distillation")
_TOP1 = re.compile(rf"eval_(?:ema_)?(?:(?P<part>.+)_)?top1(?:_(?:{'|'.join(HEADS)}))?")


def accuracy_name(name: str, *, part: str = "", head: str = "", averaged: bool = False) -> str:
    """The name of a metric.

    Args:
        name: `top1`, `top5` or `loss`.
        part: name of an evaluation set, empty for the only one.
        head: one of `HEADS`, empty for the only one.
        averaged: whether it is of averaged weights.
    """
    return "_".join(word for word in ("eval", "ema" if averaged else "", part, name, head) if word)


def evaluation_parts(metric_names: Iterable[str]) -> list[str]:
    """The evaluation sets that metrics are of, each once in their order; an empty name is the only one."""
    matches = (_TOP1.fullmatch(name) for name in metric_names)
    return list(dict.fromkeys(match["part"] or "" for match in matches if match))


def check_best_metric(metric: str, parts: Collection[str], *, two_heads: bool, averaged: bool) -> None:
    """Refuses a `metric_for_best_model` that an evaluation does not report.

    Args:
        metric: with or without `eval_`.
        parts: names of several evaluation sets; of the only one an empty name.
        two_heads: whether the model has a distillation head.
        averaged: whether averaged weights are measured, too.

    Raises:
        ValueError: names the metric, and ones that there are.
    """
    known = [
        accuracy_name(name, part=part, head=head, averaged=of_averages)
        for of_averages in ((False, True) if averaged else (False,))
        for part in parts
        for name, heads in (
            ("loss", ("",)),
            ("top1", HEADS if two_heads else ("",)),
            ("top5", HEADS if two_heads else ("",)),
        )
        for head in heads
    ]
    if f"eval_{metric.removeprefix('eval_')}" not in known:
        close = difflib.get_close_matches(f"eval_{metric.removeprefix('eval_')}", known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"`metric_for_best_model` is {metric!r}, but an evaluation here reports {', '.join(known[:8])}"
            f"{', ...' if len(known) > 8 else ''}{hint}"
        )


def are_parts(data: Any) -> bool:
    """Whether evaluation data are several sets, whose names the names of metrics can carry.

    Raises:
        TypeError: a name is not a text.
        ValueError: there are none, or a name is empty, has several lines, or reads as averaged weights.
    """
    if not isinstance(data, dict):
        return False
    if not data:
        raise ValueError("`eval_dataset` is a dict without parts; leave it out, or name at least one")
    for name in data:
        if not isinstance(name, str):
            raise TypeError(f"`eval_dataset` has a part named {name!r}, but names must be of type str")
        if not name.strip() or len(name.splitlines()) > 1:
            raise ValueError(f"`eval_dataset` has a part named {name!r}, but a name must be one line and not empty")
        if name == "ema" or name.startswith("ema_"):
            raise ValueError(
                f"`eval_dataset` has a part named {name!r}, which the names of the averaged weights' metrics "
                "(`eval_ema_top1`) would be mistaken for; give it another name"
            )
    return True
