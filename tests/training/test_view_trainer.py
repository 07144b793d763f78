"""Options, datasets and students that change after the trainer was created take effect or are refused."""

import dataclasses
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from support.trainers import make_args, make_resnet, parameters_of, same
from torch import nn
from transformers import TrainerCallback

from deit_hf import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DistillationTrainer,
)
from deit_hf.model.image_processing_deit import make_processor


def trained(trainer: DistillationTrainer) -> dict[str, torch.Tensor]:
    trainer.train()
    return parameters_of(trainer.model)


# ---- options that change ----

CHANGES = [
    {"per_device_train_batch_size": 4},
    {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
    {"learning_rate": 3e-3},
    {"mixup_alpha": 0.0, "cutmix_alpha": 0.0},
    {"label_smoothing": 0.5},
    {"random_erase_prob": 1.0},
    {"random_augment": "none"},
    {"repeated_augmentation": 1},
    {"data_seed": 7},
    {"seed": 7},
    {"weight_decay": 0.5},
    {"timm_optimizer": "sgd"},
    {"layer_decay": 0.5},
    {"min_steps_per_epoch": 9},
    {"max_grad_norm": 0.01},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "-".join(change))
def test_option_that_is_changed_before_the_training_acts_as_if_it_had_been_given(
    tmp_path, make_student, toy_rows, change
):
    """Fails if the trainer keeps using the options that it was created with."""
    options = {"max_steps": 3, "learning_rate": None, "base_learning_rate": 0.05}
    if "learning_rate" in change:
        options.pop("base_learning_rate")
    given = DistillationTrainer(make_student(), make_args(tmp_path, **{**options, **change}), train_dataset=toy_rows)
    changed = DistillationTrainer(make_student(), make_args(tmp_path, **options), train_dataset=toy_rows)
    for name, value in change.items():
        setattr(changed.args, name, value)
    plain = DistillationTrainer(make_student(), make_args(tmp_path, **options), train_dataset=toy_rows)
    weights = trained(changed)
    assert same(weights, trained(given))
    assert not same(weights, trained(plain))
    assert changed.effective_recipe == given.effective_recipe


def test_averages_follow_a_changed_option(tmp_path, make_student, toy_rows):
    trainer = DistillationTrainer(make_student(), make_args(tmp_path, max_steps=1), train_dataset=toy_rows)
    trainer.args.ema_decay = 0.9
    trainer.train()
    assert trainer.ema.decay == 0.9
    trainer.args.ema_decay = 0.0
    trainer.train()
    assert trainer.ema is None
    assert not [callback for callback in trainer.callback_handler.callbacks if type(callback).__name__ == "Averaged"]


def test_options_that_contradict_each_other_after_a_change_are_refused(tmp_path, make_student, toy_rows):
    trainer = DistillationTrainer(make_student(), make_args(tmp_path), train_dataset=toy_rows)
    trainer.args.mixup_alpha = -1.0
    with pytest.raises(ValueError, match="`mixup_alpha` is -1.0, but must be 0 or more"):
        trainer.train()
    trainer.args.mixup_alpha, trainer.args.distillation_type = 0.8, "hard"
    with pytest.raises(ValueError, match="`distillation_type` is 'hard' but there is no teacher"):
        trainer.train()


@pytest.mark.parametrize(("name", "value"), [("bf16", True), ("train_only", "classifier"), ("disable_tqdm", False)])
def test_option_that_the_trainer_has_read_for_good_is_refused(tmp_path, make_student, toy_rows, name, value):
    trainer = DistillationTrainer(make_student(), make_args(tmp_path), train_dataset=toy_rows)
    setattr(trainer.args, name, value)
    with pytest.raises(ValueError, match=f"`{name}` is .* when the trainer was created.*create a new trainer"):
        trainer.train()


def test_options_can_be_replaced_by_a_copy(tmp_path, make_student, toy_rows):
    args = make_args(tmp_path, max_steps=3, learning_rate=None)
    trainer = DistillationTrainer(make_student(), args, train_dataset=toy_rows)
    trainer.args = dataclasses.replace(args, per_device_train_batch_size=4, mixup_alpha=0.0)
    given = make_args(tmp_path, max_steps=3, learning_rate=None, per_device_train_batch_size=4, mixup_alpha=0.0)
    assert same(trained(trainer), trained(DistillationTrainer(make_student(), given, train_dataset=toy_rows)))
    assert trainer.state.train_batch_size == 4


def test_trainer_works_after_other_options_were_made(tmp_path, make_student, toy_rows):
    rows = {"train_dataset": toy_rows, "eval_dataset": toy_rows}
    trainer = DistillationTrainer(make_student(), make_args(tmp_path, max_steps=1), **rows)
    make_args(tmp_path / "other")  # resets the state of Accelerate
    assert trainer.evaluate()["eval_loss"] > 0
    make_args(tmp_path / "other")
    assert trainer.train().global_step == 1


def test_second_training_starts_with_a_new_optimizer(tmp_path, make_student, toy_rows):
    """Fails if the second training uses the moments or learning rates of the first one."""
    twice = DistillationTrainer(make_student(), make_args(tmp_path, max_steps=2), train_dataset=toy_rows)
    weights = trained(twice)
    twice.args.learning_rate = 5e-3
    twice.train()
    model = make_student()
    model.load_state_dict(weights)
    once = DistillationTrainer(model, make_args(tmp_path, max_steps=2, learning_rate=5e-3), train_dataset=toy_rows)
    assert same(trained(once), parameters_of(twice.model))


# ---- rows that are assigned ----


def test_training_rows_that_are_assigned_are_trained_on(tmp_path, make_student, toy_rows):
    others = toy_rows.select(range(20, 40))
    given = DistillationTrainer(make_student(), make_args(tmp_path, max_steps=2), train_dataset=others)
    assigned = DistillationTrainer(make_student(), make_args(tmp_path, max_steps=2), train_dataset=toy_rows)
    assigned.train_dataset = others
    assert len(next(iter(assigned.get_train_dataloader()))["labels"]) == 8
    assert same(trained(assigned), trained(given))
    without = DistillationTrainer(make_student(), make_args(tmp_path, max_steps=2))
    without.train_dataset = others
    assert same(trained(without), parameters_of(given.model))


def test_rows_with_a_transform_are_refused(tmp_path, make_student, toy_rows):
    rows = toy_rows.with_transform(lambda batch: batch)
    with pytest.raises(ValueError, match="has a transform .*`random_augment`"):
        DistillationTrainer(make_student(), make_args(tmp_path), train_dataset=rows)
    trainer = DistillationTrainer(make_student(), make_args(tmp_path), train_dataset=toy_rows)
    for use in (trainer.evaluate, trainer.predict):
        with pytest.raises(ValueError, match="has a transform"):
            use(rows)


# ---- rows without labels ----


def without_labels(rows: datasets.Dataset, kind: str) -> datasets.Dataset:
    bare = rows.remove_columns("label")
    return bare if kind == "no column" else bare.add_column("label", [-1] * len(rows))


@pytest.mark.parametrize("kind", ["no column", "-1"])
def test_predict_answers_for_rows_without_labels(tmp_path, make_student, toy_rows, caplog, kind):
    trainer = DistillationTrainer(make_student(), make_args(tmp_path, per_device_eval_batch_size=7))
    output = trainer.predict(without_labels(toy_rows, kind))
    labelled = trainer.predict(toy_rows)
    for ours, expected in zip(output.predictions, labelled.predictions, strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert output.label_ids is None
    assert labelled.label_ids.tolist() == toy_rows["label"]
    assert not [name for name in output.metrics if "top1" in name or "loss" in name]
    assert "have no labels in `label`" in caplog.text
    with pytest.raises(ValueError, match="has no column `label`|label"):
        trainer.evaluate(without_labels(toy_rows, kind))


# ---- students ----


def test_model_init_makes_the_student_of_each_training(tmp_path, make_student, toy_rows):
    given = trained(DistillationTrainer(make_student(), make_args(tmp_path, max_steps=2), train_dataset=toy_rows))
    made = DistillationTrainer(model_init=make_student, args=make_args(tmp_path, max_steps=2), train_dataset=toy_rows)
    assert same(trained(made), given)
    assert same(trained(made), given)  # with a new student and a new optimizer


def test_each_student_of_model_init_gets_names_and_frozen_parts(tmp_path, tiny_config, toy_rows):
    tiny_config.id2label = {index: f"LABEL_{index}" for index in range(5)}
    named = toy_rows.cast_column("label", datasets.ClassLabel(names=["a", "b", "c", "d", "e"]))
    options = make_args(tmp_path, max_steps=1, train_only="classifier")
    make = {"model_init": lambda: DeiTForImageClassification(DeiTConfig(**tiny_config.to_diff_dict()))}
    trainer = DistillationTrainer(**make, args=options, train_dataset=named)
    trainer.train()
    assert trainer.model.config.id2label[1] == "b"
    assert {name for name, p in trainer.model.named_parameters() if p.requires_grad} == {
        "classifier.weight",
        "classifier.bias",
    }


def test_model_init_beside_a_model_or_an_optimizer_is_refused(tmp_path, make_student, toy_rows):
    args = make_args(tmp_path)
    with pytest.raises(ValueError, match="both `model` and `model_init` are given"):
        DistillationTrainer(make_student(), args, model_init=make_student)
    with pytest.raises(ValueError, match="neither `model` nor `model_init` is given"):
        DistillationTrainer(args=args)
    optimizer = torch.optim.SGD(make_student().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="`optimizers` are given, but `model_init`.*`optimizer_cls_and_kwargs`"):
        DistillationTrainer(model_init=make_student, args=args, optimizers=(optimizer, None))


def test_search_over_augmentation_and_mixing_trains_what_each_trial_says(tmp_path, make_student, toy_rows):
    """Fails if views, batches or learning rates of a trial follow the options of the previous one."""
    seen = []

    class Seeing(DistillationTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            seen.append((self.args.random_erase_prob, len(inputs["labels"]), self.train_dataset.view.erase))
            return super().training_step(model, inputs, num_items_in_batch)

    def space(trial):
        return {
            "random_erase_prob": trial.suggest_categorical("random_erase_prob", [0.0, 1.0]),
            "mixup_alpha": trial.suggest_float("mixup_alpha", 0.5, 0.6),
            "learning_rate": trial.suggest_float("learning_rate", 1e-3, 2e-3),
            "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [4]),
        }

    args = make_args(tmp_path, max_steps=2, learning_rate=None, eval_strategy="steps", eval_steps=2)
    rows = {"train_dataset": toy_rows, "eval_dataset": toy_rows}
    searching = Seeing(model_init=lambda trial: make_student(), args=args, **rows)
    best = searching.hyperparameter_search(
        hp_space=space, n_trials=4, direction="minimize", compute_objective=lambda metrics: metrics["eval_loss"]
    )
    assert {size for _, size, _ in seen} == {4}
    for probability, _, erasing in seen:
        assert (erasing is not None) == (probability > 0)
    assert searching.args.mixup_alpha < 0.7
    options = {**best.hyperparameters, "max_steps": 2}
    options.pop("per_device_train_batch_size")
    repeated = DistillationTrainer(
        make_student(), make_args(tmp_path / "again", per_device_train_batch_size=4, **options), **rows
    )
    repeated.train()
    assert repeated.evaluate()["eval_loss"] == pytest.approx(best.objective, abs=1e-7)


def test_compiled_student_is_trained_and_saved_under_its_own_names(tmp_path, make_student, toy_rows):
    """Fails if names have the prefix `_orig_mod.`: transformers would initialize such weights randomly."""
    plain = trained(DistillationTrainer(make_student(), make_args(tmp_path, max_steps=2), train_dataset=toy_rows))
    compiled = torch.compile(make_student(), backend="eager")
    trainer = DistillationTrainer(compiled, make_args(tmp_path, max_steps=2, ema_decay=0.9), train_dataset=toy_rows)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = DeiTForImageClassificationWithTeacher.from_pretrained(tmp_path / "saved").state_dict()
    assert set(loaded) == set(plain)
    for name, tensor in plain.items():
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=1e-6)
    assert set(trainer.ema.model.state_dict()) == set(plain)


@pytest.mark.parametrize("way", ["another", "compiled"])
def test_model_that_is_assigned_is_the_one_that_is_trained_and_saved(tmp_path, make_student, toy_rows, way):
    expected = trained(DistillationTrainer(make_student(), make_args(tmp_path, max_steps=2), train_dataset=toy_rows))
    first = make_student()
    trainer = DistillationTrainer(first, make_args(tmp_path, max_steps=2), train_dataset=toy_rows)
    if way == "another":
        nn.init.zeros_(first.cls_classifier.weight)
        trainer.model = make_student()
    else:
        trainer.model = torch.compile(first, backend="eager")
    weights = trained(trainer)
    assert set(weights) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-6)


def test_later_student_of_other_classes_is_refused(tmp_path, make_student, tiny_config, toy_rows):
    trainer = DistillationTrainer(make_student(), make_args(tmp_path), train_dataset=toy_rows)
    other = DeiTConfig(**{**tiny_config.to_diff_dict(), "num_labels": 3})
    trainer.model = DeiTForImageClassificationWithTeacher(other)
    with pytest.raises(ValueError, match="the model has 3 classes, but the trainer was created for one with 5"):
        trainer.train()


def test_student_that_is_no_model_of_transformers_is_refused(tmp_path, toy_rows):
    with pytest.raises(TypeError, match="`model` is a Linear, but must be an image classifier of transformers"):
        DistillationTrainer(nn.Linear(3, 3), make_args(tmp_path), train_dataset=toy_rows)


# ---- a custom loss ----


class OwnLoss(DistillationTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


@pytest.mark.parametrize("options", [{}, {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "label_smoothing": 0.0}])
def test_subclass_may_call_the_model_with_all_inputs(tmp_path, make_student, toy_rows, options):
    """Without a teacher, the model's own loss of the targets equals the recipe's objective."""
    options = {"max_steps": 2, "repeated_augmentation": 1, **options}
    ours = DistillationTrainer(make_student(), make_args(tmp_path, **options), train_dataset=toy_rows)
    own = OwnLoss(make_student(), make_args(tmp_path, **options), train_dataset=toy_rows)
    weights = trained(ours)
    for name, tensor in trained(own).items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=1e-6)
    assert own.effective_recipe["objective"] == "that of OwnLoss.compute_loss"
    assert ours.effective_recipe["objective"].startswith("cross entropy of the labels")


def test_batches_of_other_students_hold_class_indices_where_nothing_is_mixed(tmp_path, toy_rows):
    """Models of transformers expect class indices; they would treat targets as multi-label ones."""
    options = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "label_smoothing": 0.0, "max_steps": 1}
    kinds = []

    class Seeing(DistillationTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            kinds.append((set(inputs), inputs["labels"].dtype, inputs["labels"].ndim))
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    processor = {"processing_class": make_processor(32)}
    Seeing(make_resnet(), make_args(tmp_path, **options), train_dataset=toy_rows, **processor).train()
    Seeing(make_resnet(), make_args(tmp_path, max_steps=1), train_dataset=toy_rows, **processor).train()
    names = {"pixel_values", "labels"}
    assert kinds == [(names, torch.int64, 1), (names, torch.float32, 2)]


# ---- arguments that work, or are refused by name ----


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("compute_loss_func", "`compute_loss_func` is given, .*write a subclass with its own `compute_loss"),
        ("data_collator", "`data_collator` is given, but this trainer builds its own batches of views"),
        ("preprocess_logits_for_metrics", "`preprocess_logits_for_metrics` is given without a `compute_metrics`"),
    ],
)
def test_arguments_without_effect_are_refused_by_name(tmp_path, make_student, argument, message):
    with pytest.raises(ValueError, match=message):
        DistillationTrainer(make_student(), make_args(tmp_path), **{argument: lambda *_: None})


