"""The trainer: what one step changes, and that the result does not depend on how the batch is split."""

import json
from functools import partial
from inspect import isfunction
from pathlib import Path

import datasets
import pytest
import timm.optim
import torch
import transformers
from support.trainers import make_args, make_trainer, parameters_of
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from deit_hf import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DistillationTrainer,
    Teacher,
    hard_distillation_loss,
    soft_distillation_loss,
)
from deit_hf.data.mixing import mix_targets
from deit_hf.model.image_processing_deit import make_processor
from deit_hf.training.optimizer import train_only


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_objective_of_a_batch_follows_from_losses_and_targets(
    tmp_path, tiny_config, tiny_teacher, toy_rows, kind: str
):
    options = {"distillation_type": kind, "distillation_weight": 0.3, "distillation_temperature": 2.0}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher, **options)
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model.train(), dict(batch))

    pixel_values = trainer._views.pixel_values(batch)
    outputs, teacher_logits = trainer.model(pixel_values), tiny_teacher(pixel_values)
    targets = mix_targets(batch["labels"], batch["mix_ratios"], num_classes=5, smoothing=0.1)
    cls_loss = F.cross_entropy(outputs.cls_logits, targets)
    distillation_loss = (
        hard_distillation_loss(outputs.distillation_logits, teacher_logits)
        if kind == "hard"
        else soft_distillation_loss(outputs.distillation_logits, teacher_logits, temperature=2.0)
    )
    torch.testing.assert_close(loss, 0.7 * cls_loss + 0.3 * distillation_loss, rtol=0, atol=1e-6)


def test_total_flos_are_counted(tmp_path, tiny_config, toy_rows):
    """`Trainer` counts 6 operations for each parameter and input value."""
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, max_steps=2)
    trainer.train()
    num_values = 2 * trainer.args.train_batch_size * 3 * 32 * 32
    assert trainer.state.total_flos == 6 * num_values * trainer.model.num_parameters(exclude_embeddings=True)


def test_recipe_of_deit_iii_reaches_views_and_objective_but_not_the_evaluation_loss(tmp_path, tiny_config, toy_rows):
    # if one of these options were dropped on the way, the paper's loss or view would be used
    options = {"label_loss": "binary_cross_entropy", "label_smoothing": 0.0, "random_augment": "3-augment"}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, crop_mode="simple", **options)
    used = [step for step in trainer.train_dataset.view.steps if not isfunction(step)]
    steps = [step.func.__name__ if isinstance(step, partial) else type(step).__name__ for step in used]
    assert steps == ["Resize", "RandomCrop", "random_flip", "RandomChoice", "ColorJitter"]

    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model.eval(), dict(batch))
    outputs = trainer.model(trainer._views.pixel_values(batch))
    present = (mix_targets(batch["labels"], batch["mix_ratios"], num_classes=5, smoothing=0.0) > 0).float()
    heads = outputs.cls_logits, outputs.distillation_logits
    expected = sum(F.binary_cross_entropy_with_logits(head, present) for head in heads) / 2
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-6)

    batch = {"pixel_values": trainer._views.pixel_values(batch), "labels": batch["labels"]}
    loss, _, _ = trainer.prediction_step(trainer.model, batch, prediction_loss_only=True)
    torch.testing.assert_close(loss, F.cross_entropy(outputs.logits, batch["labels"]), rtol=0, atol=1e-6)


def test_training_changes_every_parameter_of_the_student_and_none_of_the_teacher(
    tmp_path, tiny_config, tiny_teacher, toy_rows
):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher, distillation_type="hard")
    student, teacher = parameters_of(trainer.model), parameters_of(tiny_teacher)
    trainer.train()
    unchanged = [name for name, tensor in parameters_of(trainer.model).items() if torch.equal(tensor, student[name])]
    # a key bias adds the same to all scores of a row, so softmax ignores it
    assert [name for name in unchanged if not name.endswith("attention.key.bias")] == []
    assert all(torch.equal(tensor, teacher[name]) for name, tensor in parameters_of(tiny_teacher).items())
    assert not any(module.training for module in tiny_teacher.modules())


