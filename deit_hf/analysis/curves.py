"""Training curves: loss, learning rate and accuracy of each head over the optimizer steps."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Panels of the figure: name of the axis, and pattern of the log entries it shows, for any evaluation set.
PANELS = (
    ("loss", re.compile(r"loss|loss_cls|loss_distillation|eval_(.+_)?loss")),
    ("share", re.compile(r"eval_(.+_)?top1(_average)?|eval_(?!ema_)(.+_)?top1_(cls|distillation)|teacher_agreement")),
    ("learning rate", re.compile(r"learning_rate")),
)


def plot_training_curves(log_history: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Plots the log of a `Trainer` (`trainer.state.log_history`) and saves it as a PNG file.

    Args:
        log_history: entries with `step` and the values logged there.
        path: of the PNG file.

    Raises:
        ImportError: matplotlib, an optional dependency, is not installed.
    """
    from matplotlib.figure import Figure  # an optional dependency, used only here

    figure = Figure(figsize=(15, 4), layout="constrained")
    logged = dict.fromkeys(name for entry in log_history for name in entry)  # unique, in order
    for axis, (label, shown) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for name in filter(shown.fullmatch, logged):
            points = [(entry["step"], entry[name]) for entry in log_history if name in entry]
            axis.plot(
                *zip(*points, strict=True), marker="." if len(points) < 40 else None, label=name.replace("$", r"\$")
            )
        axis.set_xlabel("optimizer step")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize="small")
    figure.savefig(path, dpi=100)
