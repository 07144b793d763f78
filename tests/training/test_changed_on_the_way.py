"""Options, models, searches and losses that change between two uses of one trainer, and its up-to-date records."""

import dataclasses
import logging
import re
from pathlib import Path

import datasets
import pytest
import torch
from support.trainers import make_args, make_resnet, parameters_of, same
from timm.optim.lookahead import Lookahead
from torch import nn
from transformers import AutoConfig, TrainerCallback, ViTConfig, ViTForImageClassification

from deit_hf import (
    DeiTConfig,
    DeiTForImageClassification,
    DistillationTrainer,
    Teacher,
)
from deit_hf.model.image_processing_deit import make_processor

# ---- evaluation, checkpoints and the best model ----

BEST = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}


def test_best_metric_that_is_named_late_is_better_when_it_is_greater(tmp_path, make_student, toy_rows):
    """Fails if a smaller value is better, as for the loss: the worst checkpoint would be loaded."""
    rows = {"train_dataset": toy_rows, "eval_dataset": toy_rows}
    for options in ({}, {"load_best_model_at_end": True}):
        trainer = DistillationTrainer(make_student(), make_args(tmp_path, max_steps=2, **BEST, **options), **rows)
        trainer.args.load_best_model_at_end = True
        trainer.args.metric_for_best_model = "top1_average"
        trainer.train()
        reports = [log["eval_top1_average"] for log in trainer.state.log_history if "eval_top1_average" in log]
        assert trainer.args.greater_is_better is True
        assert trainer.state.best_metric == max(reports)
    replaced = dataclasses.replace(
        make_args(tmp_path, max_steps=2, **BEST, load_best_model_at_end=True), metric_for_best_model="top1_average"
    )
    with pytest.raises(ValueError, match="`greater_is_better` is False, but the best value of .* is the greatest"):
        DistillationTrainer(make_student(), replaced, **rows)


def test_best_model_without_a_metric_is_that_of_the_smallest_loss(tmp_path, make_student, toy_rows):
    args = make_args(tmp_path, max_steps=2, **BEST)
    trainer = DistillationTrainer(make_student(), args, train_dataset=toy_rows, eval_dataset=toy_rows)
    trainer.args.load_best_model_at_end = True
    trainer.train()
    losses = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert (trainer.args.metric_for_best_model, trainer.state.best_metric) == ("loss", min(losses))


def test_best_model_that_is_given_up_late_needs_no_evaluation(tmp_path, make_student, toy_rows):
    """Fails if a metric that was set by default is refused as if the user had set it."""
    args = make_args(tmp_path, max_steps=1, **BEST, load_best_model_at_end=True)
    trainer = DistillationTrainer(make_student(), args, train_dataset=toy_rows, eval_dataset=toy_rows)
    trainer.args.load_best_model_at_end, trainer.args.eval_strategy = False, "no"
    trainer.train()
    assert (trainer.args.metric_for_best_model, trainer.args.greater_is_better) == (None, None)


def test_strategy_that_is_set_late_evaluates_when_it_logs(tmp_path, make_student, toy_rows):
    args = make_args(tmp_path, max_steps=4, logging_steps=2)
    trainer = DistillationTrainer(make_student(), args, train_dataset=toy_rows, eval_dataset=toy_rows)
    trainer.args.eval_strategy = "steps"
    trainer.train()
    assert [log["step"] for log in trainer.state.log_history if "eval_loss" in log] == [2, 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_strategy": "nonsense"}, "`eval_strategy` is 'nonsense', but must be one of no, steps, epoch"),
        ({"save_strategy": "nonsense"}, "`save_strategy` is 'nonsense', but must be one of no, steps, epoch, best"),
        ({"logging_steps": 0}, "`logging_steps` is 0, but must be greater than 0"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "steps"},
            "set both to the same value",
        ),
        (
            {"load_best_model_at_end": True, **BEST, "save_steps": 3, "eval_steps": 2},
            "`save_steps` 3 is not a multiple of `eval_steps` 2",
        ),
        ({"include_for_metrics": ["loss"]}, "`include_for_metrics` is given without a `compute_metrics`"),
        ({"dataloader_persistent_workers": True}, "`dataloader_num_workers` is 0; set it to 1 or more"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "which follows a metric, but `eval_strategy` is 'no'"),
        ({"num_train_samples": 5}, "`num_train_samples` is 5, but only has an effect on a stream"),
    ],
)
def test_what_the_constructor_refuses_is_refused_late_too(tmp_path, make_student, toy_rows, changes, message):
    rows = {"train_dataset": toy_rows, "eval_dataset": toy_rows}
    trainer = DistillationTrainer(make_student(), make_args(tmp_path), **rows)
    for name, value in changes.items():
        setattr(trainer.args, name, value)
    with pytest.raises(ValueError, match=re.escape(message)):
        trainer.train()


def test_an_optimizer_of_timm_that_wraps_another_one_can_be_given(tmp_path, make_student, toy_rows):
    student = make_student()
    optimizer = Lookahead(torch.optim.AdamW(student.parameters(), lr=1e-3))
    args = make_args(tmp_path, max_steps=2)
    trainer = DistillationTrainer(student, args, train_dataset=toy_rows, optimizers=(optimizer, None))
    trainer.train()
    assert not same(parameters_of(make_student()), parameters_of(trainer.model))