def test_teacher_is_in_no_checkpoint_and_no_optimizer(tmp_path, tiny_config, tiny_teacher, toy_rows):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher, distillation_type="hard")
    trainer.train()
    trainer.save_model()
    saved = transformers.AutoModelForImageClassification.from_pretrained(trainer.args.output_dir)
    assert sum(p.numel() for p in saved.parameters()) == sum(p.numel() for p in trainer.model.parameters())
    optimized = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in trainer.model.parameters()}


def test_distillation_weight_decides_which_head_learns(tmp_path, tiny_config, tiny_teacher, toy_rows):
    heads = {}
    for weight in (0.0, 1.0):
        options = {"distillation_type": "hard", "distillation_weight": weight, "weight_decay": 0.0}
        trainer = make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher, **options)
        before = parameters_of(trainer.model)
        trainer.train()
        after = parameters_of(trainer.model)
        names = ("cls_classifier.weight", "distillation_classifier.weight")
        heads[weight] = [not torch.equal(before[name], after[name]) for name in names]
    assert heads == {0.0: [True, False], 1.0: [False, True]}


@pytest.mark.parametrize("distilled", [True, False])
def test_eight_small_batches_accumulate_to_one_big_one(tmp_path, tiny_config, tiny_teacher, toy_rows, distilled: bool):
    results = []
    for batch_size, accumulation in ((16, 1), (2, 8)):
        options = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        teacher = tiny_teacher if distilled else None
        options["distillation_type"] = "hard" if distilled else "none"
        trainer = make_trainer(tmp_path, tiny_config, toy_rows, teacher, optim="sgd", max_steps=2, **options)
        trainer.train()
        results.append((parameters_of(trainer.model), [log["loss"] for log in trainer.state.log_history[:-1]]))
    (big, big_losses), (small, small_losses) = results
    assert small_losses == pytest.approx(big_losses, abs=1e-5)
    for name, tensor in big.items():
        torch.testing.assert_close(small[name], tensor, rtol=0, atol=1e-6)


def test_accumulation_divides_the_loss_of_a_model_that_takes_any_argument(tmp_path, toy_rows):
    # transformers' own DeiT has **kwargs in `forward`; `Trainer` then leaves the division to the loss
    sizes = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40, "num_hidden_layers": 1}
    config = transformers.DeiTConfig(image_size=32, patch_size=8, num_labels=5, **sizes)
    weights = []
    for batch_size, accumulation in ((16, 1), (4, 4)):
        torch.manual_seed(0)
        student = transformers.DeiTForImageClassificationWithTeacher(config)
        options = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        args = make_args(tmp_path, optim="sgd", learning_rate=0.1, max_steps=1, **options)
        DistillationTrainer(student, args, train_dataset=toy_rows).train()
        weights.append(student.cls_classifier.weight.detach().clone())
    torch.testing.assert_close(*weights, rtol=0, atol=1e-6)


def test_mixed_targets_never_reach_the_models_own_loss(tmp_path, tiny_config, toy_rows):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows)
    seen = []
    trainer.model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(set(kwargs)), with_kwargs=True)
    trainer.train()
    trainer.save_model()
    assert set().union(*seen) == {"pixel_values"}
    config = json.loads((Path(trainer.args.output_dir) / "config.json").read_text())
    assert config["problem_type"] == "single_label_classification"


def test_log_reports_terms_that_add_up_to_the_loss(tmp_path, tiny_config, tiny_teacher, toy_rows):
    options = {"distillation_type": "soft", "distillation_weight": 0.3, "logging_steps": 2}
    options |= {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher, **options)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 2
    for log in logs:
        assert log["loss"] == pytest.approx(0.7 * log["loss_cls"] + 0.3 * log["loss_distillation"], abs=1e-5)
        assert 0 <= log["teacher_agreement"] <= 1


