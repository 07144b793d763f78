"""Labels are matched by class name between the model, training data, evaluation data and teacher of a run."""

import json
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from support.trainers import make_args
from torch import Tensor, nn
from transformers import pipeline

from deit_hf import DeiTConfig, DeiTForImageClassificationWithTeacher, DistillationTrainer, Teacher
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.training.saved_model import evaluate

CLASSES = ["cat", "dog", "emu", "fox"]  # with brightness 60, 110, 160 and 210
OPTIONS = {"per_device_train_batch_size": 16, "max_steps": 60, "logging_steps": 60, "learning_rate": 3e-3}
OPTIONS |= {"mixup_alpha": 0, "cutmix_alpha": 0, "label_smoothing": 0, "random_augment": "none", "crop_min_scale": 0.5}
OPTIONS |= {"random_erase_prob": 0, "repeated_augmentation": 1}


def image_of(name: str, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 20, (40, 40, 3))
    return (60 + 50 * CLASSES.index(name) + noise).clip(0, 255).astype(np.uint8)


def make_rows(order: list[str], num_rows: int = 32, *, only: list[str] | None = None, seed: int = 0):
    """Returns images of the classes in `only`; a label is the index of the class in `order`."""
    names = [(only or order)[row % len(only or order)] for row in range(num_rows)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=order)})
    images = [image_of(name, 1000 * seed + row) for row, name in enumerate(names)]
    return datasets.Dataset.from_dict({"image": images, "label": [order.index(n) for n in names]}, features=features)


def without_names(rows: datasets.Dataset) -> datasets.Dataset:
    return rows.cast_column("label", datasets.Value("int64"))


def make_student(names: list[str] | None) -> DeiTForImageClassificationWithTeacher:
    torch.manual_seed(0)
    labels = {"num_labels": 4} if names is None else {"num_labels": len(names), "id2label": dict(enumerate(names))}
    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = DeiTConfig.from_variant("deit_tiny_distilled_patch16_224", **sizes, intermediate_size=96, **labels)
    return DeiTForImageClassificationWithTeacher(config)


class Brightness(nn.Module):
    """A teacher that is always right, because it compares the brightness of an image with that of each class."""

    def __init__(self, names: list[str]):
        super().__init__()
        self.register_buffer("levels", torch.tensor([60.0 + 50 * CLASSES.index(name) for name in names]) / 255)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return -1000 * (pixel_values.mean(dim=(1, 2, 3))[:, None] - self.levels).square()  # (B, C)


def make_teacher(names: list[str]) -> Teacher:
    return Teacher(Brightness(names), mean=(0,) * 3, std=(1,) * 3, image_size=32, id2label=dict(enumerate(names)))


def make_trainer(tmp_path: Path, names: list[str] | None, teacher: Teacher | None = None, **parts):
    kind = "none" if teacher is None else "hard"
    args = make_args(tmp_path, distillation_type=kind, **OPTIONS)
    return DistillationTrainer(make_student(names), args, teacher=teacher, **parts)


def saved_answers(directory: Path) -> dict[str, str]:
    """Returns the predictions of plain transformers for a new image of each class."""
    classify = pipeline("image-classification", model=str(directory))
    return {name: classify(PIL.Image.fromarray(image_of(name, 9999)))[0]["label"] for name in CLASSES}


RIGHT = {name: name for name in CLASSES}


def test_a_model_in_another_order_learns_and_answers_by_name(tmp_path, caplog):
    order = ["fox", "cat", "dog", "emu"]
    parts = {"train_dataset": make_rows(CLASSES), "eval_dataset": make_rows(CLASSES, 16, seed=1)}
    trainer = make_trainer(tmp_path, order, make_teacher(["emu", "fox", "cat", "dog"]), **parts)
    assert (
        "the classes of the training data are matched to those of the model by name: "
        "'cat' is class 0 of the training data" in caplog.text
    )
    trainer.train()
    assert trainer.evaluate_teacher()["top1"] == 1
    assert trainer.state.log_history[0]["loss_distillation"] == pytest.approx(
        trainer.state.log_history[0]["loss_cls"], rel=0.5
    )  # labels and teacher give the same targets
    assert trainer.evaluate()["eval_top1_average"] == 1
    trainer.save_model()
    assert saved_answers(tmp_path / "run") == RIGHT


