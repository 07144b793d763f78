"""Answers by head and image, and comparisons of two models on the same images."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from transformers.utils import ModelOutput

from deit_hf.evaluation.answers import head_answers, mcnemar_test, paired_difference


class TwoHeads:
    """A model whose heads' logits are given by the pixels of an image."""

    def __call__(self, pixel_values: torch.Tensor) -> ModelOutput:
        cls, distillation = pixel_values.unbind(1)
        return ModelOutput(logits=(cls + distillation) / 2, cls_logits=cls, distillation_logits=distillation)


def test_answers_of_each_head_and_of_both_together_over_all_batches():
    logits = torch.tensor(
        [[[3.0, 0, 0], [0, 2, 0]], [[0, 0, 1.0], [0, 5, 0]], [[1, 0, 0.0], [1, 0, 0]]]
    )  # image, head
    batches = [
        {"pixel_values": logits[:2], "labels": torch.tensor([0, 2])},
        {"pixel_values": logits[2:], "labels": torch.tensor([1])},
    ]
    found = head_answers(TwoHeads(), batches)
    assert {name: values.tolist() for name, values in found.items()} == {
        "average": [0, 1, 0],
        "cls": [0, 2, 0],
        "distillation": [1, 1, 0],
        "labels": [0, 2, 1],
    }


def test_a_model_with_one_head_has_one_answer():
    def model(pixel_values):
        return ModelOutput(logits=pixel_values)

    found = head_answers(model, [{"pixel_values": torch.eye(3)[[2, 0]], "labels": torch.tensor([2, 1])}])
    assert {name: values.tolist() for name, values in found.items()} == {"only": [2, 0], "labels": [2, 1]}


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (5, 5), (12, 3), (3, 12), (250, 310), (900, 800)])
def test_mcnemar_equals_the_exact_binomial_test_of_scipy(first: int, second: int):
    correct = np.array([True] * first + [False] * second + [True, True, False])
    others = np.array([False] * first + [True] * second + [True, True, False])
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar_test(correct, others) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_test(others, correct) == mcnemar_test(correct, others)


def test_paired_difference_is_that_of_the_images():
    first, second = np.array([True, True, False, True]), np.array([True, False, False, False])
    differences = [0, 1, 0, 1]
    mean, error = paired_difference(first, second)
    assert mean == 0.5
    assert error == pytest.approx(np.std(differences, ddof=1) / 2)
    # two seeds: each image counts with the mean of its differences
    mean, error = paired_difference(np.stack([first, second]), np.stack([second, second]))
    assert mean == 0.25
    assert error == pytest.approx(np.std([0, 0.5, 0, 0.5], ddof=1) / 2)