# ---- searches ----


def searching(tmp_path: Path, make_student, rows: datasets.Dataset, **options) -> DistillationTrainer:
    args = make_args(tmp_path, max_steps=1, **options)
    return DistillationTrainer(model_init=make_student, args=args, train_dataset=rows, eval_dataset=rows)


@pytest.mark.parametrize(("name", "value"), [("train_only", "classifier"), ("bf16", True)])
def test_search_over_what_is_read_for_good_is_refused(tmp_path, make_student, toy_rows, name, value):
    """Fails if a trial records an option that its training did not use."""
    trainer = searching(tmp_path, make_student, toy_rows)
    with pytest.raises(ValueError, match=f"`{name}` is .* when the trainer was created"):
        trainer.hyperparameter_search(
            hp_space=lambda trial: {name: trial.suggest_categorical(name, [value])}, n_trials=1
        )


def test_search_that_failed_leaves_its_options_behind(tmp_path, make_student, toy_rows):
    trainer = searching(tmp_path, make_student, toy_rows)
    with pytest.raises(ValueError, match="`layer_decay` is 2.0"):
        trainer.hyperparameter_search(hp_space=lambda trial: {"layer_decay": 2.0}, n_trials=1)
    assert trainer.args.layer_decay == 1.0
    trainer.hyperparameter_search(hp_space=lambda trial: {"mixup_alpha": 0.5}, n_trials=1)
    assert trainer.args.mixup_alpha == 0.5


def test_each_trial_has_checkpoints_in_its_own_folder(tmp_path, make_student, toy_rows):
    """Red when a checkpoint of a trial stays in the temporary folder, or names it as the output directory."""
    trainer = searching(tmp_path, make_student, toy_rows, save_strategy="steps", save_steps=1)
    trainer.hyperparameter_search(hp_space=lambda trial: {"mixup_alpha": 0.5}, n_trials=2)
    run = tmp_path / "run"
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == ["run-0", "run-1"]
    for trial in ("run-0", "run-1"):
        checkpoint = run / trial / "checkpoint-1"
        names = {path.name for path in checkpoint.iterdir()}
        assert {"model.safetensors", "running_state_0.json", "run_identity.json"} <= names
        options = torch.load(checkpoint / "training_args.bin", weights_only=False)
        assert (options.output_dir, options.mixup_alpha) == (str(run), 0.5)


def test_trainer_has_a_model_after_a_search_that_claims_no_training(tmp_path, make_student, toy_rows):
    trainer = searching(tmp_path, make_student, toy_rows)
    trainer.hyperparameter_search(hp_space=lambda trial: {"mixup_alpha": 0.5}, n_trials=1)
    assert same(parameters_of(make_student()), parameters_of(trainer.model))
    assert trainer.evaluate()["eval_loss"] > 0
    trainer.predict(toy_rows)
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "with weights that deit_hf did not train" in card
    assert "Optimizer steps" not in card


# ---- another model ----


def test_record_of_a_model_that_was_assigned_is_its_own(tmp_path, make_student, toy_rows):
    """Fails if the card or the averages are those of the previous model."""
    args = make_args(tmp_path, max_steps=2, ema_decay=0.9)
    trainer = DistillationTrainer(make_student(), args, train_dataset=toy_rows, eval_dataset=toy_rows)
    trainer.train()
    trainer.evaluate()
    trainer.model = make_student()
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "Optimizer steps" not in card
    assert "Not measured" in card
    assert not [name for name in trainer.evaluate() if "_ema_" in name]
    trainer.save_model(str(tmp_path / "saved"))
    assert not (tmp_path / "saved" / "ema").exists()


def test_overwritten_directory_holds_no_checkpoint_of_the_run_before(tmp_path, make_student, toy_rows):
    """Fails if a resume after an interruption loads the weights of the overwritten run."""

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise RuntimeError("killed")

    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    DistillationTrainer(make_student(), make_args(tmp_path, **options), train_dataset=toy_rows).train()
    other = {**options, "learning_rate": 5e-3}
    begun = DistillationTrainer(
        make_student(),
        make_args(tmp_path, **other, overwrite_output_dir=True),
        train_dataset=toy_rows,
        callbacks=[Kill()],
    )
    with pytest.raises(RuntimeError, match="killed"):
        begun.train()
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]
    resumed = DistillationTrainer(make_student(), make_args(tmp_path, **other), train_dataset=toy_rows)
    resumed.train(resume_from_checkpoint=True)
    whole = DistillationTrainer(make_student(), make_args(tmp_path / "b", **other), train_dataset=toy_rows)
    whole.train()
    assert same(parameters_of(resumed.model), parameters_of(whole.model))


def test_loss_that_a_resumed_training_returns_is_that_of_all_steps(tmp_path, make_student, toy_rows):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    output = DistillationTrainer(make_student(), make_args(tmp_path, **options), train_dataset=toy_rows).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    again = DistillationTrainer(make_student(), make_args(tmp_path, **options), train_dataset=toy_rows)
    assert again.train(resume_from_checkpoint=checkpoint).training_loss == pytest.approx(output.training_loss)