def test_class_of_an_optimizer_steps_with_its_options(tmp_path, make_student, toy_rows):
    own = (torch.optim.SGD, {"lr": 0.05, "momentum": 0.5})
    by_class = DistillationTrainer(
        make_student(), make_args(tmp_path, max_steps=3), train_dataset=toy_rows, optimizer_cls_and_kwargs=own
    )
    student = make_student()
    decaying = set(by_class.get_decay_parameter_names(student))
    groups = [
        {"params": [p for n, p in student.named_parameters() if n in decaying], "weight_decay": 0.05},
        {"params": [p for n, p in student.named_parameters() if n not in decaying], "weight_decay": 0.0},
    ]
    given = torch.optim.SGD(groups, lr=0.05, momentum=0.5)
    by_object = DistillationTrainer(
        student, make_args(tmp_path, max_steps=3), train_dataset=toy_rows, optimizers=(given, None)
    )
    assert same(trained(by_class), trained(by_object))
    for trainer in (by_class, by_object):
        assert trainer.effective_recipe["optimizer"] == "a given SGD, weight decay 0.05 and 0, no clipping"
        assert trainer.effective_recipe["learning rate"].startswith("0.05 at its peak; cosine to 1e-05")


@pytest.mark.parametrize("options", [{"layer_decay": 0.8}, {"timm_optimizer": "sgd"}, {"optim": "sgd"}])
def test_class_of_an_optimizer_beside_options_of_another_is_refused(tmp_path, make_student, options):
    own = (torch.optim.SGD, {"lr": 0.05})
    with pytest.raises(ValueError, match=f"`optimizer_cls_and_kwargs` has its own optimizer, .*`{[*options][0]}`"):
        DistillationTrainer(make_student(), make_args(tmp_path, **options), optimizer_cls_and_kwargs=own)