def test_agreement_is_one_when_the_student_teaches_itself(tmp_path, tiny_config, toy_rows):
    class DistillationHead(nn.Module):
        def __init__(self, model: nn.Module):
            super().__init__()
            self.model = model

        def forward(self, pixel_values: Tensor) -> Tensor:
            return self.model(pixel_values).distillation_logits

    torch.manual_seed(0)
    twin = DeiTForImageClassificationWithTeacher(tiny_config)
    teacher = Teacher(DistillationHead(twin), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), image_size=32)
    options = {"distillation_type": "soft", "learning_rate": 0.0}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, teacher, **options)
    trainer.train()
    assert trainer.state.log_history[0]["teacher_agreement"] == 1.0
    assert trainer.state.log_history[0]["loss_distillation"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("batch_size", [3, 7, 64])
def test_evaluation_counts_every_image_once_for_each_head(tmp_path, tiny_config, toy_rows, batch_size: int):
    rows = toy_rows.select(range(23))
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, per_device_eval_batch_size=batch_size)
    for parameter in trainer.model.parameters():
        nn.init.normal_(parameter, std=0.5)  # so that predictions differ between images and heads
    metrics = trainer.evaluate(rows)
    processor = make_processor(32)
    pixels = torch.cat([processor(image, return_tensors="pt")["pixel_values"] for image in rows["image"]])
    with torch.no_grad():
        outputs = trainer.model.eval()(pixels)
    labels = torch.tensor(rows["label"])
    for head, logits in (
        ("cls", outputs.cls_logits),
        ("distillation", outputs.distillation_logits),
        ("average", (outputs.cls_logits + outputs.distillation_logits) / 2),
    ):
        expected = (logits.argmax(dim=-1) == labels).double().mean().item()
        assert metrics[f"eval_top1_{head}"] == pytest.approx(expected, abs=1e-9)
        assert metrics[f"eval_top5_{head}"] == 1.0  # of five classes
    assert metrics["eval_top1_cls"] != metrics["eval_top1_distillation"]
    assert metrics["eval_loss"] == pytest.approx(F.cross_entropy(outputs.logits, labels).item(), rel=1e-5)


def test_fusion_by_softmaxes_changes_the_answer_and_no_head(tmp_path, tiny_config, toy_rows):
    models = []
    for fusion in ("logit_mean", "softmax_sum"):
        torch.manual_seed(0)
        trainer = make_trainer(tmp_path, tiny_config, toy_rows, fusion=fusion)
        for parameter in trainer.model.parameters():
            nn.init.normal_(parameter, std=0.5)
        models.append((trainer.predict(toy_rows).predictions, trainer.evaluate(toy_rows)))
    ((_, cls, distillation), by_logits), ((fused, *heads), by_softmax) = models
    assert (heads[0] == cls).all()
    assert (heads[1] == distillation).all()
    probabilities = (torch.tensor(cls).softmax(dim=-1) + torch.tensor(distillation).softmax(dim=-1)) / 2
    assert fused == pytest.approx(probabilities.log().numpy(), abs=1e-5)
    labels = torch.tensor(toy_rows["label"])
    right = probabilities.argmax(dim=-1) == labels
    assert by_softmax["eval_top1_average"] == pytest.approx(right.double().mean().item(), abs=1e-9)
    assert by_softmax["eval_loss"] == pytest.approx(F.nll_loss(probabilities.log(), labels).item(), rel=1e-5)
    assert by_softmax["eval_top1_average"] != by_logits["eval_top1_average"]  # the option has an effect


def test_evaluation_takes_rows_with_several_right_labels(tmp_path, tiny_config, toy_rows):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, per_device_eval_batch_size=7)
    logits = torch.tensor(trainer.predict(toy_rows).predictions[0])
    right = [[label, (label + 1) % 5][: 1 + row % 2] for row, label in enumerate(toy_rows["label"])]
    feature = datasets.List(datasets.Value("int64"))
    rows = toy_rows.remove_columns("label").add_column("label", right, feature=feature)
    expected = [answer in labels for answer, labels in zip(logits.argmax(dim=-1).tolist(), right, strict=True)]
    metrics = trainer.evaluate(rows)
    assert metrics["eval_top1_average"] == pytest.approx(sum(expected) / 40, abs=1e-9)
    probabilities = logits.softmax(dim=-1)
    losses = [-probabilities[row, labels].sum().log().item() for row, labels in enumerate(right)]
    assert metrics["eval_loss"] == pytest.approx(sum(losses) / 40, rel=1e-5)


