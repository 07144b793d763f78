"""Damaged or unsuitable checkpoints are refused with the name of the file or id, and no code in them is run."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deit_hf import DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher, Teacher
from deit_hf.model.build import load_classifier
from deit_hf.model.image_processing_deit import make_processor


@pytest.fixture
def saved(tiny_student: DeiTForImageClassificationWithTeacher, tmp_path: Path) -> Path:
    tiny_student.save_pretrained(tmp_path / "saved")
    make_processor(32).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def edit_config(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


LOADERS: dict[str, Callable[[Any], Any]] = {
    "from_pretrained": DeiTForImageClassificationWithTeacher.from_pretrained,
    "scripts": lambda source: load_classifier(str(source)),
}
every_loader = pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)


@pytest.mark.parametrize("kept", [0, 5, 100, 5000, -1], ids=lambda kept: f"{kept} bytes")
@every_loader
def test_damaged_weights_are_named_by_their_file(saved: Path, load: Callable, kept: int):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"saved/model.safetensors` is damaged.*copy or download it again"):
        load(saved)


def test_damaged_shard_is_the_one_that_is_named(tiny_student: DeiTForImageClassificationWithTeacher, tmp_path: Path):
    tiny_student.save_pretrained(tmp_path, max_shard_size="20KB")
    shard = tmp_path / "model-00002-of-00005.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ValueError, match="model-00002-of-00005.safetensors` is damaged"):
        type(tiny_student).from_pretrained(tmp_path)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00005.safetensors"):
        type(tiny_student).from_pretrained(tmp_path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@every_loader
def test_pickle_that_carries_code_is_refused_and_the_code_is_not_run(saved: Path, load: Callable, tmp_path: Path):
    class MakeDirectory:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "code was run"),)

    (saved / "model.safetensors").unlink()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (saved / "pytorch_model.bin").write_bytes(pickle.dumps({"deit.layernorm.weight": MakeDirectory()}, protocol))
        with pytest.raises(ValueError, match="saved` (holds `.*could run code|is damaged, or not a checkpoint)"):
            load(saved)
    torch.save({"deit.layernorm.weight": MakeDirectory()}, saved / "pytorch_model.bin")
    with pytest.raises(ValueError, match="saved` holds `posix.mkdir`.*could run code, so it was not opened"):
        load(saved)
    assert not (tmp_path / "code was run").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 48}, r"`cls_classifier.weight` is \(5, 24\) in the file but \(5, 48\) in the model"),
        ({"intermediate_size": 41}, r"is \(40,\) in the file but \(41,\) in the model \(9 such tensors\)"),
        ({"image_size": 64}, r"position_embeddings` is \(1, 18, 24\) in the file but \(1, 66, 24\)"),
        ({"num_hidden_layers": 4}, r"lack `deit.encoder.layer.3.attention.* and 15 more tensors of layers"),
        ({"num_hidden_layers": 2}, r"hold unused `deit.encoder.layer.2.attention.* and 15 more tensors of layers"),
        ({"qkv_bias": False}, r"hold unused `deit.encoder.layer.0.attention.attention.key.bias`"),
    ],
    ids=["width", "MLP", "image", "more layers", "fewer layers", "no bias"],
)
@every_loader
def test_configuration_of_other_sizes_than_the_weights_is_refused(saved: Path, load, values: dict, message: str):
    """Red when a model with random layers, or with unused weights of layers, loads like a trained one."""
    edit_config(saved, **values)
    with pytest.raises(ValueError, match=f"the weights of `.*saved` do not fit .*{message}"):
        load(saved)


def test_layers_may_be_left_out_by_whoever_asks_for_it(saved: Path):
    model = DeiTForImageClassificationWithTeacher.from_pretrained(saved, num_hidden_layers=2)
    assert len(model.deit.encoder.layer) == 2


@every_loader
def test_missing_weights_and_sources_are_named(saved: Path, load: Callable, tmp_path: Path):
    (saved / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"model.safetensors.*saved"):
        load(saved)
    with pytest.raises(FileNotFoundError, match="no directory `.*nowhere`; name a saved model, or a Hub id"):
        load(tmp_path / "nowhere")
    with pytest.raises(OSError, match="nobody/nothing"):
        load("nobody/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises((OSError, ValueError), match="empty"):
        load(tmp_path / "empty")


def test_configuration_that_is_no_json_is_named(saved: Path):
    (saved / "config.json").write_text('{"hidden_size":')
    for load in LOADERS.values():
        with pytest.raises(OSError, match="saved/config.json' is not a valid JSON file"):
            load(saved)


def test_damaged_teacher_is_named(saved: Path, tiny_config: DeiTConfig):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"saved/model.safetensors` is damaged"):
        Teacher.from_pretrained(saved, student_config=tiny_config)


def test_plain_weights_of_other_sizes_start_no_distilled_student(tiny_config: DeiTConfig, tmp_path: Path):
    tiny_config.use_distillation_token = False
    DeiTForImageClassification(tiny_config).save_pretrained(tmp_path)
    edit_config(tmp_path, num_hidden_layers=4)
    with pytest.raises(ValueError, match="they lack `vit.encoder.layer.3"):
        DeiTForImageClassificationWithTeacher.from_pretrained(tmp_path)