def test_optimizer_without_weight_decay_is_recorded_as_that(tmp_path, make_student, toy_rows):
    student = make_student()
    given = torch.optim.Rprop(student.parameters(), lr=1e-3)
    trainer = DistillationTrainer(
        student, make_args(tmp_path, max_steps=1), train_dataset=toy_rows, optimizers=(given, None)
    )
    trainer.train()
    assert trainer.effective_recipe["optimizer"] == "a given Rprop, weight decay 0, no clipping"


def test_rates_of_a_given_schedule_are_recorded_as_they_were(tmp_path, make_student, toy_rows):
    student = make_student()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    trainer = DistillationTrainer(
        student, make_args(tmp_path, max_steps=3), train_dataset=toy_rows, optimizers=(optimizer, schedule)
    )
    trainer.train()
    assert trainer.effective_recipe["learning rate"] == "0.1 at the start; a given schedule (StepLR)"
    assert trainer.effective_recipe["rates reached"] == "0.1 in step 1, 0.025 in step 3"


def test_recorded_rates_end_where_a_training_was_stopped(tmp_path, make_student, toy_rows):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 2

    args = make_args(tmp_path, max_steps=4, min_learning_rate=0.0)
    trainer = DistillationTrainer(make_student(), args, train_dataset=toy_rows, callbacks=[Stop()])
    trainer.train()
    # a cosine of four steps: its learning rates at the start and after a quarter
    assert trainer.effective_recipe["rates reached"] == f"0.001 in step 1, {1e-3 * (1 + 0.5**0.5) / 2:g} in step 2"


