"""Names of the accuracies that an evaluation reports: `eval[_ema][_PART]_top1[_HEAD]`.

PART is the name of an evaluation set where there are several, `ema` stands for averaged weights.
"""

import re
from collections.abc import Collection, Iterable

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


def check_best_metric(metric: str | None, parts: Collection[str]) -> None:
    """Refuses a `metric_for_best_model` that an evaluation on several sets does not report.

    Raises:
        ValueError: names the metric, and ones that there are.
    """
    parts_of = tuple(f"{prefix}{part}_" for part in parts for prefix in ("", "ema_"))
    if metric is not None and not metric.removeprefix("eval_").startswith(parts_of):
        raise ValueError(
            f"`metric_for_best_model` is {metric!r}, but `eval_dataset` has the parts {', '.join(parts)}, whose "
            f"metrics have their name in them; set it to one such as 'eval_{next(iter(parts))}_loss'"
        )


def check_part_name(name: str) -> None:
    """Refuses a name that makes the names of metrics ambiguous.

    Raises:
        ValueError: names it.
    """
    if not name or name == "ema" or name.startswith("ema_"):
        raise ValueError(
            f"`eval_dataset` has a part named {name!r}, which the names of the averaged weights' metrics "
            "(`eval_ema_top1`) would be mistaken for; give it another name"
        )
