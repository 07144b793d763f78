"""What a training prints: a line for each evaluation, a few losses in between, and a bar only on a terminal."""

import io
import re
import shutil
import sys
from pathlib import Path

import pytest
from support.trainers import make_args
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from deit_hf import DistillationTrainer
from deit_hf.training.progress import duration, number

LOSSES = r"loss \d\.\d\d \(labels \d\.\d\d, teacher \d\.\d\d\)  agreement \d+ %"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def trainer_of(tmp_path: Path, tiny_student, tiny_teacher, toy_rows):
    def make(**options) -> DistillationTrainer:
        data = {"eval_dataset": options.pop("eval_dataset", toy_rows), "callbacks": options.pop("callbacks", None)}
        args = make_args(tmp_path, **{"distillation_type": "hard", **options})
        return DistillationTrainer(tiny_student, args, teacher=tiny_teacher, train_dataset=toy_rows, **data)

    return make


def lines_of(trainer: DistillationTrainer, capsys: pytest.CaptureFixture, **options) -> list[str]:
    capsys.readouterr()
    trainer.train(**options)
    printed = capsys.readouterr()
    assert not set("{}\r") & set(printed.out + printed.err)
    return printed.out.splitlines()


def test_each_evaluation_is_one_line_with_the_logged_values_in_percent(trainer_of, capsys: pytest.CaptureFixture):
    trainer = trainer_of(eval_strategy="epoch", logging_strategy="epoch", num_train_epochs=3, ema_decay=0.5)
    lines = lines_of(trainer, capsys)
    assert len(lines) == 3
    history = trainer.state.log_history
    best = 0.0
    for epoch, line in enumerate(lines, start=1):
        logged = {name: value for entry in history if entry["step"] == 5 * epoch for name, value in entry.items()}
        top1, cls, distillation = (
            f"{100 * logged[f'eval_top1_{head}']:.1f}" for head in ("average", "cls", "distillation")
        )
        expected = (
            f"epoch {epoch}/3  loss {logged['loss']:.2f} (labels {logged['loss_cls']:.2f}, teacher "
            f"{logged['loss_distillation']:.2f})  agreement {100 * logged['teacher_agreement']:.0f} %  top-1 {top1} "
            f"(class {cls}, distillation {distillation}), averaged weights "
            f"{100 * logged['eval_ema_top1_average']:.1f}  lr {logged['learning_rate']:.1e}"
        )
        assert line.replace("e-", "e-0").startswith(expected), (line, expected)
        is_best = logged["eval_top1_average"] > best
        assert line.endswith("* best") is is_best
        best = max(best, logged["eval_top1_average"])


def test_best_is_by_the_chosen_metric_which_the_line_then_shows(trainer_of, capsys: pytest.CaptureFixture):
    options = {"metric_for_best_model": "loss", "greater_is_better": False, "learning_rate": 0.3}
    trainer = trainer_of(eval_strategy="epoch", num_train_epochs=3, **options)
    lines = lines_of(trainer, capsys)
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert [line.endswith("* best") for line in lines if "top-1" in line] == [
        loss == min(losses[: index + 1]) for index, loss in enumerate(losses)
    ]
    assert f"  evaluation loss {number(losses[-1])}  " in lines[-1]
    balanced = trainer_of(eval_strategy="epoch", metric_for_best_model="balanced_accuracy_cls")
    assert re.search(
        r"top-1 .* balanced accuracy [\d.]+ \(class [\d.]+, distillation [\d.]+\) ", lines_of(balanced, capsys)[-1]
    )


def test_several_evaluation_sets_are_one_line(trainer_of, toy_rows, capsys: pytest.CaptureFixture):
    sets = {"photos": toy_rows.select(range(20)), "sketches": toy_rows.select(range(8))}
    trainer = trainer_of(eval_strategy="epoch", logging_strategy="epoch", num_train_epochs=2, eval_dataset=sets)
    lines = lines_of(trainer, capsys)
    assert len(lines) == 2
    assert re.search(r"top-1 photos [\d.]+ \(class [^)]+\), sketches [\d.]+ \(class [^)]+\)  lr ", lines[0])


