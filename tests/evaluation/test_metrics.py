"""Metrics equal a direct numpy computation over the whole evaluation."""

import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.data.real_labels import RealLabelsImagenet
from torch.nn import functional as F
from transformers import EvalPrediction

from deit_hf.evaluation.compare import comparison_table
from deit_hf.evaluation.metrics import (
    HeadAccuracy,
    TopKAccuracy,
    head_logits,
    negative_log_likelihood,
    ranked_classes,
)

NUM_IMAGES = 37


def make_logits(num_classes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (NUM_IMAGES, num_classes)).astype(np.float32)


def make_labels(num_classes: int) -> np.ndarray:
    return np.random.default_rng(9).integers(0, num_classes, NUM_IMAGES)


def accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Returns the fraction of images with fewer than k classes above the correct one."""
    right = logits[np.arange(len(labels)), labels]
    return float(np.mean((logits > right[:, None]).sum(axis=1) < k))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    logits = logits.astype(np.float64)
    log_sums = np.log(np.exp(logits).sum(axis=1))
    return float(np.mean(log_sums - logits[np.arange(len(labels)), labels]))


def evaluate(metric: HeadAccuracy, heads: tuple[np.ndarray, ...], labels: np.ndarray, sizes: list[int]) -> dict:
    """Passes batches of these sizes like `Trainer`, the last one with `compute_result=True`."""
    ends = np.cumsum(sizes)
    assert ends[-1] == len(labels)
    for start, end in zip(ends - sizes, ends, strict=True):
        batch = tuple(torch.from_numpy(head[start:end]) for head in heads)
        prediction = EvalPrediction(batch if len(batch) > 1 else batch[0], torch.from_numpy(labels[start:end]))
        result = metric(prediction, compute_result=bool(end == len(labels)))
        assert bool(result) == (end == len(labels))
    return result


@pytest.mark.parametrize("sizes", [[37], [1] * 37, [16, 16, 5], [36, 1]], ids=["whole", "single", "uneven", "rest"])
@pytest.mark.parametrize("num_classes", [3, 5, 20])
def test_any_split_into_batches_gives_the_metrics_of_the_whole(sizes: list[int], num_classes: int):
    # a mean of batch means would give more weight to images of the smaller last batch
    logits, labels = make_logits(num_classes), make_labels(num_classes)
    metric = HeadAccuracy()
    result = evaluate(metric, (logits,), labels, sizes)
    assert metric.num_images == NUM_IMAGES
    assert set(result) == {"loss", "top1", "top5", "balanced_accuracy", "macro_f1"}
    assert result["top1"] == pytest.approx(accuracy(logits, labels, 1), abs=1e-12)
    assert result["top5"] == pytest.approx(accuracy(logits, labels, 5), abs=1e-12)
    assert result["loss"] == pytest.approx(cross_entropy(logits, labels), rel=1e-6)


def test_both_heads_and_their_mean_are_counted_apart():
    cls, distillation = make_logits(20, seed=1), make_logits(20, seed=2)
    heads = ((cls + distillation) / 2, cls, distillation)
    labels = make_labels(20)
    result = evaluate(HeadAccuracy(), heads, labels, [16, 16, 5])
    names = ("average", "cls", "distillation")
    expected = {
        f"top{k}_{name}": accuracy(head, labels, k) for name, head in zip(names, heads, strict=True) for k in (1, 5)
    }
    assert {name: value for name, value in result.items() if "top" in name} == pytest.approx(expected, abs=1e-12)
    assert len({accuracy(head, labels, 5) for head in heads}) == 3  # otherwise swapped heads would not be detected
    assert result["loss"] == pytest.approx(cross_entropy(heads[0], labels), rel=1e-6)  # of both heads combined


def test_second_evaluation_starts_from_zero():
    metric, labels = HeadAccuracy(), make_labels(20)
    evaluate(metric, (make_logits(20, seed=1),), labels, [20, 17])
    second = make_logits(20, seed=2)
    assert evaluate(metric, (second,), labels, [20, 17]) == evaluate(HeadAccuracy(), (second,), labels, [20, 17])


def test_a_model_with_two_heads_can_follow_one_with_one_head():
    metric, labels = HeadAccuracy(), make_labels(20)
    logits = make_logits(20)
    evaluate(metric, (logits,), labels, [37])
    assert evaluate(metric, (logits, logits, logits), labels, [37])["top1_cls"] == accuracy(logits, labels, 1)


def test_half_precision_logits_are_counted_in_float32():
    logits = torch.from_numpy(make_logits(20)).bfloat16()
    labels = make_labels(20)
    metric = HeadAccuracy()
    metric.add((logits,), torch.from_numpy(labels))
    assert metric.result()["loss"] == pytest.approx(cross_entropy(logits.float().numpy(), labels), rel=1e-6)


def test_best_classes_come_first_and_are_at_most_all():
    logits = torch.tensor([[0.1, 0.9, 0.5], [3.0, 1.0, 2.0]])
    assert ranked_classes(logits).tolist() == [[1, 2, 0], [0, 2, 1]]


# ---- several correct labels ----


def test_one_of_several_right_labels_is_enough_as_in_timm(tmp_path: Path):
    # counting images without a label, or only the first label, or every hit, changes the values
    generator = np.random.default_rng(3)
    right = [generator.choice(20, generator.integers(0, 4), replace=False).tolist() for _ in range(NUM_IMAGES)]
    logits = make_logits(20)
    (tmp_path / "real.json").write_text(json.dumps(right))
    names = [f"val/ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(NUM_IMAGES)]
    timms = RealLabelsImagenet(names, real_json=tmp_path / "real.json")
    timms.add_result(torch.from_numpy(logits))

    labelled = [row for row in range(NUM_IMAGES) if right[row]]
    labels = np.array([(right[row] + [-1, -1])[:3] for row in labelled])
    assert 0 < len(labelled) < NUM_IMAGES
    result = evaluate(HeadAccuracy(), (logits[labelled],), labels, [10, len(labelled) - 10])
    assert {1: 100 * result["top1"], 5: 100 * result["top5"]} == pytest.approx(timms.get_accuracy(), abs=1e-9)
    assert result["top1"] < result["top5"] < 1


def test_loss_of_several_right_labels_is_that_of_their_probability():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]))
    loss = negative_log_likelihood(logits, torch.tensor([[0, 2], [1, -1]]))
    assert loss.tolist() == pytest.approx([-np.log(0.7), -np.log(0.2)], rel=1e-6)
    labels = torch.tensor([2, 0])
    assert torch.equal(negative_log_likelihood(logits, labels), F.cross_entropy(logits, labels, reduction="none"))


# ---- fusion ----

# one head is sure of class 0, the other of class 1, and both consider class 2 likely
CLS, DISTILLATION = torch.tensor([[10.0, 0.0, 9.0]]), torch.tensor([[0.0, 10.5, 9.0]])
OUTPUTS = {
    "logits": (CLS + DISTILLATION) / 2,
    "cls_logits": CLS,
    "distillation_logits": DISTILLATION,
}


def test_two_heads_answer_by_the_mean_of_logits_or_the_sum_of_softmaxes():
    def softmax(logits: torch.Tensor) -> np.ndarray:
        exponentials = np.exp(logits.numpy().astype(np.float64))
        return exponentials / exponentials.sum()

    by_logits, by_softmax = head_logits(OUTPUTS, "logit_mean"), head_logits(OUTPUTS, "softmax_sum")
    assert (by_logits[0].argmax().item(), by_softmax[0].argmax().item()) == (2, 1)
    assert by_logits[0] is OUTPUTS["logits"]
    for heads in (by_logits, by_softmax):
        assert torch.equal(torch.cat(heads[1:]), torch.cat([CLS, DISTILLATION]))
    probabilities = (softmax(CLS) + softmax(DISTILLATION)) / 2
    assert by_softmax[0].exp().numpy() == pytest.approx(probabilities, rel=1e-5)
    assert F.cross_entropy(by_softmax[0], torch.tensor([2])).item() == pytest.approx(-np.log(probabilities[0, 2]))


def test_large_half_precision_logits_are_fused_without_overflow():
    outputs = {name: logits.bfloat16() * 1000 for name, logits in OUTPUTS.items()}
    fused = head_logits(outputs, "softmax_sum")[0]
    assert fused.dtype == torch.float32
    assert torch.equal(fused.argmax(dim=1), torch.tensor([0]))  # equal probabilities: the first class wins
    assert fused[0, :2].tolist() == pytest.approx([-np.log(2)] * 2)


def test_one_head_has_nothing_to_fuse():
    outputs = {"logits": CLS}
    assert head_logits(outputs, "softmax_sum")[0] is CLS


# ---- by class ----


@pytest.mark.parametrize("sizes", [[6], [4, 2]])
def test_confusion_counts_each_answer_once(sizes: list[int]):
    answers, labels = np.array([0, 2, 2, 1, 2, 0]), np.array([0, 0, 2, 2, 0, 0])
    logits = F.one_hot(torch.from_numpy(answers), 4).float().numpy()
    metric = HeadAccuracy()
    evaluate(metric, (logits, -logits, -logits), labels, sizes)  # both heads combined come first
    assert metric.confusion is not None
    report = metric.confusion.report(["ant", "bee", "crane", "crane"])
    assert report["classes"] == [
        {"index": 0, "name": "ant", "images": 4, "correct": 2, "accuracy": 0.5},
        {"index": 1, "name": "bee", "images": 0, "correct": 0, "accuracy": None},
        {"index": 2, "name": "crane", "images": 2, "correct": 1, "accuracy": 0.5},
        {"index": 3, "name": "crane", "images": 0, "correct": 0, "accuracy": None},
    ]
    counts = {(pair["true"], pair["predicted"]): pair["count"] for pair in report["confusion"]}
    assert counts == {(0, 0): 2, (0, 2): 2, (2, 1): 1, (2, 2): 1}
    json.dumps(report)


def test_metric_needs_no_network(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the metric asks the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    metric = TopKAccuracy(keep_in_memory=True)
    metric.add_batch(predictions=[[1, 2, 0], [0, 1, 2]], references=[2, 0])
    metric.add_batch(predictions=[[2, 1, 0]], references=[0])
    assert metric.compute() == pytest.approx({"top1": 1 / 3, "top5": 1.0})


def write_results(path: Path, **metrics: float | str) -> Path:
    path.mkdir()
    (path / "eval_results.json").write_text(json.dumps({"eval_loss": 1.0, **metrics}), encoding="utf-8")
    return path


def test_comparison_puts_each_run_on_a_line_and_each_head_in_a_column(tmp_path: Path):
    plain = write_results(tmp_path / "plain", eval_top1=0.5, eval_balanced_accuracy=0.4, eval_macro_f1=0.3)
    heads = {"eval_top1_cls": 0.61, "eval_top1_distillation": 0.62, "eval_top1_average": 0.63}
    distilled = write_results(tmp_path / "distilled", **heads)
    header, *lines = comparison_table([plain, distilled]).splitlines()
    assert header.split() == ["run", "one", "head", "class", "distill.", "mean", "balanced", "macro-F1"]
    assert [line.replace(" %", "%").split() for line in lines] == [
        ["plain", "50.00%", "-", "-", "-", "40.00%", "30.00%"],
        ["distilled", "-", "61.00%", "62.00%", "63.00%", "-", "-"],
    ]
    assert len({len(line) for line in (header, *lines)}) == 1


def test_comparison_of_a_job_has_a_line_for_each_of_its_runs(tmp_path: Path):
    (tmp_path / "job").mkdir()
    write_results(tmp_path / "job" / "student", eval_top1=0.5)
    write_results(tmp_path / "job" / "teacher", eval_top1=0.75)
    other = write_results(tmp_path / "other", eval_top1=0.25)
    assert [line.split()[:2] for line in comparison_table([tmp_path / "job", other]).splitlines()[1:]] == [
        ["student", "50.00"], ["teacher", "75.00"], ["other", "25.00"],
    ]  # fmt: skip


def test_comparison_says_which_mean_is_another_one(tmp_path: Path):
    heads = {"eval_top1_cls": 0.61, "eval_top1_distillation": 0.62, "eval_top1_average": 0.63}
    runs = [
        write_results(tmp_path / fusion, **heads, eval_fusion=fusion, eval_crop="centre")
        for fusion in ("logit_mean", "softmax_sum")
    ]
    notes = comparison_table(runs).splitlines()[3:]
    assert notes == ["softmax_sum: `mean` is the sum of both heads' softmaxes"]


def test_run_without_evaluation_is_named(tmp_path: Path):
    with pytest.raises(
        FileNotFoundError, match="no evaluation results at `.*eval_results.json`; train with an evaluation"
    ):
        comparison_table([tmp_path])
