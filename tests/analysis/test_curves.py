"""The training curves show the values of the log."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from matplotlib.figure import Figure

from deit_hf.analysis.curves import plot_training_curves

LOG = [{"step": 10 * i, "loss": 2.0 / i, "loss_cls": 1.5 / i, "learning_rate": 1e-3 / i} for i in range(1, 9)]
LOG += [{"step": 40, "eval_top1_cls": 0.5}, {"step": 80, "eval_top1_cls": 0.9}]


def coloured_pixels(path: Path) -> int:
    pixels = np.asarray(PIL.Image.open(path).convert("RGB")).astype(int)
    return int((pixels.max(axis=2) - pixels.min(axis=2) > 60).sum())


def test_each_value_of_the_log_adds_a_line(tmp_path: Path):
    plot_training_curves([], tmp_path / "none.png")
    plot_training_curves(LOG[:8], tmp_path / "some.png")
    plot_training_curves(LOG, tmp_path / "all.png")
    none, some, everything = (coloured_pixels(tmp_path / f"{name}.png") for name in ("none", "some", "all"))
    assert none == 0
    assert 500 < some < everything


def test_points_of_a_short_curve_are_marked_also_beside_a_long_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Red when the few evaluations in a long log are drawn without visible points."""
    lines = {}

    def kept(figure: Figure, *args: object, **options: object) -> None:
        lines.update({line.get_label(): line.get_marker() for axis in figure.axes for line in axis.lines})

    monkeypatch.setattr(Figure, "savefig", kept)
    plot_training_curves([{"step": i, "loss": 1.0} for i in range(60)] + LOG[-2:], tmp_path / "curves.png")
    assert lines == {"loss": "None", "eval_top1_cls": "."}
