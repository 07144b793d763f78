"""The parts of a run: labels, the output directory, and a saved model's accuracy."""

import os
from pathlib import Path

import datasets
import pytest
import torch
from datasets import ClassLabel, List, Value
from test_students import NAMES, labels, make_model, save
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
)

from deit_hf import (
    DeiTConfig,
    DistillationArguments,
)
from deit_hf.run_arguments import DataArguments
from deit_hf.training import (
    _check_label_order,
    _checkpoint_to_resume,
    _label_config,
    evaluate,
)

# ---- labels ----


def make_labels(values: list, label_type: object = None) -> datasets.Dataset:
    features = None if label_type is None else datasets.Features({"label": label_type})
    return datasets.Dataset.from_dict({"label": values}, features=features)


def test_class_names_of_the_data_become_the_models():
    assert _label_config(make_labels([0], ClassLabel(names=["yes", "no"])), "label") == labels(["yes", "no"])


@pytest.mark.parametrize("label_type", ["int64", "int8", "uint16"])
def test_bare_numbers_give_one_class_more_than_the_largest(label_type: str):
    assert _label_config(make_labels([0, 4, 1], Value(label_type)), "label") == {"num_labels": 5}
    assert _label_config(make_labels([0, None, 4], Value(label_type)), "label") == {"num_labels": 5}


@pytest.mark.parametrize(
    ("values", "label_type"),
    [
        ([1.5], Value("float32")),
        (["a"], Value("string")),
        ([True], Value("bool")),
        ([[1]], List(Value("int64"))),
    ],
)
def test_label_column_that_holds_no_classes_is_refused(values: list, label_type: object):
    with pytest.raises(TypeError, match="column `label` holds .*, but labels must be class indices or names; set"):
        _label_config(make_labels(values, label_type), "label")


@pytest.mark.parametrize(
    ("names", "own"),
    [
        (None, NAMES),
        (NAMES, NAMES),
        (NAMES[:2], NAMES),  # the first classes alone
        (["crane", "bee", "crane"], ["crane", "bee", "crane", "eel"]),  # ImageNet has two of this name
    ],
)
def test_labels_in_the_models_order_are_taken_in_silence(names: list[str] | None, own: list[str], caplog):
    _check_label_order(names, dict(enumerate(own)))
    assert caplog.text == ""


def test_labels_of_other_names_are_said(caplog: pytest.LogCaptureFixture):
    _check_label_order(["one", "two"], {0: "eins", 1: "zwei"})
    assert "labels have other names in the data (one, ...) than in the model (eins, ...)" in caplog.text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["bee", "ant", "cat", "dog", "eel"], "label 'bee' has index 0 in the data but 1 in the model"),
        (["cat", "dog"], "label 'cat' has index 0 in the data but 2 in the model; bring .*align_labels_with_mapping"),
        (["ant", "bee", "cat", "dog", "fox", "eel"], "label 'eel' has index 5 in the data but 4 in the model"),
    ],
)
def test_labels_in_another_order_are_refused(names: list[str], message: str):
    # they would be counted as errors of the model
    with pytest.raises(ValueError, match=message):
        _check_label_order(names, dict(enumerate(NAMES)))


# ---- the output directory ----


def checkpoint_to_resume(output_dir: Path, **options) -> str | None:
    return _checkpoint_to_resume(DistillationArguments(str(output_dir), report_to="none", **options))


def test_new_or_empty_directory_starts_afresh(tmp_path: Path):
    assert checkpoint_to_resume(tmp_path / "new") is None
    assert checkpoint_to_resume(tmp_path) is None