def test_predict_gives_the_logits_of_all_heads(tmp_path, tiny_config, toy_rows):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows)
    average, cls, distillation = trainer.predict(toy_rows).predictions
    assert average == pytest.approx((cls + distillation) / 2, abs=1e-6)
    assert len(average) == 40


@pytest.mark.parametrize("model_class", [DeiTForImageClassification, ResNetForImageClassification])
def test_a_model_with_one_head_learns_from_labels_and_teacher(
    tmp_path, tiny_config, tiny_teacher, toy_rows, model_class
):
    if model_class is ResNetForImageClassification:
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=5, layer_type="basic")
    else:
        config = tiny_config
        config.use_distillation_token = False
    student = model_class(config)
    before = parameters_of(student)
    args = make_args(tmp_path, distillation_type="hard", distillation_weight=0.5)
    rows = {"train_dataset": toy_rows, "eval_dataset": toy_rows}
    trainer = DistillationTrainer(student, args, teacher=tiny_teacher, processing_class=make_processor(32), **rows)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["loss"] == pytest.approx(0.5 * log["loss_cls"] + 0.5 * log["loss_distillation"], abs=1e-5)
    head = [name for name in before if name.startswith("classifier") and name.endswith("weight")][0]
    assert not torch.equal(before[head], parameters_of(student)[head])
    assert {"eval_top1", "eval_top5"} <= set(trainer.evaluate())


def test_tokens_and_positions_do_not_decay_in_the_optimizer(tmp_path, tiny_config, toy_rows):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows)
    optimizer = trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    decays = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays["deit.embeddings.distillation_token"] == 0
    assert decays["deit.embeddings.position_embeddings"] == 0
    assert decays["deit.encoder.layer.0.layernorm_before.weight"] == 0
    assert decays["distillation_classifier.weight"] == 0.05
    assert set(decays) == set(names.values())


def test_frozen_parts_stay_as_they_are_with_their_batch_statistics(tmp_path, tiny_teacher, toy_rows):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=5, layer_type="basic")
    student = ResNetForImageClassification(config)
    before = parameters_of(student)
    args = make_args(tmp_path, train_only="classifier")
    DistillationTrainer(student, args, train_dataset=toy_rows, processing_class=make_processor(32)).train()
    changed = {name for name, tensor in parameters_of(student).items() if not torch.equal(tensor, before[name])}
    assert changed == {"classifier.1.weight", "classifier.1.bias"}


def test_stochastic_depth_of_half_trained_layers_stays_on(tiny_student):
    train_only(tiny_student, "attention")
    tiny_student.train()(torch.zeros(1, 3, 32, 32))
    layer = tiny_student.deit.encoder.layer[0]
    assert layer.drop_path.training
    assert not layer.intermediate.training


def test_student_in_eval_mode_learns_without_stochastic_depth(tmp_path, tiny_config, toy_rows):
    # as in the official fine-tuning at 384 pixels; `Trainer` sets training mode again at each step
    trained, modes = {}, set()
    for drop_path in (0.0, 0.9):
        trainer = make_trainer(tmp_path, tiny_config, toy_rows, student_mode="eval", weight_decay=0.0)
        for layer in trainer.model.deit.encoder.layer:
            layer.drop_path.p = drop_path
        trainer.model.register_forward_hook(lambda model, *_: modes.add(model.training))
        before = parameters_of(trainer.model)
        trainer.train()
        trained[drop_path] = parameters_of(trainer.model)
    assert modes == {False}
    assert all(torch.equal(tensor, trained[0.9][name]) for name, tensor in trained[0.0].items())
    unchanged = [name for name in before if torch.equal(before[name], trained[0.9][name])]
    assert [name for name in unchanged if not name.endswith("attention.key.bias")] == []


