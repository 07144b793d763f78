"""Means over classes equal those of scikit-learn, for any batches and heads."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score
from transformers import EvalPrediction

from deit_hf.evaluation.metric_names import check_best_metric
from deit_hf.evaluation.metrics import HEADS, HeadAccuracy

NUM_CLASSES = 6


def heads_and_labels() -> tuple[list[np.ndarray], np.ndarray]:
    """Returns logits of three heads, and labels: most of them class 4, one class 2, none class 5."""
    generator = np.random.default_rng(0)
    labels = np.array([4] * 30 + [0] * 8 + [1] * 3 + [3] * 3 + [2])[generator.permutation(45)]
    logits = [generator.normal(size=(45, NUM_CLASSES)).astype(np.float32) for _ in HEADS]
    for head in logits:
        head[:, 4] += 1.5
        head[np.arange(45), labels] += 1
        head[0, 5] += 20
    return logits, labels


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("sizes", [[45], [1] * 45, [32, 13]], ids=["whole", "single", "uneven"])
def test_balanced_accuracy_and_macro_f1_are_scikit_learns(sizes: list[int]):
    logits, labels = heads_and_labels()
    metric, start = HeadAccuracy(), 0
    for size in sizes:
        batch = slice(start, start := start + size)
        heads = tuple(torch.from_numpy(head[batch]) for head in logits)
        result = metric(EvalPrediction(heads, torch.from_numpy(labels[batch])), compute_result=start == len(labels))
    for name, head in zip(HEADS, logits, strict=True):
        answers = head.argmax(axis=1)
        assert 5 in answers  # a predicted class without images counts in macro-F1 only
        assert result[f"balanced_accuracy_{name}"] == pytest.approx(
            balanced_accuracy_score(labels, answers), abs=1e-12
        )
        assert result[f"macro_f1_{name}"] == pytest.approx(f1_score(labels, answers, average="macro"), abs=1e-12)
        assert result[f"balanced_accuracy_{name}"] < result[f"top1_{name}"] - 0.05


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_images_with_several_right_labels_have_no_means_over_classes():
    logits, labels = heads_and_labels()
    lists = np.stack([labels, np.full_like(labels, -1)], axis=1)
    metric = HeadAccuracy()
    metric.add((torch.from_numpy(logits[0]),), torch.from_numpy(lists))
    expected = balanced_accuracy_score(labels, logits[0].argmax(axis=1))
    assert metric.result()["balanced_accuracy"] == pytest.approx(expected, abs=1e-12)  # lists with one label each
    lists[-1] = [0, 1]
    for rows in (lists, lists[:10]):
        metric.add((torch.from_numpy(logits[0][: len(rows)]),), torch.from_numpy(rows))
    assert metric.result().keys() == {"loss", "top1", "top5"}
    assert metric.confusion is None
    metric.add((torch.from_numpy(logits[0]),), torch.full((45,), -1))  # no label at all
    assert metric.result().keys() == {"loss", "top1", "top5"}


def test_the_best_checkpoint_can_be_chosen_by_means_over_classes():
    check_best_metric("eval_balanced_accuracy_cls", [""], two_heads=True, averaged=False)
    check_best_metric("ema_first_macro_f1", ["first"], two_heads=False, averaged=True)
    with pytest.raises(ValueError, match="is 'balanced_acuracy_cls', .* did you mean 'eval_balanced_accuracy_cls'"):
        check_best_metric("balanced_acuracy_cls", [""], two_heads=True, averaged=False)