def test_a_model_without_names_takes_those_of_its_training_data(tmp_path, caplog):
    teacher = make_teacher(["emu", "fox", "cat", "dog"])
    trainer = make_trainer(tmp_path, None, teacher, train_dataset=make_rows(CLASSES), eval_dataset=make_rows(CLASSES))
    assert "the student has no class names: it takes those of the training data ('cat', ...)" in caplog.text
    assert trainer.evaluate_teacher()["top1"] == 1  # its classes are matched to the new names of the student
    trainer.save_model()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["id2label"] == {str(index): name for index, name in enumerate(CLASSES)}
    assert config["label2id"] == {name: index for index, name in enumerate(CLASSES)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> DistillationTrainer:
    """A trainer whose model classifies all images correctly, with classes in the order of CLASSES."""
    trainer = make_trainer(tmp_path_factory.mktemp("trained"), CLASSES, train_dataset=make_rows(CLASSES))
    trainer.train()
    trainer.save_model()
    return trainer


@pytest.mark.parametrize(
    "rows",
    [
        make_rows(["cat", "emu", "fox"], 12, seed=2),  # from `class_encode_column` on a split that lacks a class
        make_rows(["fox", "dog"], 12, seed=2),
        make_rows(CLASSES, 12, only=["dog", "fox"], seed=2),
        make_rows(CLASSES[::-1], 12, seed=2),
    ],
)
def test_evaluation_data_encoded_apart_is_measured_by_name(trained, rows):
    assert trained.evaluate(rows)["eval_top1_average"] == 1
    predictions = trained.predict(rows)
    names = rows.features["label"].names
    expected = [CLASSES.index(names[label]) for label in rows["label"]]
    assert predictions.predictions[0].argmax(axis=1).tolist() == expected


def test_each_of_several_evaluation_sets_is_measured_by_name(trained):
    parts = {"turned": make_rows(CLASSES[::-1], 8, seed=3), "part": make_rows(["fox", "dog"], 8, seed=3)}
    metrics = trained.evaluate(parts)
    assert metrics["eval_turned_top1_average"] == metrics["eval_part_top1_average"] == 1


def test_rows_without_names_are_taken_in_the_models_order_and_that_is_said_once(trained, caplog):
    for _ in range(2):
        assert trained.evaluate(without_names(make_rows(CLASSES, 8, seed=4)))["eval_top1_average"] == 1
    assert caplog.text.count("the evaluation data has no class names: the class indices of") == 1


def test_a_folder_that_lacks_a_class_is_evaluated_from_the_command_line(trained, tmp_path):
    for name in ("dog", "fox"):
        (tmp_path / "test" / name).mkdir(parents=True)
        for seed in range(3):
            PIL.Image.fromarray(image_of(name, 50 + seed)).save(tmp_path / "test" / name / f"{seed}.png")
    args = make_args(tmp_path, per_device_eval_batch_size=4)
    data = DataArguments(validation_dir=str(tmp_path / "test"))
    report = tmp_path / "classes.json"
    metrics = evaluate(trained.args.output_dir, data, args, per_class_file=str(report))
    assert metrics["eval_top1_average"] == 1
    classes = {row["name"]: (row["images"], row["correct"]) for row in json.loads(report.read_text())["classes"]}
    assert classes == {"cat": (0, 0), "dog": (3, 3), "emu": (0, 0), "fox": (3, 3)}


def test_a_stream_in_another_order_is_mapped(tmp_path, caplog):
    rows = make_rows(CLASSES, 16).to_iterable_dataset()
    args = make_args(tmp_path, num_train_samples=16, **{**OPTIONS, "color_jitter": 0})
    order = ["fox", "cat", "dog", "emu"]
    trainer = DistillationTrainer(make_student(order), args, train_dataset=rows)
    batch = next(iter(trainer.get_train_dataloader()))
    brightness = batch["pixels"].float().mean(dim=(1, 2, 3))
    seen = [CLASSES[round((value - 60) / 50)] for value in brightness.tolist()]
    assert [order[label] for label in batch["labels"].tolist()] == seen
    assert "the classes of the training data are matched to those of the model by name" in caplog.text


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (CLASSES, CLASSES[:3], r"the training data lacks 1 of the classes of the model \(fox\); the model has 4"),
        (
            CLASSES,
            [*CLASSES[:3], "gnu"],
            r"the model lacks 1 of the classes of the training data \(gnu\) and .*\(fox\)",
        ),
        (CLASSES, [*CLASSES, "gnu"], r"the model lacks 1 of the classes of the training data \(gnu\)"),
        (["a", "b", "c", "d"], CLASSES, r"none of the 4 classes of the training data \(cat, dog, emu, fox\)"),
        (
            None,
            CLASSES[:3],
            r"the training data has 3 classes \(cat, dog, emu\) but the model has 4.*start a new head",
        ),
    ],
)
def test_training_data_of_other_classes_is_refused_with_both_sides(tmp_path, model, data, message: str):
    known = [name for name in data if name in CLASSES]
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, model, train_dataset=make_rows(data, 8, only=known))


def test_evaluation_data_of_other_classes_is_refused(trained):
    rows = make_rows(CLASSES, 4).cast_column("label", datasets.ClassLabel(names=["v", "w", "x", "y"]))
    with pytest.raises(
        ValueError, match=r"none of the 4 classes of the evaluation data .*name class folders by the mod"
    ):
        trained.evaluate(rows)


def test_several_label_columns_and_several_labels_are_refused_by_name(tmp_path):
    rows = make_rows(CLASSES, 8)
    with pytest.raises(TypeError, match=r"`label_column_name` is \['a', 'b'\], but must name one column"):
        make_trainer(tmp_path, CLASSES, train_dataset=rows, label_column_name=["a", "b"])
    several = rows.map(lambda row: {"tags": [row["label"], 0]}, features=None)
    with pytest.raises(TypeError, match=r"column `tags` holds List.*\(multi-label\)"):
        make_trainer(tmp_path, CLASSES, train_dataset=several, label_column_name="tags")


def test_evaluation_rows_without_an_index_are_refused(trained):
    with pytest.raises(TypeError, match="the evaluation data is a IterableDataset, but must be a `datasets.Dataset`"):
        trained.evaluate(make_rows(CLASSES, 4).to_iterable_dataset())