def test_recipe_of_a_training_in_python_does_not_claim_to_repeat_it(tmp_path, make_student, toy_rows):
    trainer = DistillationTrainer(make_student(), make_args(tmp_path, max_steps=1), train_dataset=toy_rows)
    trainer.train()
    trainer.write_missing_files()
    text = (Path(trainer.args.output_dir) / "recipe.yaml").read_text()
    assert "Repeat with" not in text
    assert "Options of a training in Python" in text.splitlines()[0]
    assert "rates reached" in text


def test_teacher_that_is_not_there_cannot_be_measured(tmp_path, make_student, tiny_teacher, toy_rows):
    with pytest.raises(ValueError, match="the trainer has no `teacher`, which `evaluate_teacher` needs"):
        DistillationTrainer(make_student(), make_args(tmp_path), eval_dataset=toy_rows).evaluate_teacher()
    args = make_args(tmp_path, distillation_type="hard")
    with pytest.raises(ValueError, match="the trainer has no `eval_dataset`, which `evaluate_teacher` needs"):
        DistillationTrainer(make_student(), args, teacher=tiny_teacher).evaluate_teacher()


def test_evaluation_that_failed_leaves_nothing_in_the_next_one(tmp_path, make_student, toy_rows):
    trainer = DistillationTrainer(make_student(), make_args(tmp_path), eval_dataset=toy_rows)
    expected = trainer.evaluate()
    calls = iter(range(100))
    handle = trainer.model.register_forward_hook(lambda *_: 1 / 0 if next(calls) == 3 else None)
    with pytest.raises(ZeroDivisionError):
        trainer.evaluate()
    handle.remove()
    assert trainer.evaluate()["eval_top1_average"] == expected["eval_top1_average"]
    assert json.dumps(expected["eval_loss"]) == json.dumps(trainer.evaluate()["eval_loss"])