@pytest.mark.parametrize("evaluates", [False, True])
def test_run_of_a_few_steps_prints_its_loss_and_rate(trainer_of, evaluates: bool, capsys: pytest.CaptureFixture):
    """Fails if only logged losses are printed: here none is logged."""
    strategy = {"eval_strategy": "epoch"} if evaluates else {}
    trainer = trainer_of(max_steps=3, logging_steps=500, **strategy)
    (line,) = lines_of(trainer, capsys)
    accuracy = r"top-1 .*" if evaluates else ""
    assert re.match(rf"step 3/3  {LOSSES}  {accuracy}lr [\d.]+e-\d  ", line), line
    shown = float(line.split("loss ")[1].split()[0])
    assert shown == pytest.approx(trainer.state.log_history[-1]["train_loss"], abs=0.006)  # the mean of all 3 steps
    assert not any("loss" in entry for entry in trainer.state.log_history)  # the log is as transformers writes it


def test_long_run_without_evaluation_prints_a_limited_number_of_lines(trainer_of, monkeypatch, capsys):
    monkeypatch.setattr("deit_hf.training.progress.NUM_LINES", 4)
    lines = lines_of(trainer_of(max_steps=16, logging_steps=1, eval_dataset=None), capsys)
    steps = [int(line.removeprefix("step ").split("/")[0]) for line in lines]
    assert steps == [1, 5, 9, 13, 16]  # the first, then every fourth of the run, and the last


def test_terminal_shows_a_bar_that_starts_at_the_resumed_step(trainer_of, monkeypatch, capsys):
    options = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    for resume, first in ((None, "0/4"), (True, "2/4")):
        trainer = trainer_of(disable_tqdm=False, **options)
        monkeypatch.setattr(sys, "stderr", Terminal())
        trainer.train(resume_from_checkpoint=resume)
        drawn = sys.stderr.getvalue().split("\r")
        bars = [text for text in drawn if text.startswith("training")]
        assert first in bars[0]
        assert re.search(r" 4/4 steps \[.*, [\d.]+ images/s, loss \d\.\d\d\]", bars[-1])
        assert any(text.startswith("evaluation") for text in drawn)
        assert not drawn[-1].strip()  # both bars are removed
        shutil.rmtree(f"{trainer.args.output_dir}/checkpoint-4")
    assert "top-1" in capsys.readouterr().out


def test_training_that_fails_leaves_no_bar_on_the_terminal(trainer_of, monkeypatch: pytest.MonkeyPatch):
    class Fails(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise RuntimeError("broken")

    trainer = trainer_of(disable_tqdm=False, callbacks=[Fails()])
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(RuntimeError, match="broken"):
        trainer.train()
    assert not sys.stderr.getvalue().split("\r")[-1].strip()


def test_verbose_training_prints_as_transformers_does(trainer_of, capsys: pytest.CaptureFixture):
    trainer_of(max_steps=1, verbose=True).train()
    assert "'loss_cls': " in capsys.readouterr().out


def test_users_own_printer_replaces_ours_and_ours_can_be_removed(trainer_of, capsys: pytest.CaptureFixture):
    class Mine(PrinterCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            print("mine")  # noqa: T201

    assert set(lines_of(trainer_of(max_steps=1, callbacks=[Mine()]), capsys)) == {"mine"}
    for name in (PrinterCallback, ProgressCallback):
        trainer = trainer_of(max_steps=1)
        trainer.remove_callback(name)
        assert lines_of(trainer, capsys) == []


def test_numbers_of_the_console():
    assert [duration(seconds) for seconds in (0.31, 14, 59.7, 125, 12_000)] == [
        "0.3 s",
        "14 s",
        "1 m 00 s",
        "2 m 05 s",
        "3 h 20 m",
    ]
    assert [number(loss) for loss in (1.874, 0.0, 0.0123)] == ["1.87", "0.00", "0.012"]
