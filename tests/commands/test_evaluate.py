"""The accuracy of a saved model on the evaluation split."""

import json
import shutil
import sys
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from datasets import ClassLabel
from support.models import NAMES, make_model, save
from timm.data.real_labels import RealLabelsImagenet
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
)

from deit_hf import DeiTConfig, DeiTForImageClassification, DistillationArguments
from deit_hf.commands.evaluate import main
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.evaluation.accuracy_text import percent
from deit_hf.model.image_processing_deit import make_processor
from deit_hf.training.saved_model import evaluate


@pytest.fixture
def evaluation_rows(toy_rows: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> datasets.Dataset:
    """The first twenty toy rows, saved as the dataset directory `data`."""
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
        fusion=fusion,
    )
    return evaluate(source, DataArguments(**(data or {"dataset_name": str(tmp_path / "data")})), args, **options)


def logits_of_plain_transformers(source: Path, rows: datasets.Dataset, processor=None) -> dict[str, Tensor]:
    """Logits (20, 5) of each head from transformers' own classes, one image at a time."""
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
    assert len(answers) == 3  # otherwise swapped heads would not show
    assert metrics["eval_loss"] == pytest.approx(F.cross_entropy(logits["logits"], targets).item(), abs=1e-5)


def test_model_of_other_labels_is_not_evaluated(tmp_path: Path, evaluation_rows, tiny_config: DeiTConfig):
    model = make_model("plain", tiny_config)
    model.config.id2label = dict(enumerate(["fox", "gnu", "hen", "ibex", "jay"]))
    with pytest.raises(ValueError, match=r"none of the 5 classes of the evaluation data .*\(0, 1, 2, ...\)"):
        evaluate_saved(tmp_path, model)


def test_labels_in_another_order_are_the_models(tmp_path: Path, evaluation_rows, tiny_config: DeiTConfig):
    model = make_model("plain", tiny_config)
    right = evaluate_saved(tmp_path, model)
    order = [3, 0, 4, 1, 2]
    model.classifier.weight.data = model.classifier.weight.data[order]
    model.classifier.bias.data = model.classifier.bias.data[order]
    model.config.id2label = {index: NAMES[label] for index, label in enumerate(order)}
    permuted = evaluate_saved(tmp_path, model)
    assert permuted["eval_top1"] == right["eval_top1"] > 0
    assert permuted["eval_loss"] == pytest.approx(right["eval_loss"], rel=1e-5)


