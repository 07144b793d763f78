"""Class names of a label column, with one label per row or several."""

import datasets
import pytest

from deit_hf.model.labels import class_names

NAMES = ["ant", "bee"]


@pytest.mark.parametrize(
    ("feature", "expected"),
    [
        (datasets.ClassLabel(names=NAMES), NAMES),
        (datasets.List(datasets.ClassLabel(names=NAMES)), NAMES),
        (datasets.Value("int64"), None),
        (datasets.List(datasets.Value("int64")), None),
    ],
)
def test_names_are_those_of_the_column(feature: object, expected: list[str] | None):
    column = [[0], [1]] if isinstance(feature, datasets.List) else [0, 1]
    features = datasets.Features({"label": feature, "other": datasets.ClassLabel(names=["x"])})
    rows = datasets.Dataset.from_dict({"label": column, "other": [0, 0]}, features=features)
    assert class_names(rows, "label") == expected
    assert class_names(rows.to_iterable_dataset(), "label") == expected
    assert class_names(rows, "missing") is None
