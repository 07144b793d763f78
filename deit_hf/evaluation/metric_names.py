"""Names of the accuracies that an evaluation reports: `eval[_ema][_PART]_top1[_HEAD]`.

PART is the name of an evaluation set if there are several; `ema` stands for averaged weights. `eval` is the prefix of
`Trainer`'s evaluations; the test set that is measured at the end has the prefix `test`.
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
    """A set of images that was measured: the prefix of its evaluation, and its name if there are several sets."""

    prefix: str = "eval"
    part: str = ""

    @property
    def key(self) -> str:
        """The prefix of its metric names."""
        return "_".join(filter(None, self))

    @property
    def title(self) -> str:
        """The name of the set for people."""
        return ": ".join(filter(None, ("evaluation" if self.prefix == "eval" else self.prefix, self.part)))


def accuracy_name(name: str, *, part: str = "", head: str = "", averaged: bool = False, prefix: str = "eval") -> str:
    """Builds the name of a metric.

    Args:
        name: one of `SHARES`, or `loss`.
        part: name of the evaluation set; empty if there is only one.
        head: one of `HEADS`; empty if there is only one head.
        averaged: whether the metric belongs to averaged weights.
        prefix: of the evaluation.
    """
    return "_".join(word for word in (prefix, "ema" if averaged else "", part, name, head) if word)


def measured_sets(metric_names: Iterable[str]) -> list[MeasuredSet]:
    """Returns the sets that the metrics belong to, without repetition, in order."""
    matches = (_TOP1.fullmatch(name) for name in metric_names)
    return list(dict.fromkeys(MeasuredSet(match["prefix"], match["part"] or "") for match in matches if match))


def evaluation_parts(metric_names: Iterable[str]) -> list[str]:
    """Returns the names of the evaluation sets that the metrics belong to; a single set has an empty name."""
    return [part for prefix, part in measured_sets(metric_names) if prefix == "eval"]


def check_best_metric(
    metric: str,
    parts: Collection[str],
    *,
    two_heads: bool,
    averaged: bool,
    greater_is_better: bool | None = None,
) -> None:
    """Refuses a `metric_for_best_model` that is not reported, or that would select the worst checkpoint.

    Args:
        metric: with or without `eval_`.
        parts: names of the evaluation sets; an empty name for a single set.
        two_heads: whether the model has a distillation head.
        averaged: whether averaged weights are measured, too.
        greater_is_better: the option; None derives it from the metric.

    Raises:
        ValueError: the metric is unknown, or `greater_is_better` is False for an accuracy.
    """
    known = [
        accuracy_name(name, part=part, head=head, averaged=of_averages)
        for of_averages in ((False, True) if averaged else (False,))
        for part in parts
        for name in ("loss", *SHARES)
        for head in (HEADS if two_heads and name in SHARES else ("",))
    ]
    if f"eval_{metric.removeprefix('eval_')}" not in known:
        meant = f"eval_{metric.removeprefix('eval_').replace('accuracy', 'top1')}"  # a common name
        close = difflib.get_close_matches(meant, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"`metric_for_best_model` is {metric!r}, but an evaluation here reports {', '.join(known[:8])}"
            f"{', ...' if len(known) > 8 else ''}{hint}"
        )
    if greater_is_better is False and not metric.endswith("loss"):  # possibly copied from options for the loss
        raise ValueError(
            f"`greater_is_better` is False, but the best value of `metric_for_best_model` {metric!r} is the greatest; "
            "set it to True, or leave it out"
        )


def are_parts(data: Any) -> bool:
    """Whether evaluation data is a dict of several sets; checks that their names can be part of metric names.

    Raises:
        TypeError: a name is not a string.
        ValueError: the dict is empty, or a name is empty, has several lines, or looks like averaged weights.
    """
    if not isinstance(data, dict):
        return False
    if not data:
        raise ValueError("`eval_dataset` is an empty dict; leave it out, or add at least one dataset")
    for name in data:
        if not isinstance(name, str):
            raise TypeError(f"`eval_dataset` has a part named {name!r}, but names must be of type str")
        if not name.strip() or len(name.splitlines()) > 1:
            raise ValueError(f"`eval_dataset` has a part named {name!r}, but a name must be one line and not empty")
        if name == "ema" or name.startswith("ema_"):
            raise ValueError(
                f"`eval_dataset` has a part named {name!r}, which is reserved for metrics of averaged weights "
                "(`eval_ema_top1`); give it another name"
            )
    return True