@pytest.mark.parametrize("student_mode", ["train", "eval"])
def test_batch_statistics_move_only_in_training_mode(tmp_path, toy_rows, student_mode: str):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=5, layer_type="basic")
    student = ResNetForImageClassification(config)
    before = parameters_of(student)
    args = make_args(tmp_path, student_mode=student_mode, max_steps=2)
    DistillationTrainer(student, args, train_dataset=toy_rows, processing_class=make_processor(32)).train()
    changed = {name for name, tensor in parameters_of(student).items() if not torch.equal(tensor, before[name])}
    assert any("running_mean" in name for name in changed) == (student_mode == "train")
    assert "classifier.1.weight" in changed


def test_pattern_that_trains_nothing_is_refused(tmp_path, tiny_config, toy_rows):
    with pytest.raises(ValueError, match="`train_only` 'nothing' matches no parameter; the model has"):
        make_trainer(tmp_path, tiny_config, toy_rows, train_only="nothing")


def test_learning_rate_warms_up_and_ends_at_the_minimum(tmp_path, tiny_config, toy_rows):
    options = {"num_train_epochs": 4, "warmup_epochs": 1, "learning_rate": 1e-3, "min_learning_rate": 1e-4}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, **options)  # five steps per epoch
    trainer.train()
    rates = [log["learning_rate"] for log in trainer.state.log_history if "learning_rate" in log]
    assert rates[0] == pytest.approx(1e-6)
    assert max(rates) == rates[5] == pytest.approx(1e-3)
    assert trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(1e-4)


def logged_rates(trainer: DistillationTrainer) -> list[float]:
    return [log["learning_rate"] for log in trainer.state.log_history if "learning_rate" in log]


def test_official_stepping_moves_the_rate_once_an_epoch_one_epoch_late(tmp_path, tiny_config, toy_rows):
    options = {"num_train_epochs": 4, "warmup_epochs": 2, "learning_rate_stepping": "official", "layer_decay": 0.5}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, **options)  # five steps per epoch
    trainer.train()
    cosine = 1e-5 + (1e-3 - 1e-5) * (1 + 0) / 2  # at epoch 2 of 4
    expected = [1e-6, 1e-6, (1e-6 + 1e-3) / 2, cosine]  # learning rates of the heads, which are logged
    assert logged_rates(trainer) == pytest.approx([rate for rate in expected for _ in range(5)], rel=1e-9)


def test_optimizer_is_fused_adamw_with_torchs_moments_unless_told(tmp_path, tiny_config, toy_rows):
    optimizer = make_trainer(tmp_path, tiny_config, toy_rows).create_optimizer()
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["fused"]
    assert (optimizer.defaults["betas"], optimizer.defaults["eps"]) == ((0.9, 0.999), 1e-8)


@pytest.mark.parametrize(
    ("options", "optimizer_class"),
    [({}, torch.optim.AdamW), ({"optim": "sgd"}, torch.optim.SGD), ({"timm_optimizer": "lamb"}, timm.optim.Lamb)],
)
def test_layer_decay_reaches_every_optimizer(tmp_path, tiny_config, toy_rows, options: dict, optimizer_class: type):
    options = {"layer_decay": 0.5, "adam_epsilon": 1e-7, **options}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, **options)
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is optimizer_class
    assert optimizer.defaults.get("eps", 1e-7) == 1e-7
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert set(rates) == set(names.values())
    assert rates["distillation_classifier.bias"] == pytest.approx(1e-3)
    assert rates["deit.encoder.layer.2.output.dense.weight"] == pytest.approx(5e-4)
    assert rates["deit.embeddings.position_embeddings"] == pytest.approx(1e-3 / 16)


