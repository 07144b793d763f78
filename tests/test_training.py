"""The parts of a run: labels, the output directory, and a saved model's accuracy."""

import json
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from datasets import ClassLabel, List, Value
from test_students import NAMES, labels, make_model, save
from timm.data.real_labels import RealLabelsImagenet
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
)

from deit_hf import DeiTConfig, DeiTForImageClassification, DistillationArguments
from deit_hf.image_processing_deit import make_processor
from deit_hf.run_arguments import DataArguments, ModelArguments
from deit_hf.sharded_rows import ShardedRows
from deit_hf.training import (
    _check_label_order,
    _label_config,
    evaluate,
    train,
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


def test_number_of_labels_is_for_classes_without_names():
    assert _label_config(make_labels([0, 4]), "label", 7) == {"num_labels": 7}
    named = make_labels([0], ClassLabel(names=["yes", "no"]))
    assert _label_config(named, "label", 2) == labels(["yes", "no"])
    with pytest.raises(ValueError, match="`num_labels` is 3, but column `label` has 2 classes with names; leave it"):
        _label_config(named, "label", 3)


def test_classes_of_a_stream_are_its_names_or_must_be_said():
    named = make_labels([0], ClassLabel(names=["yes", "no"])).to_iterable_dataset()
    assert _label_config(ShardedRows(named), "label") == labels(["yes", "no"])
    bare = ShardedRows(make_labels([0, 4], Value("int64")).to_iterable_dataset())
    assert _label_config(bare, "label", 7) == {"num_labels": 7}
    with pytest.raises(ValueError, match="how many there are is not known .*; say how many with `num_labels`"):
        _label_config(bare, "label")


@pytest.mark.parametrize(
    ("option", "value"), [("num_streams", 2), ("num_train_samples", 9), ("shuffle_buffer_size", 9)]
)
def test_options_of_a_stream_are_refused_without_one(tmp_path: Path, option: str, value: int):
    model_args, data_args = ModelArguments(variant="deit_tiny_patch16_224"), DataArguments(dataset_name="digits")
    with pytest.raises(ValueError, match=f"`{option}` is {value}, which is for a stream; add `--streaming true`"):
        train(model_args, data_args, DistillationArguments(str(tmp_path / "run"), **{option: value}))


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


def test_numbered_classes_are_the_models_indices_and_that_is_said_in_one_line(caplog: pytest.LogCaptureFixture):
    _check_label_order([str(number) for number in range(12)], dict(enumerate("abcdefghijkl")))
    assert caplog.messages == ["classes of the data are numbers, taken for the model's class indices (0 is a)"]


@pytest.mark.parametrize("names", [["1", "2"], ["0", "1", "10", "2"], ["0", "2"]], ids="-".join)
def test_numbered_classes_that_are_no_indices_are_refused(names: list[str]):
    # the labels that `datasets` gives them would be counted as the model's
    with pytest.raises(ValueError, match="class '.*' of the data has index .; classes that are named by numbers"):
        _check_label_order(names, dict(enumerate(NAMES)))


# ---- accuracy of a saved model ----


@pytest.fixture
def evaluation_rows(toy_rows: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> datasets.Dataset:
    """The first twenty toy rows, in reach of `evaluate` as the directory `data`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = toy_rows.select(range(20)).cast_column("label", ClassLabel(names=NAMES))
    (tmp_path / "data").mkdir()
    rows.to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    return rows


def evaluate_saved(
    tmp_path: Path, model: PreTrainedModel, data: dict | None = None, fusion: str = "logit_mean", **options
) -> dict:
    source = save(model, tmp_path / "model")
    args = DistillationArguments(
        str(tmp_path / "out"),
        report_to="none",
        per_device_eval_batch_size=8,
        disable_tqdm=True,
        eval_fusion=fusion,
    )
    return evaluate(source, DataArguments(**(data or {"dataset_name": str(tmp_path / "data")})), args, **options)


def logits_of_plain_transformers(source: Path, rows: datasets.Dataset, processor=None) -> dict[str, Tensor]:
    """Logits (20, 5) of each head, by transformers' own classes, one picture at a time."""
    model = AutoModelForImageClassification.from_pretrained(source)
    processor = processor or AutoImageProcessor.from_pretrained(source)
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


def test_crop_is_the_saved_one_unless_another_is_named(tmp_path: Path, evaluation_rows, tiny_config: DeiTConfig):
    model, losses = make_model("plain", tiny_config), []
    for options, crop, words in (
        ({}, {}, "short side resized to 36 pixels (bicubic), centre crop of 32x32"),
        ({"crop_ratio": 1.0}, {"crop_ratio": 1.0}, "short side resized to 32 pixels (bicubic), centre crop of 32x32"),
        ({"eval_crop": "squash"}, {"eval_crop": "squash"}, "whole image resized to 32x32 pixels (bicubic)"),
    ):
        metrics = evaluate_saved(tmp_path, model, **options)
        assert (metrics["eval_crop"], metrics["eval_samples"]) == (words, 20)
        assert "eval_fusion" not in metrics
        processor = make_processor(32, **crop)
        logits = logits_of_plain_transformers(tmp_path / "model", evaluation_rows, processor)["logits"]
        expected = F.cross_entropy(logits, torch.tensor(evaluation_rows["label"])).item()
        assert metrics["eval_loss"] == pytest.approx(expected, abs=1e-5)
        losses.append(expected)
    assert min(abs(losses[i] - losses[i - 1]) for i in range(3)) > 1e-3  # or the same crop would not show


def test_fusion_is_recorded_for_a_model_with_two_heads(tmp_path: Path, evaluation_rows, tiny_config: DeiTConfig):
    model = make_model("distilled", tiny_config)
    assert evaluate_saved(tmp_path, model)["eval_fusion"] == "logit_mean"
    metrics = evaluate_saved(tmp_path, model, fusion="softmax_sum")
    logits = logits_of_plain_transformers(tmp_path / "model", evaluation_rows)
    probabilities = (logits["cls_logits"].softmax(dim=1) + logits["distillation_logits"].softmax(dim=1)) / 2
    expected = F.nll_loss(probabilities.log(), torch.tensor(evaluation_rows["label"])).item()
    assert metrics["eval_fusion"] == "softmax_sum"
    assert metrics["eval_loss"] == pytest.approx(expected, abs=1e-5)


def test_per_class_file_counts_what_the_model_answered(tmp_path: Path, evaluation_rows, tiny_config: DeiTConfig):
    file = tmp_path / "classes.json"
    metrics = evaluate_saved(tmp_path, make_model("distilled", tiny_config), per_class_file=str(file))
    report = json.loads(file.read_text())
    answers = logits_of_plain_transformers(tmp_path / "model", evaluation_rows)["logits"].argmax(dim=1).tolist()
    pairs = list(zip(evaluation_rows["label"], answers, strict=True))
    assert {(pair["true"], pair["predicted"]): pair["count"] for pair in report["confusion"]} == {
        pair: pairs.count(pair) for pair in pairs
    }
    assert [(row["name"], row["images"]) for row in report["classes"]] == [(name, 4) for name in NAMES]
    assert sum(row["correct"] for row in report["classes"]) == round(20 * metrics["eval_top1_average"])
    assert (report["eval_crop"], report["eval_fusion"]) == (metrics["eval_crop"], "logit_mean")


def test_several_right_labels_count_as_timm_counts_them(tmp_path: Path, evaluation_rows, tiny_config: DeiTConfig):
    generator = np.random.default_rng(0)
    order = generator.permutation(20).tolist()  # rows in another order than the file's
    names = [f"ILSVRC2012_val_{number + 1:08d}.JPEG" for number in order]
    right = [generator.choice(5, i % 3, replace=False).tolist() for i in range(20)]
    (tmp_path / "real.json").write_text(json.dumps(right))
    rows = evaluation_rows.cast_column("image", datasets.Image(decode=False))
    stored = [{**image, "path": name} for image, name in zip(rows["image"], names, strict=True)]
    rows = rows.remove_columns("image").add_column("image", stored, feature=datasets.Image())
    rows.to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")

    data = {"dataset_name": str(tmp_path / "data"), "label_file": str(tmp_path / "real.json")}
    model = make_model("plain", tiny_config)
    metrics = evaluate_saved(tmp_path, model, data)
    timms = RealLabelsImagenet(names, real_json=tmp_path / "real.json")
    timms.add_result(logits_of_plain_transformers(tmp_path / "model", evaluation_rows)["logits"])
    assert metrics["eval_samples"] == 13
    assert {1: 100 * metrics["eval_top1"], 5: 100 * metrics["eval_top5"]} == pytest.approx(timms.get_accuracy())
    assert 0 < metrics["eval_top1"] < 1
    with pytest.raises(ValueError, match=r"row \d+ has the labels \[.*, .*\], but accuracy by class needs one label"):
        evaluate_saved(tmp_path, model, data, per_class_file=str(tmp_path / "classes.json"))
    (tmp_path / "real.json").write_text("[5]" + "\n")
    with pytest.raises(ValueError, match="lists 1 images, but the data has ILSVRC2012_val_"):
        evaluate_saved(tmp_path, model, data)
    (tmp_path / "real.json").write_text(json.dumps([5] * 20))
    with pytest.raises(ValueError, match="row 0 has label 5, but the model has 5 classes"):
        evaluate_saved(tmp_path, model, data)


def test_folders_of_class_indices_evaluate_a_model_with_real_names(tmp_path: Path, tiny_config: DeiTConfig, caplog):
    # as ImageNet-V2 comes; with labels sorted as text, 10 and 11 would be taken for classes 2 and 3
    names = [f"class {letter}" for letter in "abcdefghijkl"]
    tiny_config.num_labels, tiny_config.initializer_range = 12, 0.5
    tiny_config.id2label, tiny_config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    model = DeiTForImageClassification(tiny_config)
    generator = np.random.default_rng(0)
    for number in range(12):
        (tmp_path / "v2" / str(number)).mkdir(parents=True)
        pixels = generator.integers(0, 255, (1, 1, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
        PIL.Image.fromarray(pixels).save(tmp_path / "v2" / str(number) / "0.png")
    metrics = evaluate_saved(tmp_path, model, {"validation_dir": str(tmp_path / "v2")})
    rows = datasets.Dataset.from_dict(
        {"image": [str(tmp_path / "v2" / str(number) / "0.png") for number in range(12)]}
    ).cast_column("image", datasets.Image())
    logits = logits_of_plain_transformers(tmp_path / "model", rows)["logits"]
    assert metrics["eval_loss"] == pytest.approx(F.cross_entropy(logits, torch.arange(12)).item(), abs=1e-5)
    assert "taken for the model's class indices (0 is class a)" in caplog.text


@pytest.mark.parametrize(
    ("teacher", "kind"), [("somewhere/teacher", "none"), (None, "hard")], ids=["not used", "missing"]
)
def test_teacher_and_what_to_learn_from_it_go_together(tmp_path: Path, teacher: str | None, kind: str):
    """Red when a run finds out only after it has loaded everything; nothing here could be loaded."""
    model_args = ModelArguments(variant="deit_tiny_patch16_224", teacher_model_name_or_path=teacher)
    args = DistillationArguments(str(tmp_path / "run"), report_to="none", distillation_type=kind)
    with pytest.raises(
        ValueError, match=f"`teacher_model_name_or_path` is {teacher} and `distillation_type` '{kind}'"
    ):
        train(model_args, DataArguments(dataset_name="nobody/nothing"), args)
