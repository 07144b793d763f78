"""The training curves show the values of the log, with labels for people."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from matplotlib.figure import Figure

from deit_hf.analysis.curves import MAX_POINTS, plot_training_curves
from deit_hf.analysis.report_figures import curves_figure

LOG: list[dict[str, Any]] = [
    {"step": 10 * i, "epoch": i, "loss": 2.0 / i, "loss_cls": 1.5 / i, "loss_distillation": 3 / i}
    | {"learning_rate": 1e-3 / i, "teacher_agreement": 0.1 * i, "data_wait": 0.02}
    for i in range(1, 9)
]
LOG += [
    {"step": step, "epoch": step / 10, "eval_loss": 1.0, "eval_top1_average": share, "eval_ema_top1_average": share}
    | {"eval_top1_cls": share, "eval_top1_distillation": share, "eval_ema_top1_cls": share, "eval_runtime": 5.0}
    for step, share in ((40, 0.5), (80, 0.9))
]


def coloured_pixels(path: Path) -> int:
    pixels = np.asarray(PIL.Image.open(path).convert("RGB")).astype(int)
    return int((pixels.max(axis=2) - pixels.min(axis=2) > 60).sum())


def test_each_value_of_the_log_adds_a_line(tmp_path: Path):
    plot_training_curves([], tmp_path / "none.png")
    plot_training_curves(LOG[:8], tmp_path / "some.png")
    plot_training_curves(sorted(LOG, key=lambda entry: entry["step"]), tmp_path / "all.png")
    none, some, everything = (coloured_pixels(tmp_path / f"{name}.png") for name in ("none", "some", "all"))
    assert none == 0
    assert 500 < some < everything
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.png", "none.png", "some.png"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Returns a function: log -> axes by title, without writing a file that is looked at."""

    def draw(log: list[dict[str, Any]]) -> dict[str, Any]:
        figures: list[Figure] = []
        monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
        plot_training_curves(log, tmp_path / "curves.png")
        return {axis.texts[0].get_text(): axis for axis in figures[0].axes}

    return draw


def curves(axis: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axis.lines}


def by_step(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(log, key=lambda entry: entry["step"])


def test_panels_have_the_terms_the_heads_and_the_teacher_in_words(drawn):
    """Red when a raw name of the log is shown, a head or term is left out, or a share is not in percent."""
    axes = drawn(by_step(LOG))
    assert [*axes] == ["loss", "top-1 in %", "learning rate", "waiting for data, % of the time"]
    assert [*curves(axes["loss"])] == ["training", "training: labels", "training: teacher", "evaluation"]
    heads = ["mean of both heads", "class head", "distillation head", "averaged weights", "agreement with teacher"]
    shares = curves(axes["top-1 in %"])
    assert [*shares] == heads
    assert shares["class head"] == ([4, 8], [50, 90])
    assert shares["agreement with teacher"][1] == pytest.approx([10 * i for i in range(1, 9)])
    assert {axis.get_xlabel() for axis in axes.values()} == {"epoch"}


def test_each_evaluation_set_has_its_own_panel_with_its_heads(drawn):
    sets = [
        {"step": 5, f"eval_{part}_loss": 1.0, f"eval_{part}_top1_cls": share, f"eval_ema_{part}_top1_average": share}
        for part, share in (("val", 0.5), ("a_$x", 0.25))
    ]
    axes = drawn([{"step": 5, "loss": 1.0}, *sets])
    assert [*axes] == ["loss", "top-1 in % on val", r"top-1 in % on a_\$x"]
    assert [*curves(axes["loss"])] == ["training", "val", r"a_\$x"]
    assert curves(axes["top-1 in % on val"]) == {"class head": ([5], [50]), "averaged weights": ([5], [50])}


def test_a_model_with_one_head_and_no_teacher_has_one_curve_each(drawn):
    """Red when the label loss is drawn again although it is the loss."""
    log = [{"step": i, "loss": 1 / i, "loss_cls": 1 / i + 1e-7, "eval_top1": 0.1 * i} for i in (1, 2, 3)]
    axes = drawn(log)
    assert [*curves(axes["loss"])] == ["training"]
    assert [*curves(axes["top-1 in %"])] == ["model"]
    assert axes["loss"].get_xlabel() == "optimizer step"
    assert axes["loss"].get_legend() is None


def test_an_axis_is_logarithmic_only_where_values_would_be_squashed(drawn):
    fast = drawn([{"step": i, "loss": 10.0**-i, "learning_rate": 1e-3} for i in range(6)])
    assert fast["loss (logarithmic)"].get_yscale() == "log"
    assert fast["learning rate"].get_yscale() == "linear"
    assert drawn([{"step": i, "loss": 0.0 if i else 9.0} for i in range(6)])["loss"].get_yscale() == "linear"


def test_a_restart_replaces_what_it_repeats_and_the_best_model_is_no_second_value(drawn):
    """Red when the curve runs back to the left, or up and down at its end."""
    steps = [(1, 9.0), (2, 8.0), (3, 7.0), (2, 5.0), (3, 4.0), (3, 8.0)]
    axes = drawn([{"step": step, "loss": loss} for step, loss in steps] + [{"step": 3, "loss": float("nan")}])
    assert curves(axes["loss"])["training"] == ([1, 2, 3], [9, 5, 4])


def test_a_long_log_is_drawn_as_means(drawn):
    axes = drawn([{"step": i, "loss": float(i)} for i in range(10 * MAX_POINTS)])
    places, values = curves(axes["loss"])["training"]
    assert len(places) == MAX_POINTS
    assert (values[0], values[-1]) == (4.5, 10 * MAX_POINTS - 5.5)


def test_points_of_a_short_curve_are_marked_also_beside_a_long_one(drawn):
    """Red when the few evaluations in a long log are drawn without visible points."""
    axes = drawn([{"step": i, "loss": 1.0} for i in range(60)] + [{"step": 60, "eval_loss": 0.5}])
    assert [line.get_marker() for line in axes["loss"].lines] == ["None", "."]


def test_curves_of_a_page_take_its_colours():
    svg = curves_figure("student", by_step(LOG))
    assert "currentColor" in svg
    assert all(words in svg for words in ("mean of both heads", "training: teacher", "waiting for data"))
