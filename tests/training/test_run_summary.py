"""The effective recipe is logged before the first step, is correct, and is saved with the run."""

import logging
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from support.trainers import make_args

from deit_hf import DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher, DistillationTrainer
from deit_hf.data.dataset import EvaluationViews, ImageDataset
from deit_hf.data.transforms import evaluation_view
from deit_hf.evaluation.accuracy_text import percent
from deit_hf.evaluation.intervals import wilson_interval
from deit_hf.model.image_processing_deit import make_processor


@pytest.fixture
def trainer(tmp_path: Path, tiny_config: DeiTConfig, tiny_teacher, toy_rows: datasets.Dataset) -> DistillationTrainer:
    """A trainer on 40 images with 16 views per step: two steps and eleven images per epoch."""
    args = make_args(
        tmp_path,
        num_train_epochs=3,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        learning_rate=None,
        base_learning_rate=6.4e-2,
        warmup_epochs=1,
        distillation_type="soft",
        distillation_weight=0.25,
        repeated_augmentation=3,
        ema_decay=0.9,
    )
    student = DeiTForImageClassificationWithTeacher(tiny_config)
    rows = {"train_dataset": toy_rows, "eval_dataset": toy_rows}
    return DistillationTrainer(student, args, teacher=tiny_teacher, **rows)


def test_block_says_what_follows_from_options_data_and_machine(trainer: DistillationTrainer, caplog):
    with caplog.at_level(logging.INFO, "deit_hf"):
        trainer.train()
    said = trainer.effective_recipe
    parameters = sum(p.numel() for p in trainer.model.parameters())
    assert said["student"] == (
        f"DeiTForImageClassificationWithTeacher, {parameters:,} parameters, 32 pixels, 5 classes, stochastic depth 0.1"
    )
    assert said["objective"] == (
        "0.75 x cross entropy of the labels (smoothing 0.1) + 0.25 x soft distillation on the distillation head, "
        "temperature 3, batchmean"
    )
    assert said["global batch"] == "16 = 8 x 2 accumulation steps"
    assert said["images"] == "32 views per epoch, of 11 of the 40 images, each up to 3 times (repeated augmentation)"
    assert said["steps"] == "6 in 3 epochs of 2"
    assert said["learning rate"].startswith("0.064 per 512 images, 0.002 at its peak; cosine to 1e-05")
    assert said["warm-up"] == "2 steps from 1e-06"
    assert said["learning rate"].endswith("1e-06 in the first step, 0.000301 in the last")  # 3/4 of the cosine
    assert "crop of 0.08 to 1 of the area (unlike the official code up to 32 pixels" in said["views"]
    assert said["optimizer"].startswith("adamw_torch_fused, weight decay 0.05")
    assert said["precision"] == "float32"
    assert said["averaged weights"] == "decay 0.9 with warm-up"
    assert said["evaluation"] == ("short side resized to 32 pixels (bicubic), centre crop of 32x32; fusion logit_mean")
    (block,) = [record.getMessage() for record in caplog.records if "effective recipe" in record.getMessage()]
    assert all(value in block for name, value in said.items() if name != "rates reached")  # known only at the end


def test_teacher_is_measured_on_the_evaluation_views(trainer: DistillationTrainer, toy_rows: datasets.Dataset):
    """Fails if the teacher is measured on other images, or if some count twice (40 images, batches of 7)."""
    trainer.args.per_device_eval_batch_size = 7
    images = ImageDataset(toy_rows, image_column_name="image", label_column_name="label", num_classes=5)
    views = EvaluationViews(images, evaluation_view(make_processor(32)))
    trainer.teacher.module.head.bias.data.zero_()  # otherwise it predicts one class for all images
    answers = trainer.teacher(torch.stack([views[i]["pixel_values"] for i in range(40)])).argmax(dim=-1)
    assert len(answers.unique()) > 1
    expected = (answers == torch.tensor(toy_rows["label"])).float().mean().item()
    assert trainer.evaluate_teacher()["top1"] == pytest.approx(expected)
    trainer.train()
    low, high = (f"{100 * end:.1f}" for end in wilson_interval(round(40 * expected), 40))
    assert trainer.effective_recipe["teacher"] == (
        f"teacher at 32x32 pixels; top-1 on the evaluation split {percent(expected)} "
        f"(40 images, 95 % interval {low} to {high})"
    )


def test_measuring_the_teacher_changes_no_training(trainer, tmp_path, tiny_config, tiny_teacher, toy_rows):
    """Fails if the extra evaluation changes the random state of the training."""

    def train(evaluate_teacher: bool) -> dict:
        torch.manual_seed(0)
        student = DeiTForImageClassificationWithTeacher(tiny_config)
        args = make_args(
            tmp_path,
            max_steps=2,
            distillation_type="hard",
            evaluate_teacher=evaluate_teacher,
            dataloader_num_workers=1,
        )
        run = DistillationTrainer(student, args, teacher=tiny_teacher, train_dataset=toy_rows, eval_dataset=toy_rows)
        run.train()
        assert ("not measured" in run.effective_recipe["teacher"]) == (not evaluate_teacher)
        return student.state_dict()

    with_pass, without = train(True), train(False)
    assert all(torch.equal(with_pass[name], without[name]) for name in without)


def test_one_head_frozen_parts_and_eval_mode_are_said(tmp_path: Path, tiny_config: DeiTConfig, toy_rows):
    tiny_config.use_distillation_token = False
    args = make_args(
        tmp_path,
        max_steps=1,
        mixup_alpha=0,
        cutmix_alpha=0,
        train_only="classifier",
        student_mode="eval",
        timm_optimizer="sgd",
        max_grad_norm=5,
    )
    trainer = DistillationTrainer(DeiTForImageClassification(tiny_config), args, train_dataset=toy_rows)
    trainer.train()
    said = trainer.effective_recipe
    assert "125 of them trained" in said["student"]  # 24 x 5 weights and 5 biases
    assert said["student"].endswith("in eval mode")
    assert said["teacher"] == "none"
    assert said["mixing"] == "none"
    assert said["steps"] == "1, set by `max_steps`; an epoch has 5"
    assert said["optimizer"].startswith("timm's sgd")
    assert said["optimizer"].endswith("gradient clipped to norm 5")


def test_recipe_file_holds_it_as_comments_and_stays_a_recipe(
    trainer: DistillationTrainer, tmp_path: Path, monkeypatch
):
    trainer.train()
    trainer.push_to_hub()  # tests run offline, so it only writes the files and warns
    text = (Path(trainer.args.output_dir) / "recipe.yaml").read_text()
    for name, value in trainer.effective_recipe.items():
        assert f"# {name:16}  {value}\n" in text
    assert yaml.safe_load(text)["base_learning_rate"] == 6.4e-2