def test_recipe_in_the_directory_is_that_of_the_last_training(tmp_path, make_student, toy_rows):
    """Fails if the recipe of an earlier trainer is pushed to the Hub with the model of a later one."""
    for temperature in (2.0, 4.0):
        args = make_args(tmp_path, max_steps=1, distillation_temperature=temperature)
        trainer = DistillationTrainer(make_student(), args, train_dataset=toy_rows)
        trainer.train()
        trainer.write_missing_files()
        assert f"distillation_temperature: {temperature}" in (tmp_path / "run" / "recipe.yaml").read_text()
    DistillationTrainer(make_student(), make_args(tmp_path)).write_missing_files()  # this trainer has not trained
    assert "distillation_temperature: 4.0" in (tmp_path / "run" / "recipe.yaml").read_text()


def test_optimizer_that_is_assigned_is_the_one_that_steps_and_is_recorded(tmp_path, make_student, toy_rows):
    trainer = DistillationTrainer(make_student(), make_args(tmp_path, max_steps=1), train_dataset=toy_rows)
    trainer.train()
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.25)
    trainer.train()
    assert isinstance(trainer.optimizer.optimizer, torch.optim.SGD)
    assert trainer.effective_recipe["optimizer"].startswith("a given SGD")
    trainer.train()  # the given optimizer is used again
    assert trainer.effective_recipe["optimizer"].startswith("a given SGD")


