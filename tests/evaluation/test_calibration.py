"""Reliability bins and ECE, compared with sums written out by hand."""

import numpy as np
import pytest
import torch

from deit_hf.evaluation.calibration import expected_calibration_error, reliability_bins
from deit_hf.evaluation.confident_answers import confident_answers


def test_bins_and_error_of_five_predictions():
    confidences = np.array([0.25, 0.5, 0.55, 0.9, 1.0])
    correct = np.array([True, False, True, True, False])
    low, high = reliability_bins(confidences, correct, num_bins=2)
    assert (low.images, high.images) == (2, 3)  # 0.5 is in (0, 0.5]
    assert (low.confidence, low.accuracy) == (pytest.approx(0.375), 0.5)
    assert (high.confidence, high.accuracy) == (pytest.approx(2.45 / 3), pytest.approx(2 / 3))
    expected = 2 / 5 * 0.125 + 3 / 5 * (2.45 / 3 - 2 / 3)
    assert expected_calibration_error([low, high]) == pytest.approx(expected)


def test_error_is_the_sum_over_predictions_grouped_one_by_one():
    generator = np.random.default_rng(0)
    confidences = generator.random(500).astype(np.float32)
    correct = generator.random(500) < confidences
    gaps = [0.0] * 15
    for confidence, hit in zip(confidences.tolist(), correct.tolist(), strict=True):
        gaps[min(int(confidence * 15), 14)] += hit - confidence
    error = expected_calibration_error(reliability_bins(confidences, correct))
    assert error == pytest.approx(sum(map(abs, gaps)) / 500, abs=1e-6)


def test_confidences_of_zero_and_empty_bins_count():
    bins = reliability_bins(np.zeros(3), np.array([False, False, True]), num_bins=4)
    assert [each.images for each in bins] == [3, 0, 0, 0]
    assert bins[1].accuracy is None
    assert expected_calibration_error(bins) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("confidences", "correct", "message"),
    [
        (np.zeros(0), np.zeros(0, bool), "N >= 1"),
        (np.ones(2), np.zeros(3, bool), "must have the shape"),
        (np.array([1.5]), np.zeros(1, bool), r"must be in \[0, 1\]"),
        (np.array([np.nan, 0.5]), np.zeros(2, bool), r"must be in \[0, 1\]"),
    ],
)
def test_wrong_arrays_are_refused(confidences: np.ndarray, correct: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        reliability_bins(confidences, correct)


def test_answers_are_those_of_softmax_batch_by_batch():
    logits = torch.randn(7, 9, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(7)
    batches = [{"pixel_values": logits[i : i + 3], "labels": labels[i : i + 3]} for i in (0, 3, 6)]
    found = confident_answers(lambda pixel_values: (pixel_values,), batches)["only"]
    probabilities = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    assert found.classes.tolist() == [row.tolist().index(max(row.tolist())) for row in logits]
    np.testing.assert_allclose(found.confidences, probabilities.max(dim=1).values.numpy(), rtol=1e-5)
    for row, label, hit in zip(logits.tolist(), labels.tolist(), found.in_top5.tolist(), strict=True):
        assert hit == (sorted(row, reverse=True).index(row[label]) < 5)
    both = confident_answers(lambda pixel_values: (pixel_values, -pixel_values, pixel_values), batches)
    assert [*both] == ["average", "cls", "distillation"]
    assert both["cls"].classes.tolist() == logits.argmin(dim=1).tolist()