@pytest.mark.parametrize(
    "options",
    [
        {"timm_optimizer": "sgd", "learning_rate": 0.1},
        {"timm_optimizer": "lamb", "layer_decay": 0.7, "learning_rate_stepping": "official", "warmup_epochs": 1},
    ],
)
def test_training_with_an_optimizer_of_timm_resumes_bit_equal(tmp_path, tiny_config, toy_rows, options: dict):
    # five steps per epoch: step 7 is within an epoch, where momentum and trust ratios must be restored
    options = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 7, **options}
    whole = make_trainer(tmp_path, tiny_config, toy_rows, **options)
    before = parameters_of(whole.model)
    whole.train()
    resumed = make_trainer(tmp_path, tiny_config, toy_rows, **options)
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-7")
    expected = parameters_of(whole.model)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in parameters_of(resumed.model).items())
    assert logged_rates(resumed) == logged_rates(whole)
    assert not torch.equal(expected["cls_classifier.weight"], before["cls_classifier.weight"])


@pytest.mark.parametrize("base_learning_rate", [5e-4, None])
def test_base_size_from_scratch_warns_of_another_batch_once(tmp_path, toy_rows, caplog, base_learning_rate):
    sizes = {"image_size": 32, "patch_size": 16, "num_hidden_layers": 1, "intermediate_size": 8, "num_labels": 5}
    student = DeiTForImageClassification(DeiTConfig.from_variant("deit_base_patch16_224", **sizes))
    rate = {"learning_rate": None if base_learning_rate else 1e-3, "base_learning_rate": base_learning_rate}
    args = make_args(tmp_path, max_steps=1, gradient_accumulation_steps=2, **rate)
    DistillationTrainer(student, args, eval_dataset=toy_rows)  # an evaluation has no global batch to warn about
    assert "global batch" not in caplog.text
    DistillationTrainer(student, args, train_dataset=toy_rows).train()
    assert caplog.text.count("the global batch is 16 images") == (1 if base_learning_rate else 0)
    assert ("set `gradient_accumulation_steps` to 128" in caplog.text) == (base_learning_rate is not None)


def test_loaded_weights_are_known_as_a_fine_tuning(tmp_path, tiny_student):
    # the warning about the global batch depends on this
    assert not tiny_student.config.name_or_path
    tiny_student.save_pretrained(tmp_path)
    assert DeiTForImageClassificationWithTeacher.from_pretrained(tmp_path).config.name_or_path == str(tmp_path)


@pytest.mark.parametrize("stop_at", [3, 5, 7])
def test_resumed_training_ends_bit_equal(tmp_path, tiny_config, tiny_teacher, toy_rows, stop_at: int):
    # five steps per epoch: stops within the first epoch, at its end, and within the second
    options = {"num_train_epochs": 2, "distillation_type": "hard", "save_strategy": "steps", "save_steps": stop_at}
    whole = make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher, **options)
    whole.model.deit.encoder.layer[1].drop_path.p = 0.5  # draws random numbers within the step
    whole.train()
    resumed = make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher, **options)
    resumed.model.deit.encoder.layer[1].drop_path.p = 0.5
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-{stop_at}")
    expected = parameters_of(whole.model)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in parameters_of(resumed.model).items())


def test_saved_run_gives_the_same_answers_in_plain_transformers(tmp_path, tiny_config, toy_rows, toy_images):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows)
    trainer.save_model()
    plain = transformers.AutoModelForImageClassification.from_pretrained(trainer.args.output_dir)
    torch.testing.assert_close(plain(toy_images).logits, trainer.model.eval()(toy_images).logits, rtol=0, atol=1e-5)
    processor = transformers.AutoImageProcessor.from_pretrained(trainer.args.output_dir)
    assert processor.image_mean == pytest.approx([0.485, 0.456, 0.406])
    assert processor.crop_size["height"] == 32


def test_unreachable_hub_ends_no_training_and_says_how_to_retry(tmp_path, tiny_config, toy_rows, caplog, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    options = {"push_to_hub": True, "hub_model_id": "user/name", "hub_token": "hf_secret"}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, **options)
    trainer.train()
    assert trainer.push_to_hub() is None  # tests run offline
    assert "deit-hf push" in caplog.text
    assert "hf_secret" not in caplog.text
    files = {path.name for path in Path(trainer.args.output_dir).iterdir()}
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "recipe.yaml", "README.md"} <= files
    assert "hf_secret" not in (Path(trainer.args.output_dir) / "recipe.yaml").read_text()


