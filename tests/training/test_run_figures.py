"""The figures that a training draws while it runs: its curves, and its first views with their targets."""

import importlib.util
import logging
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from support.trainers import make_args, make_trainer, parameters_of, same
from transformers import TrainerCallback

from deit_hf import DeiTForImageClassificationWithTeacher, DistillationTrainer
from deit_hf.analysis.views_figure import draw_views, short_names, target_lines
from deit_hf.data.finishing import PixelFinisher
from deit_hf.model.image_processing_deit import statistics_of
from deit_hf.training import run_figures
from deit_hf.training.run_figures import TrainingCurves

EVALUATES = {"eval_strategy": "steps", "eval_steps": 1, "logging_steps": 1}
TAUGHT = {"distillation_type": "hard", "training_views": True}


@pytest.fixture(autouse=True)
def _checks_for_matplotlib_again():
    run_figures.can_draw.cache_clear()
    yield
    run_figures.can_draw.cache_clear()


@pytest.fixture
def drawn_curves(monkeypatch: pytest.MonkeyPatch) -> list[list[dict[str, Any]]]:
    """The logs that were drawn."""
    logs: list[list[dict[str, Any]]] = []

    def draw(log_history: list[dict[str, Any]], path: Path) -> None:
        logs.append(list(log_history))
        path.touch()

    monkeypatch.setattr(run_figures, "plot_training_curves", draw)
    monkeypatch.setattr(run_figures, "MAX_SHARE", 1e9)
    return logs