def test_second_training_with_an_optimizer_of_ones_own_has_the_schedule_again(tmp_path, make_student, toy_rows):
    student = make_student()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    args = make_args(tmp_path, max_steps=4)
    trainer = DistillationTrainer(student, args, train_dataset=toy_rows, optimizers=(optimizer, None))
    rates = []
    for _ in range(2):
        trainer.train()
        rates.append([log["learning_rate"] for log in trainer.state.log_history if "learning_rate" in log])
    assert rates[0] == pytest.approx(rates[1])
    assert rates[0][-1] < 0.05


def test_batch_that_was_fitted_to_few_images_is_the_asked_one_for_many(tmp_path, make_student, toy_rows):
    options = {"min_steps_per_epoch": 10, "learning_rate": None, "base_learning_rate": 1e-3}
    args = make_args(tmp_path, **options, per_device_train_batch_size=8)
    few = DistillationTrainer(make_student(), args, train_dataset=toy_rows)
    assert args.per_device_train_batch_size == 4
    many = datasets.concatenate_datasets([toy_rows] * 3)
    DistillationTrainer(make_student(), args, train_dataset=many)
    assert (args.per_device_train_batch_size, args.learning_rate) == (8, pytest.approx(1e-3 * 8 / 512))
    few.train_dataset = toy_rows
    few.args.max_steps = 1
    few.train()
    assert args.per_device_train_batch_size == 4


# ---- custom losses ----


class OwnLoss(DistillationTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


def vit() -> ViTForImageClassification:
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(image_size=32, patch_size=16, num_labels=5, **sizes))


@pytest.mark.parametrize("make", [vit, make_resnet])
def test_models_of_transformers_learn_mixed_targets_as_one_label_each(tmp_path, toy_rows, make):
    """Fails if they are trained with binary cross-entropy and saved as multi-label models."""
    torch.manual_seed(0)
    ours, own = make(), make()
    own.load_state_dict(ours.state_dict())
    options = {"max_steps": 2, "repeated_augmentation": 1}
    data = {"train_dataset": toy_rows, "processing_class": make_processor(32)}
    DistillationTrainer(ours, make_args(tmp_path, **options), **data).train()
    trainer = OwnLoss(own, make_args(tmp_path, **options), **data)
    trainer.train()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(own.state_dict()[name], tensor, rtol=0, atol=1e-6)
    trainer.save_model(str(tmp_path / "saved"))
    assert AutoConfig.from_pretrained(tmp_path / "saved").problem_type != "multi_label_classification"


def test_options_that_a_loss_of_ones_own_does_not_read_are_said(
    tmp_path, make_student, tiny_teacher, toy_rows, caplog
):
    """Fails if a card names a teacher that the loss does not use."""
    args = make_args(tmp_path, max_steps=1, distillation_type="hard", class_weighting="balanced", label_smoothing=0.2)
    rows = {"train_dataset": toy_rows, "eval_dataset": toy_rows}
    trainer = OwnLoss(make_student(), args, teacher=tiny_teacher, **rows)
    trainer.train()
    assert (
        "`OwnLoss.compute_loss` replaces the recipe's objective, so these have no effect: "
        "class_weighting, teacher; call" in caplog.text
    )
    assert trainer.effective_recipe["teacher"] == "teacher, not used by OwnLoss.compute_loss"
    trainer.create_model_card()
    assert "as its teacher" not in (tmp_path / "run" / "README.md").read_text()


def test_loss_of_ones_own_that_adds_to_the_objective_is_no_cause_for_a_warning(
    tmp_path, make_student, tiny_teacher, toy_rows, caplog
):
    class Added(DistillationTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return super().compute_loss(model, inputs) + 0.0

    args = make_args(tmp_path, max_steps=1, distillation_type="hard", class_weighting="balanced")
    trainer = Added(make_student(), args, teacher=tiny_teacher, train_dataset=toy_rows)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert "replaces the recipe's objective" not in caplog.text
    trainer.create_model_card()
    assert "as its teacher" in (tmp_path / "run" / "README.md").read_text()


# ---- a teacher created in Python ----


def test_teacher_of_transformers_has_the_class_names_of_its_model(tiny_config, toy_images):
    """Fails if a student learns the classes in another order."""
    tiny_config.use_distillation_token = False
    tiny_config.id2label = {index: name for index, name in enumerate("edcba")}
    model = DeiTForImageClassification(tiny_config)
    nn.init.zeros_(model.classifier.weight)
    model.classifier.bias.data = torch.tensor([9.0, 0, 0, 0, 0])  # predicts `e`
    teacher = Teacher(model, mean=(0.5,) * 3, std=(0.5,) * 3)
    student = DeiTConfig(**{**tiny_config.to_diff_dict(), "id2label": dict(enumerate("abcde"))})
    teacher.match_labels(student)
    assert teacher(toy_images).argmax(dim=-1).tolist() == [4] * 4
