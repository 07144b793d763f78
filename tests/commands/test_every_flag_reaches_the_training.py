"""Every flag of student, teacher and data changes the trainer that a command builds, and nothing but what it names.

The flags of the training itself are tested in training/test_every_option_has_an_effect.py.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from deit_hf import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DistillationArguments,
    DistillationTrainer,
)
from deit_hf.data.decoding import decode_image
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.data.streaming import ImageStream
from deit_hf.model.arguments import ModelArguments
from deit_hf.model.image_processing_deit import make_processor
from deit_hf.training import run as run_module
from deit_hf.training.run import train

SIZES = {"patch_size": 8, "hidden_size": 24, "intermediate_size": 24, "num_hidden_layers": 1}
NAMES = ["ant", "bee"]


class BuiltError(Exception):
    """Carries the trainer that was built, instead of training it."""

    def __init__(self, trainer: DistillationTrainer):
        self.trainer = trainer


def write_rows(path: Path, first_grey: int, num_rows: int, label: Any = None) -> None:
    """Writes a parquet file; the grey of `image` is `first_grey` + row number, that of `picture` is 10 more."""
    greys = range(first_grey, first_grey + num_rows)
    rows = {
        "image": [np.full((8, 8, 3), grey, np.uint8) for grey in greys],
        "picture": [np.full((8, 8, 3), grey + 10, np.uint8) for grey in greys],
        "label": [i % 2 for i in range(num_rows)],
        "class": [1 - i % 2 for i in range(num_rows)],
    }
    label = label or datasets.ClassLabel(names=NAMES)
    columns = {"image": datasets.Image(), "picture": datasets.Image(), "label": label, "class": label}
    path.parent.mkdir(exist_ok=True)
    datasets.Dataset.from_dict(rows, features=datasets.Features(columns)).to_parquet(path)


def write_folders(root: Path, grey: int) -> None:
    for place, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8), (grey + place, i, 0)).save(root / name / f"{i}.png")


def write_models(root: Path) -> None:
    for seed, name in enumerate(("one", "another")):
        torch.manual_seed(seed)
        config = DeiTConfig(image_size=16, num_attention_heads=2, id2label=dict(enumerate(NAMES)), **SIZES)
        DeiTForImageClassificationWithTeacher(config).save_pretrained(root / name)
        make_processor(16).save_pretrained(root / name)
    config = DeiTConfig(use_distillation_token=False, id2label=dict(enumerate(NAMES)), image_size=16, **SIZES)
    DeiTForImageClassification(config).save_pretrained(root / "plain")
    make_processor(16).save_pretrained(root / "plain")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and data of every kind."""
    root = tmp_path_factory.mktemp("sources")
    for place, split in enumerate(("train", "validation")):
        write_rows(root / "rows" / f"{split}-00000-of-00001.parquet", 40 * place, 8)
    write_rows(root / "other_rows" / "train-00000-of-00001.parquet", 200, 8)
    write_rows(root / "numbers" / "train-00000-of-00001.parquet", 0, 8, datasets.Value("int64"))
    for name in ("first", "second"):
        write_rows(root / "configs" / f"{name}.parquet", 100 if name == "second" else 0, 8)
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.parquet\n" for name in ("first", "second"))
    (root / "configs" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    for place, name in enumerate(("a", "b", "c", "d")):
        write_folders(root / "folders" / name, 50 * place)
    (root / "labels.json").write_text(json.dumps([[1]] * 8))
    write_models(root)
    return root


def images_and_labels(views: Any) -> tuple[list[int], list[int]]:
    """Greys and labels of all rows."""
    if isinstance(views.images, ImageStream):
        rows = [row for shard in range(views.images.num_shards) for row in views.images.read(shard)]
        images, labels = [decode_image(row.source, "a row") for row in rows], [row.label for row in rows]
    else:
        images, labels = (
            [decode_image(row.source, row.where) for row in views.images.rows_from(0)],
            views.images.labels.ravel().tolist(),
        )
    return [image.getpixel((0, 0))[0] for image in images], labels


def build(folder: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Properties, by name, of the trainer that the command builds from the options."""
    compiled: list[Any] = []
    timed: list[Any] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    monkeypatch.setattr(run_module, "choose_layout", lambda *given: timed.append(given))

    def stop(self: DistillationTrainer, **_: object) -> None:
        raise BuiltError(self)

    monkeypatch.setattr(DistillationTrainer, "train", stop)
    own = [{name: value for name, value in options.items() if name in names} for names in (MODEL_FLAGS, DATA_FLAGS)]
    kind = "hard" if options.get("teacher_model_name_or_path") else "none"
    training = {"per_device_train_batch_size": 4, "report_to": "none", "distillation_type": kind, "warmup_epochs": 0}
    args = DistillationArguments(str(folder), **training)
    with pytest.raises(BuiltError) as built:
        train(ModelArguments(**own[0]), DataArguments(**own[1]), args)
    trainer = built.value.trainer
    config, processor = trainer.model.config, trainer.processing_class.to_dict()
    found = {
        "student": type(trainer.model).__name__,
        "weights": sum(parameter.double().sum().item() for parameter in trainer.model.parameters()),
        "tokens": config.use_distillation_token,
        "depth": config.num_hidden_layers,
        "drop path": config.drop_path_rate,
        "classes": config.num_labels,
        "size": config.image_size,
        "crop": [processor.get(name) for name in ("do_center_crop", "size", "crop_size")],
        "teacher": trainer.teacher and trainer.teacher.name,
        "teacher dtype": trainer.teacher and trainer.teacher.module.dtype,
        "teacher is compiled": bool(compiled),
        "teacher is timed": bool(timed),
        "kind of rows": type(trainer.train_dataset).__name__,
    }
    found["images"], found["labels"] = images_and_labels(trainer.train_dataset)
    if trainer.eval_dataset is not None:
        found["evaluation images"], found["evaluation labels"] = images_and_labels(trainer.eval_dataset)
    return found


MODEL_FLAGS = {option.name for option in dataclasses.fields(ModelArguments)}
DATA_FLAGS = {option.name for option in dataclasses.fields(DataArguments)}
VARIANTS = ("deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224")
BASE = {"variant": VARIANTS[0], "image_size": 16, "config_overrides": SIZES, "dataset_name": "rows"}
LOADED = {"variant": None, "config_overrides": None, "image_size": None, "model_name_or_path": "one"}
PLAIN = {**LOADED, "model_name_or_path": "plain"}
FOLDERS = {"dataset_name": None, "train_dir": "folders/a", "validation_dir": "folders/b"}
TEACHER = {"teacher_model_name_or_path": "one"}
ONE_PART = {"dataset_name": "folders/a"}
MODELS = {"model_name_or_path", "teacher_model_name_or_path"}
PATHS = {*MODELS, "dataset_name", "train_dir", "validation_dir", "label_file"}
# flag: two values, the properties that must differ, and other flags of both runs
CASES: dict[str, tuple[tuple, set[str], dict]] = {
    "model_name_or_path": (("one", "another"), {"weights"}, LOADED),
    "variant": (VARIANTS, {"student", "tokens", "weights"}, {}),
    "image_size": ((16, 32), {"size", "crop", "weights"}, {}),
    "drop_path_rate": ((0.0, 0.2), {"drop path"}, {}),
    "config_overrides": ((SIZES, {**SIZES, "num_hidden_layers": 2}), {"depth", "weights"}, {}),
    "use_distillation_token": ((False, True), {"student", "tokens", "weights"}, PLAIN),
    "teacher_model_name_or_path": ((None, "one"), {"teacher", "teacher dtype"}, {}),
    "teacher_dtype": ((None, "bfloat16"), {"teacher dtype"}, TEACHER),
    "teacher_compile": ((False, True), {"teacher is compiled"}, TEACHER),
    "teacher_channels_last": ((False, True), {"teacher is timed"}, TEACHER),
    "eval_crop": (("center", "squash"), {"crop"}, {}),
    "crop_ratio": ((1.0, 0.5), {"crop"}, {}),
    "dataset_name": (("rows", "other_rows"), {"images", "evaluation images"}, {"eval_split": "train"}),
    "dataset_config_name": (("first", "second"), {"images"}, {"dataset_name": "configs"}),
    "train_dir": (("folders/a", "folders/c"), {"images"}, FOLDERS),
    "validation_dir": (("folders/b", "folders/d"), {"evaluation images"}, FOLDERS),
    "train_split": (("train", "validation"), {"images"}, {"eval_split": "validation"}),
    "eval_split": ((None, "train"), {"evaluation images"}, {}),
    "train_val_split": ((0.2, 0.5), {"images", "labels", "evaluation images", "evaluation labels"}, ONE_PART),
    "image_column_name": (("image", "picture"), {"images", "evaluation images"}, {}),
    "label_column_name": (("label", "class"), {"labels", "evaluation labels"}, {}),
    "label_file": ((None, "labels.json"), {"evaluation labels"}, {}),
    "streaming": ((False, True), {"kind of rows"}, {}),
    "num_labels": ((2, 5), {"classes", "weights"}, {"dataset_name": "numbers"}),
    "max_train_samples": ((None, 6), {"images", "labels"}, {}),
    "max_eval_samples": ((None, 6), {"evaluation images", "evaluation labels"}, {}),
}


def test_every_flag_has_a_case():
    assert CASES.keys() == (MODEL_FLAGS | DATA_FLAGS) - {"model_license"}  # it reaches the card: test_train.py


@pytest.mark.parametrize("name", CASES)
def test_flag_changes_what_it_names_and_nothing_else(name: str, sources: Path, tmp_path: Path, monkeypatch):
    values, changes, also = CASES[name]
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    found = []
    for value in values:
        options = {**BASE, **also, name: value}
        options |= {path: str(sources / options[path]) for path in PATHS if options.get(path) is not None}
        found.append(build(tmp_path / "run", options, monkeypatch))
    first, second = found
    assert {part for part in first.keys() | second.keys() if first.get(part) != second.get(part)} == changes
