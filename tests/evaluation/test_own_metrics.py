"""A caller's own metrics are reported with ours, and get the same inputs as in transformers."""

import numpy as np
import pytest
import torch
from support.trainers import make_args

from deit_hf import DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher, DistillationTrainer


@pytest.fixture(params=["one head", "two heads"])
def student(request, tiny_config: DeiTConfig):
    if request.param == "two heads":
        return DeiTForImageClassificationWithTeacher(tiny_config)
    tiny_config.use_distillation_token = False
    return DeiTForImageClassification(tiny_config)


def ordinary(prediction):
    answers = prediction.predictions.argmax(axis=-1)
    assert isinstance(prediction.predictions, np.ndarray)
    return {"accuracy": float((answers == prediction.label_ids).mean()), "rows": len(answers)}


def test_function_of_the_whole_evaluation_is_called_once_with_all_of_it(tmp_path, student, toy_rows):
    calls = []

    def counting(prediction):
        calls.append(prediction)
        return ordinary(prediction)

    args = make_args(tmp_path, per_device_eval_batch_size=7)
    trainer = DistillationTrainer(student, args, eval_dataset=toy_rows, compute_metrics=counting)
    metrics = trainer.evaluate()
    top1 = metrics["eval_top1_average" if "eval_top1_average" in metrics else "eval_top1"]
    assert metrics["eval_accuracy"] == pytest.approx(top1)
    assert metrics["eval_rows"] == 40
    assert len(calls) == 1
    trainer.evaluate()
    assert len(calls) == 2
    assert len(calls[1].predictions) == 40  # no batches of the first evaluation


def test_function_of_batches_gets_them_as_they_come(tmp_path, student, toy_rows):
    sizes = []

    def by_batch(prediction, compute_result=False):
        assert isinstance(prediction.predictions, torch.Tensor)
        sizes.append(len(prediction.predictions))
        return {"rows": sum(sizes)} if compute_result else None

    args = make_args(tmp_path, per_device_eval_batch_size=16)
    trainer = DistillationTrainer(student, args, eval_dataset=toy_rows, compute_metrics=by_batch)
    assert trainer.evaluate()["eval_rows"] == 40
    assert sizes == [16, 16, 8]


def test_preprocessed_logits_are_what_the_function_gets_and_not_what_is_measured_here(tmp_path, student, toy_rows):
    def accuracy(prediction):
        assert prediction.predictions.shape == (40,)
        return {"accuracy": float((prediction.predictions == prediction.label_ids).mean())}

    plain = DistillationTrainer(student, make_args(tmp_path), eval_dataset=toy_rows).evaluate()
    trainer = DistillationTrainer(
        student,
        make_args(tmp_path),
        eval_dataset=toy_rows,
        compute_metrics=accuracy,
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(dim=-1),
    )
    metrics = trainer.evaluate()
    top1 = next(name for name in ("eval_top1_average", "eval_top1") if name in metrics)
    assert metrics["eval_accuracy"] == pytest.approx(plain[top1])
    assert metrics[top1] == plain[top1]


def test_metric_of_ours_that_is_replaced_is_said_once(tmp_path, student, toy_rows, caplog):
    trainer = DistillationTrainer(
        student, make_args(tmp_path), eval_dataset=toy_rows, compute_metrics=lambda prediction: {"loss": 3.0}
    )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(3.0)
    trainer.evaluate()
    assert caplog.text.count("`compute_metrics` returns `loss`, which replaces the one of deit_hf") == 1


def test_best_model_may_be_chosen_by_a_metric_of_ones_own(tmp_path, student, toy_rows):
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best", "max_steps": 2}
    args = make_args(tmp_path, **options, metric_for_best_model="accuracy", per_device_eval_batch_size=64)
    rows = {"train_dataset": toy_rows, "eval_dataset": toy_rows}
    trainer = DistillationTrainer(student, args, **rows, compute_metrics=ordinary)
    trainer.train()
    reports = [log["eval_accuracy"] for log in trainer.state.log_history if "eval_accuracy" in log]
    assert trainer.state.best_metric == max(reports)


@pytest.mark.parametrize("by_batch", [False, True])
def test_losses_and_inputs_arrive_if_they_are_asked_for(tmp_path, student, toy_rows, by_batch):
    seen = []

    def whole(prediction):
        seen.append((len(prediction.inputs), len(prediction.losses), len(prediction.predictions)))
        return {}

    def batch(prediction, compute_result=False):
        return whole(prediction)

    args = make_args(tmp_path, include_for_metrics=["inputs", "loss"], per_device_eval_batch_size=8)
    own = batch if by_batch else whole
    DistillationTrainer(student, args, eval_dataset=toy_rows, compute_metrics=own).evaluate()
    assert seen == ([(8, 8, 8)] * 5 if by_batch else [(40, 40, 40)])
    with pytest.raises(ValueError, match="`include_for_metrics` is given without a `compute_metrics`"):
        DistillationTrainer(student, args)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (None, TypeError, "`compute_metrics` returns NoneType, but must return a dict of metrics"),
        (0.5, TypeError, "`compute_metrics` returns float, but must return a dict"),
        ({"macro_f1": 85.0}, ValueError, "`compute_metrics` returns `macro_f1`, which deit_hf already computes"),
    ],
)
def test_result_that_cannot_be_reported_is_refused(tmp_path, tiny_config, toy_rows, returned, error, message):
    tiny_config.use_distillation_token = False
    model, args = DeiTForImageClassification(tiny_config), make_args(tmp_path)
    trainer = DistillationTrainer(model, args, eval_dataset=toy_rows, compute_metrics=lambda prediction: returned)
    with pytest.raises(error, match=message):
        trainer.evaluate()
