"""The confusion matrix in parts that people can read."""

import re
from pathlib import Path

import numpy as np
import pytest

from deit_hf.analysis.confusion_matrix import (
    MAX_COMPACT,
    compact_matrix,
    frequent_confusions,
    plot_confusion_matrix,
    shown_matrix,
)
from deit_hf.evaluation.confusion import Confusion


def report(labels: list[int], answers: list[int], names: list[str]) -> dict:
    confusion = Confusion(len(names))
    confusion.add(np.array(labels), np.array(answers))
    return confusion.report(names)


def test_frequent_confusions_and_the_compact_matrix():
    found = report([0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0], ["a", "b", "c"])
    assert frequent_confusions(found, 1) == [{"true": 0, "predicted": 1, "count": 1, "share": 0.5}]
    shown, counts = compact_matrix(found, 2)
    assert shown == [0, 1]  # of the first confusion
    assert counts.tolist() == [[1, 1, 0], [0, 2, 0]]
    shown, counts = compact_matrix(found, 9)
    assert (shown, counts[2].tolist()) == ([0, 1, 2], [1, 0, 1, 0])


@pytest.mark.parametrize(("num_classes", "whole"), [(5, True), (1000, False)])
def test_a_figure_has_every_count_and_name_that_it_has_room_for(tmp_path: Path, num_classes: int, whole: bool):
    """A matrix of 1,000 classes is cut to those that are confused most, and says so."""
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.repeat(np.arange(num_classes), 3))
    answers = np.where(generator.random(len(labels)) < 0.6, labels, generator.integers(0, num_classes, len(labels)))
    names = [f"kind {i}, a synonym" for i in range(num_classes)]
    found = report([*labels], [*answers], names)
    shown, counts, is_whole = shown_matrix(found)
    assert is_whole == whole
    assert counts.shape == ((5, 5) if whole else (MAX_COMPACT, MAX_COMPACT + 1))
    assert counts.sum() == 3 * len(shown)  # all images of the classes that are shown
    plot_confusion_matrix(found, tmp_path / "figure.svg", "on $5 bills")
    drawn = re.findall(r"<!-- (.+?) -->", (tmp_path / "figure.svg").read_text())
    for index in shown:
        assert drawn.count(f"kind {index}, a synonym") == 2
    assert "on $5 bills" in drawn
    assert (f"the 15 most confused of {num_classes:,} classes" in drawn) == (not whole)
    digits = [int(text) for text in drawn if text.isdecimal()]
    assert sum(digits) == counts.sum()