@pytest.fixture
def drawn_views(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The views that were drawn."""
    figures: list[dict[str, Any]] = []

    def draw(views: np.ndarray, titles: list[list[str]], path: Path, *, caption: list[str]) -> None:
        figures.append({"views": views, "titles": titles, "caption": caption})
        path.touch()

    monkeypatch.setattr(run_figures, "draw_views", draw)
    return figures


class SeenBatches(TrainerCallback):
    """The pixels and targets that the student got."""

    def __init__(self, trainer: DistillationTrainer):
        self.batches: list[Any] = []
        step = trainer.training_step

        def training_step(model: Any, inputs: Any, *args: Any) -> Any:
            self.batches.append(inputs)
            return step(model, inputs, *args)

        trainer.training_step = training_step  # type: ignore[method-assign]


# ---- curves ----


def test_curves_are_drawn_after_all_sets_of_each_evaluation(tmp_path, tiny_student, toy_rows, drawn_curves):
    """Red when they are drawn only at the end, or before the second set is measured."""
    sets = {"first": toy_rows.select(range(8)), "second": toy_rows.select(range(8, 16))}
    args = make_args(tmp_path, num_train_epochs=1, max_steps=3, **EVALUATES)
    curves = TrainingCurves()
    trainer = DistillationTrainer(tiny_student, args, train_dataset=toy_rows, eval_dataset=sets, callbacks=[curves])
    trainer.train()
    assert [sum("eval_second_loss" in entry for entry in log) for log in drawn_curves] == [1, 2, 3]
    curves.draw(args, trainer.state)  # nothing new: not drawn again
    assert len(drawn_curves) == 3
    trainer.create_model_card()
    assert "![Training curves](training_curves.png)" in (Path(args.output_dir) / "README.md").read_text()
    assert (Path(args.output_dir) / "training_curves.png").exists()


def test_curves_are_drawn_at_saves_without_evaluation_data(tmp_path, tiny_config, toy_rows, drawn_curves):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, max_steps=2, save_strategy="steps", save_steps=1)
    trainer.add_callback(TrainingCurves())
    trainer.train()
    assert [sum("loss" in entry for entry in log) for log in drawn_curves] == [1, 2]


def test_slow_drawings_are_left_out_but_not_the_last_one(tmp_path, tiny_config, toy_rows, drawn_curves, monkeypatch):
    monkeypatch.setattr(run_figures, "MAX_SHARE", 1e-9)
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, max_steps=4, save_strategy="steps", save_steps=1)
    trainer.add_callback(TrainingCurves())
    trainer.train()
    assert [sum("loss" in entry for entry in log) for log in drawn_curves] == [1, 4]


def test_a_failure_to_draw_is_one_warning(tmp_path, tiny_config, toy_rows, monkeypatch, caplog):
    def fail(*args: Any, **options: Any) -> None:
        raise OSError("no space\nleft")

    monkeypatch.setattr(run_figures, "plot_training_curves", fail)
    monkeypatch.setattr(run_figures, "draw_views", fail)
    options = {"save_strategy": "steps", "save_steps": 1, "training_views": True}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, max_steps=3, **options)
    trainer.add_callback(TrainingCurves())
    with caplog.at_level(logging.WARNING, "deit_hf"):
        trainer.train()
    lines = [record.getMessage() for record in caplog.records]
    for name in ("training_curves.png", "training_views.png"):
        (line,) = [line for line in lines if name in line]
        assert line.endswith(f"{name} could not be drawn (OSError: no space left); the training continues without it")
    assert trainer.state.global_step == 3
    trainer.create_model_card()
    assert "training_curves.png" not in (Path(trainer.args.output_dir) / "README.md").read_text()


def test_without_matplotlib_one_line_says_how_to_get_it(tmp_path, tiny_config, toy_rows, monkeypatch, caplog):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, max_steps=2, training_views=True)
    trainer.add_callback(TrainingCurves())
    with caplog.at_level(logging.INFO, "deit_hf"):
        trainer.train()
    assert sum('pip install "deit_hf[viz]"' in record.getMessage() for record in caplog.records) == 1
    assert not list(Path(trainer.args.output_dir).glob("*.png"))


# ---- views ----


def test_first_views_are_those_of_the_student_with_their_targets(
    tmp_path, tiny_config, toy_rows, tiny_teacher, drawn_views
):
    """Red when views are drawn in another order, without mixing, normalised, or with targets that are smoothed."""
    options = {**TAUGHT, "random_erase_prob": 1.0, "gradient_accumulation_steps": 2, "max_steps": 2}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher, **options)
    batches = SeenBatches(trainer).batches
    trainer.train()
    (figure,) = drawn_views
    statistics = statistics_of(trainer.processing_class)
    mean, std = (torch.tensor(statistics[name])[:, None, None] for name in ("mean", "std"))
    titles = []
    for k, batch in enumerate(batches[:2]):
        pixels = PixelFinisher(**statistics)(batch["pixels"], batch["erasures"], batch["mixes"])
        expected = (pixels * std + mean).clamp(0, 1).permute(0, 2, 3, 1)
        assert torch.equal(torch.from_numpy(figure["views"][8 * k : 8 * k + 8]), expected)
        for i, ratio in enumerate(batch["mix_ratios"].tolist()):
            own, other = ("abcde"[batch["labels"][j]] for j in (i, i ^ 1))
            shares = [(own, ratio), (other, 1 - ratio)]
            shares = sorted(shares, key=lambda share: -share[1])
            titles.append(own if own == other else " + ".join(f"{name} {share:.2f}" for name, share in shares))
        answers = tiny_teacher(pixels).argmax(dim=1)
        assert [lines[-1] for lines in figure["titles"][8 * k : 8 * k + 8]] == [
            f"teacher: {'abcde'[i]}" for i in answers
        ]
    assert [lines[0] for lines in figure["titles"]] == titles
    caption = " ".join(figure["caption"])
    assert caption.startswith("First 16 views of the training, 32 x 32 pixels")
    assert (
        "erased, mixed; shown without normalisation; label smoothing 0.1 not shown; 3 views of each image" in caption
    )


def test_a_training_has_the_same_bits_with_and_without_the_figures(tmp_path, tiny_config, toy_rows, tiny_teacher):
    """Red when a figure draws random numbers, or changes what the student sees."""
    tiny_config.drop_path_rate = 0.2  # draws from the global random state at each step
    found = []
    for views in (True, False):
        torch.manual_seed(0)
        trainer = DistillationTrainer(
            DeiTForImageClassificationWithTeacher(tiny_config),
            make_args(tmp_path / str(views), max_steps=4, **{**TAUGHT, "training_views": views}),
            teacher=tiny_teacher,
            train_dataset=toy_rows,
            callbacks=[TrainingCurves()] if views else [],
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        random = (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())
        found.append((parameters_of(trainer.model), losses, random))
        files = {path.name for path in Path(trainer.args.output_dir).glob("*.png")}
        assert files == ({"training_curves.png", "training_views.png"} if views else set())
    (first, *others), (second, *same_others) = found
    assert same(first, second)
    assert others == same_others


def test_a_resume_keeps_the_views_and_draws_missing_ones(tmp_path, tiny_config, toy_rows, drawn_views):
    options = {"save_strategy": "steps", "save_steps": 2, "training_views": True, "mixup_alpha": 0, "cutmix_alpha": 0}

    def train(max_steps: int, **options_of_start: Any) -> None:
        trainer = make_trainer(tmp_path, tiny_config, toy_rows, max_steps=max_steps, **options)
        trainer.train(**options_of_start)

    train(2)
    train(4, resume_from_checkpoint=True)
    assert len(drawn_views) == 1
    (tmp_path / "run" / "training_views.png").unlink()
    train(8, resume_from_checkpoint=True)
    assert [figure["caption"][0].partition(",")[0] for figure in drawn_views] == [
        "First 16 views of the training",
        "First 16 views of epoch 1",
    ]
    assert [lines for lines in drawn_views[0]["titles"] if len(lines) != 1] == []  # one class each, and no teacher


def test_no_views_are_drawn_in_python_unless_asked_for(tmp_path, tiny_config, toy_rows, drawn_views):
    make_trainer(tmp_path, tiny_config, toy_rows, max_steps=2).train()
    assert drawn_views == []


def test_few_views_of_a_short_training_are_drawn_at_its_end(tmp_path, tiny_config, toy_rows, drawn_views):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, max_steps=1, training_views=True)
    trainer.train()
    assert drawn_views[0]["views"].shape == (8, 32, 32, 3)


@pytest.mark.parametrize("shape", [(1, 8, 8, 3), (6, 8, 16, 3), (16, 224, 160, 3)])
def test_a_figure_has_800_pixels_and_shows_the_pixels(tmp_path: Path, shape: tuple[int, ...]):
    """Red when small views are smoothed, or their place or aspect is wrong."""
    views = np.random.default_rng(0).random(shape) > 0.5
    titles = [["first line $", "teacher: b"] for _ in range(shape[0])]
    draw_views(views.astype(np.float32), titles, tmp_path / "views.png", caption=["caption"])
    pixels = np.asarray(PIL.Image.open(tmp_path / "views.png").convert("RGB"))
    assert pixels.shape[1] == 800
    height = 185 * shape[1] / shape[2]
    assert pixels.shape[0] == pytest.approx(-(-shape[0] // 4) * (height + 44) + 40, abs=5)
    if shape[1] == 8:
        top = pixels.shape[0] - 12 - height - (height + 44) * (-(-shape[0] // 4) - 1)
        places = [(top + (i + 0.5) * height / 8, 12 + (k + 0.5) * 185 / shape[2]) for i in range(8) for k in range(8)]
        found = [tuple(pixels[round(row), round(column)]) for row, column in places]
        assert found == [tuple(255 * views[0, i, k]) for i in range(8) for k in range(8)]


def test_short_names_of_classes_differ():
    """Fails if each name is shortened alone: one cannot tell whether the teacher is right."""
    cats = [f"Felis catus, {kind} (indoor)" for kind in ("adult male", "adult female", "a kitten")]
    names = [*cats, "tench, Tinca tinca, of the carp family", "rose", "Felis catus"]
    first = ["Felis cat... (indoor) #0", "Felis cat... (indoor) #1", "Felis catu...en (indoor)"]
    assert short_names(names) == [*first, "tench", "rose", "Felis catus"]
    one, other = (np.array(shares) for shares in ([0.0, 0.5, 0.5, 0, 0, 0], [0.5, 0.0, 0.5, 0, 0, 0]))
    assert target_lines(one, names) != target_lines(other, names)
    for length in (18, 20, 22, 24, 29, 40):
        short = short_names(names, length)
        assert len({*short}) == len(names)
        assert max(map(len, short)) <= length


@pytest.mark.parametrize(
    ("shares", "names", "lines"),
    [
        ([0.3, 0.7, 0.0], ["tulip", "rose", "daisy"], ["rose 0.70 + tulip 0.30"]),
        ([1.0, 0.0], ["tulip", "rose"], ["tulip"]),
        ([1.0], ["only"], ["only"]),
        ([0.75, 0.25], ["4", "6"], ['"4" 0.75 + "6" 0.25']),
        ([1.0, 0.0], ["tench, Tinca tinca, of the carp family", "rose"], ["tench"]),
        ([0.5, 0.5], ["a" * 20, "b" * 40], [f"{'a' * 20} 0.50 +", f"{'b' * 9}...{'b' * 10} 0.50"]),
    ],
)
def test_targets_in_words(shares: list[float], names: list[str], lines: list[str]):
    assert target_lines(np.array(shares), names) == lines
