"""Wilson's interval, compared with published values and by hand."""

import math

import pytest

from deit_hf.evaluation.intervals import wilson_interval


def test_values_of_a_published_table():
    # Newcombe 1998 (Statistics in Medicine 17), table I, method 3: 81/263, 15/148, 0/20, 1/29
    for correct, images, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson_interval(correct, images) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_solves_its_equation():
    """Each end p satisfies |share - p| = z * sqrt(p (1 - p) / n)."""
    for end in wilson_interval(37, 60, confidence=0.9):
        assert abs(37 / 60 - end) == pytest.approx(1.6448536 * math.sqrt(end * (1 - end) / 60), abs=1e-7)


@pytest.mark.parametrize(("correct", "images", "confidence"), [(1, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_impossible_counts_are_refused(correct: int, images: int, confidence: float):
    with pytest.raises(ValueError, match="is not a share|must be in"):
        wilson_interval(correct, images, confidence)