def test_run_goes_on_from_the_last_checkpoint_unless_one_is_named(tmp_path: Path, caplog):
    for step in (5, 30, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert checkpoint_to_resume(tmp_path) == str(tmp_path / "checkpoint-30")
    assert "checkpoint-30; start anew with --overwrite_output_dir" in caplog.text
    assert checkpoint_to_resume(tmp_path, resume_from_checkpoint="other") == "other"


def test_directory_with_something_else_is_refused_and_kept(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not empty and holds no checkpoint to go on from; name another one, or"):
        checkpoint_to_resume(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_overwriting_deletes_the_checkpoints_and_nothing_else(tmp_path: Path):
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "model.safetensors").write_text("")
    (tmp_path / "notes.txt").write_text("")
    assert checkpoint_to_resume(tmp_path, overwrite_output_dir=True) is None
    assert os.listdir(tmp_path) == ["notes.txt"]


# ---- accuracy of a saved model ----


@pytest.fixture
def evaluation_rows(toy_rows: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> datasets.Dataset:
    """The first twenty toy rows, in reach of `evaluate` as the directory `data`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = toy_rows.select(range(20)).cast_column("label", ClassLabel(names=NAMES))
    (tmp_path / "data").mkdir()
    rows.to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    return rows


def evaluate_saved(tmp_path: Path, model: PreTrainedModel) -> dict[str, float]:
    source = save(model, tmp_path / "model")
    args = DistillationArguments(
        str(tmp_path / "out"), report_to="none", per_device_eval_batch_size=8, disable_tqdm=True
    )
    return evaluate(source, DataArguments(dataset_name=str(tmp_path / "data")), args)


def logits_of_plain_transformers(source: Path, rows: datasets.Dataset) -> dict[str, Tensor]:
    """Logits (20, 5) of each head, by transformers' own classes, one picture at a time."""
    model = AutoModelForImageClassification.from_pretrained(source)
    processor = AutoImageProcessor.from_pretrained(source)
    with torch.no_grad():
        outputs = [model(**processor(image, return_tensors="pt")) for image in rows["image"]]
    return {name: torch.cat([output[name] for output in outputs]) for name in outputs[0] if "logits" in name}


@pytest.mark.parametrize("kind", ["plain", "resnet"])
def test_accuracy_is_the_share_of_right_answers(tmp_path: Path, evaluation_rows, tiny_config: DeiTConfig, kind: str):
    metrics = evaluate_saved(tmp_path, make_model(kind, tiny_config))
    logits = logits_of_plain_transformers(tmp_path / "model", evaluation_rows)["logits"]
    targets = torch.tensor(evaluation_rows["label"])
    assert metrics["eval_top1"] == pytest.approx((logits.argmax(dim=1) == targets).double().mean().item(), abs=1e-12)
    assert metrics["eval_top5"] == 1.0
    assert metrics["eval_loss"] == pytest.approx(F.cross_entropy(logits, targets).item(), abs=1e-5)


def test_accuracy_of_each_head_and_of_their_mean(tmp_path: Path, evaluation_rows, tiny_config: DeiTConfig):
    metrics = evaluate_saved(tmp_path, make_model("distilled", tiny_config))
    logits = logits_of_plain_transformers(tmp_path / "model", evaluation_rows)
    targets = torch.tensor(evaluation_rows["label"])
    for name, head in (("average", "logits"), ("cls", "cls_logits"), ("distillation", "distillation_logits")):
        right = (logits[head].argmax(dim=1) == targets).double().mean().item()
        assert metrics[f"eval_top1_{name}"] == pytest.approx(right, abs=1e-12)
    answers = {tuple(head.argmax(dim=1).tolist()) for head in logits.values()}
    assert len(answers) == 3  # or swapped heads would not show
    assert metrics["eval_loss"] == pytest.approx(F.cross_entropy(logits["logits"], targets).item(), abs=1e-5)


def test_model_of_other_labels_is_not_evaluated(tmp_path: Path, evaluation_rows, tiny_config: DeiTConfig):
    model = make_model("plain", tiny_config)
    model.config.id2label = dict(enumerate(reversed(NAMES)))
    with pytest.raises(ValueError, match="label 'ant' has index 0 in the data but 4 in the model"):
        evaluate_saved(tmp_path, model)