class TestRefusedAtConstruction:
    """Arguments that do not fit are refused before the first step; the message names both of them."""

    def test_distillation_without_teacher(self, tmp_path, tiny_config, toy_rows):
        with pytest.raises(ValueError, match="`distillation_type` is 'hard' but there is no teacher"):
            make_trainer(tmp_path, tiny_config, toy_rows, distillation_type="hard")

    def test_teacher_without_distillation(self, tmp_path, tiny_config, tiny_teacher, toy_rows):
        with pytest.raises(ValueError, match="there is a teacher but `distillation_type` is 'none'"):
            make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher)

    def test_teacher_that_is_a_bare_module(self, tmp_path, tiny_config, tiny_teacher, toy_rows):
        with pytest.raises(TypeError, match="`teacher` is a TinyConvNet, but must be a deit_hf.Teacher"):
            make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher.module, distillation_type="hard")

    def test_teacher_of_other_classes(self, tmp_path, tiny_config, tiny_teacher, toy_rows):
        tiny_config.num_labels = 6
        with pytest.raises(ValueError, match="the student has 6 classes but teacher `teacher` has 5"):
            make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher, distillation_type="hard")

    def test_teacher_told_of_other_pixels(self, tmp_path, tiny_config, tiny_teacher, toy_rows):
        teacher = Teacher(tiny_teacher.module, mean=(0.5,) * 3, std=(0.5,) * 3, student_mean=(0.5,) * 3, image_size=32)
        with pytest.raises(ValueError, match="but the teacher was created for"):
            make_trainer(tmp_path, tiny_config, toy_rows, teacher, distillation_type="hard")

    def test_labels_beyond_the_students_classes(self, tmp_path, tiny_config, toy_rows):
        tiny_config.num_labels = 4
        with pytest.raises(
            ValueError,
            match=r"the training data has 5 classes \(a, b, c, d, ...\) but the model has 4, and they cannot",
        ):
            make_trainer(tmp_path, tiny_config, toy_rows)

    def test_processor_of_another_size(self, tmp_path, tiny_config, toy_rows):
        student, args = DeiTForImageClassificationWithTeacher(tiny_config), make_args(tmp_path)
        with pytest.raises(ValueError, match="gives 48x48 pixels but the model expects 32"):
            DistillationTrainer(student, args, train_dataset=toy_rows, processing_class=make_processor(48))

    def test_model_that_does_not_say_its_size(self, tmp_path, toy_rows):
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=5)
        with pytest.raises(ValueError, match="configuration of the ResNetForImageClassification has no `image_size`"):
            DistillationTrainer(ResNetForImageClassification(config), make_args(tmp_path), train_dataset=toy_rows)

    def test_layer_decay_of_a_model_without_known_layers(self, tmp_path, toy_rows):
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=5)
        model, args = ResNetForImageClassification(config), make_args(tmp_path, layer_decay=0.8)
        with pytest.raises(ValueError, match="`layer_decay` needs the layers of a DeiT or ViT, but `resnet"):
            DistillationTrainer(model, args, train_dataset=toy_rows, processing_class=make_processor(32))

    @pytest.mark.parametrize("options", [{"layer_decay": 0.8}, {"timm_optimizer": "sgd"}])
    def test_options_that_an_optimizer_of_ones_own_would_ignore(self, tmp_path, tiny_student, toy_rows, options):
        optimizer = torch.optim.SGD(tiny_student.parameters(), lr=0.1)
        args = make_args(tmp_path, **options)
        with pytest.raises(ValueError, match=f"`optimizers` has its own optimizer, so `{[*options][0]}`"):
            DistillationTrainer(tiny_student, args, train_dataset=toy_rows, optimizers=(optimizer, None))

    def test_plain_training_arguments(self, tiny_student, tmp_path):
        with pytest.raises(TypeError, match="`args` is a TrainingArguments, but must be DistillationArguments"):
            DistillationTrainer(tiny_student, transformers.TrainingArguments(str(tmp_path)))  # type: ignore[arg-type]
