"""A training says how often its teacher is right on its views, warns if it is wrong often, and stays the same."""

import logging
from pathlib import Path

import datasets
import pytest
import torch
from support.trainers import make_args, make_trainer, parameters_of, same

from deit_hf import DeiTConfig, Teacher
from deit_hf.evaluation.teacher_fit import Counted, TeacherFit
from deit_hf.training.teacher_warning import warn_of_misfit

GOOD = Counted(410, 512)


def message_of(fit: TeacherFit, caplog: pytest.LogCaptureFixture, tmp_path: Path, **options) -> str:
    caplog.clear()
    warn_of_misfit(fit, make_args(tmp_path, **{"distillation_type": "hard", **options}))
    return caplog.text


def test_a_teacher_that_was_trained_without_such_views_warns_with_numbers_and_advice(caplog, tmp_path: Path):
    """The case measured on CIFAR-10, in which the teacher did the student harm."""
    fit = TeacherFit(evaluation=Counted(8000, 10_000), views=Counted(353, 512), mixed=Counted(271, 512))
    said = message_of(fit, caplog, tmp_path)
    assert "is right on 68.95 % (512 training views, 95 % interval 64.8 to 72.8)" in said
    assert "predicts the dominating class of 52.93 % (512 mixed views" in said
    assert "is right on 80.00 % (10,000 evaluation images" in said
    for advice in (
        "trained well with the views and the mixing",
        "`crop_min_scale`, now 0.08",
        "`mixup_alpha`, now 0.8",
    ):
        assert advice in said
    assert "set `distillation_type` to soft, or lower `distillation_weight` (now 0.5)" in said
    assert said.count("\n") == 1


def test_either_number_is_enough(caplog, tmp_path: Path):
    evaluation = Counted(800, 1000)
    assert "dominating" not in message_of(TeacherFit(evaluation, views=Counted(310, 512)), caplog, tmp_path)
    assert "harm" in caplog.text
    assert "training views" not in message_of(TeacherFit(evaluation, mixed=Counted(271, 512)), caplog, tmp_path)
    assert "harm" in caplog.text
    assert "harm" in message_of(TeacherFit(evaluation, Counted(310, 512), Counted(380, 512)), caplog, tmp_path)


def test_advice_fits_the_options(caplog, tmp_path: Path):
    fit = TeacherFit(evaluation=Counted(8000, 10_000), views=Counted(310, 512))
    said = message_of(fit, caplog, tmp_path, distillation_type="soft", mixup_alpha=0.0, cutmix_alpha=0.0)
    assert "harm" in said
    assert "mixup_alpha" not in said
    assert "to soft" not in said


@pytest.mark.parametrize(
    "fit",
    [
        TeacherFit(Counted(8000, 10_000), GOOD, Counted(330, 512)),  # as good on views, a little worse on mixed ones
        TeacherFit(Counted(8000, 10_000), Counted(11, 16), Counted(8, 16)),  # too few views to tell
        TeacherFit(None, Counted(10, 512), Counted(10, 512)),  # nothing to compare with
        TeacherFit(Counted(8000, 10_000), note="not measured"),
    ],
)
def test_no_warning(fit: TeacherFit, caplog, tmp_path: Path):
    assert message_of(fit, caplog, tmp_path) == ""


# ---- in a training ----


def test_training_has_the_numbers_in_summary_metrics_and_warning(
    tmp_path: Path, tiny_config: DeiTConfig, tiny_teacher: Teacher, toy_rows: datasets.Dataset, monkeypatch, caplog
):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher, distillation_type="hard", max_steps=1)
    fit = TeacherFit(Counted(32, 40), Counted(3, 48), Counted(4, 46))
    monkeypatch.setattr(trainer, "measure_fit", lambda: fit)
    with caplog.at_level(logging.WARNING, "deit_hf"):
        metrics = trainer.train().metrics
    assert fit.metrics().items() <= metrics.items()
    assert trainer.effective_recipe["teacher on views"] == fit.in_words()
    assert "learning from it can harm the student" in caplog.text


@pytest.mark.parametrize("options", [{"distillation_type": "hard"}, {"distillation_type": "soft", "mixup_alpha": 0.0}])
@pytest.mark.parametrize("kind", ["rows", "stream"])
def test_measurement_changes_no_weight_and_is_equal_when_the_training_is_resumed(
    tmp_path: Path,
    tiny_config: DeiTConfig,
    tiny_teacher: Teacher,
    toy_rows: datasets.Dataset,
    kind: str,
    options: dict,
):
    """Fails if it uses random numbers of the training, or moves its sampler or its stream."""
    tiny_config.hidden_dropout_prob = 0.1  # draws from the global random state
    options = {**options, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    rows = toy_rows
    if kind == "stream":
        rows, options["num_train_samples"] = toy_rows.to_iterable_dataset(num_shards=4), 40
    weights, lines = [], []
    for name, start in (("whole", None), ("unmeasured", None), ("whole", "checkpoint-2")):
        measures = {"evaluate_teacher": name == "whole"}
        trainer = make_trainer(tmp_path / name, tiny_config, rows, tiny_teacher, **options, **measures)
        trainer.train(resume_from_checkpoint=start and str(tmp_path / name / "run" / start))
        weights.append(parameters_of(trainer.model))
        lines.append(trainer.effective_recipe.get("teacher on views"))
    assert same(weights[0], weights[1])
    assert same(weights[0], weights[2])
    assert lines[0] == lines[2]
    assert lines[0].startswith("top-1 ")
    assert lines[1] is None


@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_compiled_teacher_keeps_the_batch_size_of_the_training(
    tmp_path: Path, tiny_config: DeiTConfig, tiny_teacher: Teacher, toy_rows: datasets.Dataset, is_compiled: bool
):
    """Another batch size would compile it again, with other kernels in the training."""
    sizes = []
    if is_compiled:
        tiny_teacher.module.compile(backend="eager")
    tiny_teacher.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher, distillation_type="hard")
    trainer.measure_fit()
    assert set(sizes) == {8 if is_compiled else 16}
    assert torch.is_grad_enabled()