def test_crop_is_the_saved_one_unless_another_is_named(tmp_path: Path, evaluation_rows, tiny_config: DeiTConfig):
    model, losses = make_model("plain", tiny_config), []
    for options, crop, words in (
        ({}, {}, "short side resized to 32 pixels (bicubic), centre crop of 32x32"),
        ({"crop_ratio": 0.8}, {"crop_ratio": 0.8}, "short side resized to 40 pixels (bicubic), centre crop of 32x32"),
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
    assert min(abs(losses[i] - losses[i - 1]) for i in range(3)) > 1e-3  # otherwise an ignored crop would not show


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
    recalls = [row["accuracy"] for row in report["classes"]]
    assert report["eval_balanced_accuracy_average"] == pytest.approx(sum(recalls) / 5, abs=1e-12)
    assert report["eval_macro_f1_average"] == metrics["eval_macro_f1_average"]
    assert (report["eval_crop"], report["eval_fusion"]) == (metrics["eval_crop"], "logit_mean")


def test_several_right_labels_count_as_timm_counts_them(tmp_path: Path, evaluation_rows, tiny_config: DeiTConfig):
    generator = np.random.default_rng(0)
    order = generator.permutation(20).tolist()  # rows in another order than the label file
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
    (tmp_path / "real.json").write_text("[[5]]" + "\n")
    with pytest.raises(ValueError, match="lists 1 images, but the data has ILSVRC2012_val_"):
        evaluate_saved(tmp_path, model, data)
    (tmp_path / "real.json").write_text(json.dumps([[5]] * 20))
    with pytest.raises(ValueError, match="row 0 has label 5, but there are 5 classes"):
        evaluate_saved(tmp_path, model, data)


def test_folders_of_class_indices_evaluate_a_model_with_real_names(tmp_path: Path, tiny_config: DeiTConfig, caplog):
    # the layout of ImageNet-V2; sorted as text, the folders 10 and 11 would become classes 2 and 3
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
    assert "used as class indices of the model (0 is 'class a')" in caplog.text


def test_folder_of_classes_without_parts_is_evaluated_as_a_whole(tmp_path: Path, tiny_config: DeiTConfig, capsys):
    tiny_config.num_labels, tiny_config.id2label = 2, {0: "cat", 1: "dog"}
    source = save(DeiTForImageClassification(tiny_config), tmp_path / "model")
    for grey, (name, part) in enumerate([("cat", "."), ("dog", "."), ("cat", "train"), ("dog", "train")]):
        (tmp_path / "photos" / part / name).mkdir(parents=True)
        for i in range(3):
            pixels = np.full((32, 32, 3), 50 * grey + i, np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / "photos" / part / name / f"{i}.png")
    (tmp_path / "parts").mkdir()
    shutil.move(tmp_path / "photos" / "train", tmp_path / "parts" / "train")
    main([source, str(tmp_path / "photos"), "--num_workers", "0"])
    assert "\n6 images\n" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="^2$"):  # not on training images, unless they are named
        main([source, str(tmp_path / "parts"), "--num_workers", "0"])
    assert "no split to evaluate on among train; name one with `eval_split`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"train_split": "a"}, "name the split to evaluate on with `eval_split`"),
        ({"max_train_samples": 3}, "use `max_eval_samples`"),
        ({"num_labels": 5}, "the model gives the number of classes"),
        ({"streaming": True}, "leave it out"),
        ({"dataset_name": None, "train_dir": "a", "validation_dir": "b"}, "name the folder to evaluate on with"),
    ],
)
def test_options_that_only_a_training_reads_are_refused_before_anything_is_loaded(
    tmp_path: Path, options: dict, advice: str
):
    data, name = DataArguments(**{"dataset_name": "none", **options}), next(n for n in options if n != "dataset_name")
    message = f"`{name}` is .*, but an evaluation reads no training data; {advice}"
    with pytest.raises(ValueError, match=message):
        evaluate("none", data, DistillationArguments(str(tmp_path), report_to="none"))


def test_fusion_of_a_model_with_one_head_is_refused(tmp_path: Path, tiny_config: DeiTConfig):
    with pytest.raises(ValueError, match="`fusion` is 'softmax_sum', but a DeiTForImageClassification has only one"):
        evaluate_saved(tmp_path, make_model("plain", tiny_config), {"dataset_name": "none"}, fusion="softmax_sum")


def test_command_prints_the_metrics_and_writes_them_only_where_it_is_asked_to(
    tmp_path: Path, evaluation_rows, tiny_config: DeiTConfig, monkeypatch: pytest.MonkeyPatch, capsys
):
    source = save(make_model("plain", tiny_config), tmp_path / "model")
    command = ["deit-hf evaluate", source, str(tmp_path / "data")]
    for written in ([], ["--output", str(tmp_path / "metrics.json")]):
        monkeypatch.setattr(sys, "argv", [*command, *written, "--num_workers", "0"])
        main()
        assert (tmp_path / "metrics.json").exists() == bool(written)
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    header, values, num_images, _ = capsys.readouterr().out.splitlines()[-4:]
    assert header.split()[:2] == ["top-1", "top-5"]
    assert values.startswith(f"evaluation  {percent(metrics['eval_top1'])}  {percent(metrics['eval_top5'])} ")
    assert num_images == "20 images"


@pytest.mark.parametrize("option", ["--output", "--per_class_file"])
def test_results_are_printed_even_if_the_file_cannot_be_written(
    tmp_path: Path, evaluation_rows, tiny_config: DeiTConfig, monkeypatch: pytest.MonkeyPatch, capsys, option: str
):
    source = save(make_model("plain", tiny_config), tmp_path / "model")
    arguments = [source, str(tmp_path / "data"), option, str(tmp_path / "x.json"), "--num_workers", "0"]
    monkeypatch.setattr("deit_hf.atomic_files.written_aside", refuse)
    with pytest.raises(SystemExit):
        main(arguments)
    printed = capsys.readouterr()
    assert "No space left" in printed.err
    assert "20 images" in printed.out


def refuse(directory: Path):
    raise OSError(28, "No space left on device", str(directory))
