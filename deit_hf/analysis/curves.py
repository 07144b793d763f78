"""Pictures of a training: its loss, its learning rate and what each head learned, over the optimizer steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Panels of the picture: name of the axis, and which entries of the log it shows.
PANELS = (
    ("loss", ("loss", "loss_cls", "loss_distillation", "eval_loss", "eval_ema_loss")),
    (
        "share",
        (
            *("eval_top1", "eval_top1_cls", "eval_top1_distillation", "eval_top1_average"),
            *("eval_ema_top1", "eval_ema_top1_average", "teacher_agreement"),
        ),
    ),
    ("learning rate", ("learning_rate",)),
)


def plot_training_curves(log_history: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draws the log of a Trainer (`trainer.state.log_history`) into a PNG file.

    Args:
        log_history: entries with `step` and the values reported there.
        path: of the picture.

    Raises:
        ImportError: matplotlib, an extra of this package, is not installed.
    """
    from matplotlib.figure import Figure  # an extra: nothing else here draws

    figure = Figure(figsize=(15, 4), layout="constrained")
    for axis, (label, names) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for name in names:
            points = [(entry["step"], entry[name]) for entry in log_history if name in entry]
            if points:
                axis.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None, label=name)
        axis.set_xlabel("optimizer step")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize="small")
    figure.savefig(path, dpi=100)
