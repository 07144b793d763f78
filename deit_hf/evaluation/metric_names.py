"""Names of the accuracies that an evaluation reports: `eval[_ema][_PART]_top1[_HEAD]`.

PART is the name of an evaluation set where there are several, `ema` stands for averaged weights. `eval` is the prefix
of the Trainer's evaluations; the test part that is measured at the end has `test`.
"""

import difflib
import re
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

HEADS = ("average", "cls", "distillation")
SHARES = ("top1", "top5", "balanced_accuracy", "macro_f1")  # in [0, 1], of each head
_TOP1 = re.compile(
    rf"(?P<prefix>[^_]+)_(?P<averaged>ema_)?(?:(?P<part>.+)_)?top1(?:_(?:{'|'.join(HEADS)}))?", re.DOTALL
)


class MeasuredSet(NamedTuple):
    """The images that metrics are of: the prefix of their evaluation, and the set's name where it has several."""

    prefix: str = "eval"
    part: str = ""

    @property
    def key(self) -> str:
        """What the names of its metrics begin with."""
        return "_".join(filter(None, self))

    @property
    def title(self) -> str:
        """For people."""
        return ": ".join(filter(None, ("evaluation" if self.prefix == "eval" else self.prefix, self.part)))


def accuracy_name(name: str, *, part: str = "", head: str = "", averaged: bool = False, prefix: str = "eval") -> str:
    """The name of a metric.

    Args:
        name: one of `SHARES`, or `loss`.
        part: name of an evaluation set, empty for the only one.
        head: one of `HEADS`, empty for the only one.
        averaged: whether it is of averaged weights.
        prefix: of the evaluation.
    """
    return "_".join(word for word in (prefix, "ema" if averaged else "", part, name, head) if word)


def measured_sets(metric_names: Iterable[str]) -> list[MeasuredSet]:
    """The sets that metrics are of, each once in their order."""
    matches = (_TOP1.fullmatch(name) for name in metric_names)
    return list(dict.fromkeys(MeasuredSet(match["prefix"], match["part"] or "") for match in matches if match))


def evaluation_parts(metric_names: Iterable[str]) -> list[str]:
    """The evaluation sets that metrics are of, each once in their order; an empty name is the only one."""
    return [part for prefix, part in measured_sets(metric_names) if prefix == "eval"]


def check_best_metric(
    metric: str,
    parts: Collection[str],
    *,
    two_heads: bool,
    averaged: bool,
    greater_is_better: bool | None = None,
) -> None:
    """Refuses a `metric_for_best_model` that an evaluation does not report, or whose worst value would be the best.

    Args:
        metric: with or without `eval_`.
        parts: names of several evaluation sets; of the only one an empty name.
        two_heads: whether the model has a distillation head.
        averaged: whether averaged weights are measured, too.
        greater_is_better: the option; None leaves it to the metric.

    Raises:
        ValueError: names the metric, and ones that there are.
    """
    known = [
        accuracy_name(name, part=part, head=head, averaged=of_averages)
        for of_averages in ((False, True) if averaged else (False,))
        for part in parts
        for name in ("loss", *SHARES)
        for head in (HEADS if two_heads and name in SHARES else ("",))
    ]
    if f"eval_{metric.removeprefix('eval_')}" not in known:
        meant = f"eval_{metric.removeprefix('eval_').replace('accuracy', 'top1')}"  # as others call it
        close = difflib.get_close_matches(meant, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"`metric_for_best_model` is {metric!r}, but an evaluation here reports {', '.join(known[:8])}"
            f"{', ...' if len(known) > 8 else ''}{hint}"
        )
    if greater_is_better is False and not metric.endswith("loss"):  # as a copy of options made for the loss has it
        raise ValueError(
            f"`greater_is_better` is False, but of `metric_for_best_model` {metric!r} the greatest value is the best; "
            "set it to True, or leave it out"
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
