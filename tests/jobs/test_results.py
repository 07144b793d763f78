"""The notes under the table of a job: what a repetition of the digits may be expected to give."""

from typing import Any

import pytest

from deit_hf.jobs.plan import repeats_digits
from deit_hf.jobs.results import DIGITS_SPREAD, results_table

RESULTS = {
    "part": "test",
    "part_name": "test",
    "images": 360,
    "class_counts": [36] * 10,
    "device": "cpu",
    "rows": [{"name": "teacher", "top1": 0.99, "balanced": None}, {"name": "student", "top1": 0.95, "balanced": None}],
}


@pytest.mark.parametrize(
    ("options", "repeats"),
    [
        ({}, True),
        ({"seed": 3, "dataloader_num_workers": 0, "disable_tqdm": True}, True),
        ({"num_train_epochs": 90}, False),
        ({"max_train_samples": 300}, False),
        ({"variant": "deit_tiny_distilled_patch16_224"}, False),
        ({"dataset_name": "photos"}, False),
    ],
)
def test_only_the_measured_recipes_of_the_digits_show_their_spread(options: dict[str, Any], repeats: bool):
    found = repeats_digits({"dataset_name": "digits", **options})
    assert found == repeats
    assert (DIGITS_SPREAD in results_table({**RESULTS, "repeats_digits": found})) == repeats


def test_results_of_an_earlier_version_have_a_table():
    assert DIGITS_SPREAD not in results_table(RESULTS)