def test_images_have_the_type_of_weights_that_deepspeed_holds_in_half_precision(tmp_path, toy_rows):
    model = make_resnet()
    trainer = DistillationTrainer(
        model, make_args(tmp_path), eval_dataset=toy_rows, processing_class=make_processor(32)
    )
    batch = next(iter(trainer.get_eval_dataloader()))
    expected = trainer.prediction_step(model, batch, False)[0]
    model.bfloat16()
    trainer.is_deepspeed_enabled = True
    loss = trainer.prediction_step(model, batch, False)[0]
    assert loss.float() == pytest.approx(expected.item(), rel=0.05)


def test_loaders_with_workers_draw_nothing_from_the_global_random_state(tmp_path, make_student, toy_rows):
    """Fails if a resumed run, which starts persistent workers more often, has other random numbers in the model."""
    args = make_args(tmp_path, dataloader_num_workers=1)
    trainer = DistillationTrainer(make_student(), args, train_dataset=toy_rows, eval_dataset=toy_rows)
    before = torch.get_rng_state()
    for loader in (
        trainer.get_train_dataloader(),
        trainer.get_eval_dataloader(),
        trainer.get_test_dataloader(toy_rows),
    ):
        next(iter(loader))
    assert torch.equal(torch.get_rng_state(), before)
