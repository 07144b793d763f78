"""The image and label columns of loaded rows: checks, and class names as indices."""

import os

import datasets

from ...model.labels import class_names
from .arguments import DataArguments
from .class_folders import names_in_order


def with_numbers_in_order(rows: datasets.Dataset, column: str) -> datasets.Dataset:
    """Makes the labels of class folders 0, 1, ... equal to these numbers; `datasets` sorts the names as text."""
    names = class_names(rows, column)
    if names is None or names != sorted(names) or names == names_in_order(names):
        return rows
    labels = [None if label is None else int(names[label]) for label in rows[column]]
    feature = datasets.ClassLabel(names=names_in_order(names))
    return rows.remove_columns(column).add_column(column, labels, feature=feature)


def label_names(rows: datasets.Dataset | None, data: DataArguments) -> list[str] | None:
    """The sorted class names in a label column of names, or None if the column has other values."""
    assert rows is not None
    check_columns(rows, data)
    column = data.label_column_name
    if not _holds_names(rows, column):
        return None
    names = set(rows[column])
    if None in names:
        raise ValueError(f"column `{column}` has rows without a label; remove them, for example with `dataset.filter`")
    return names_in_order(names)


def check_columns(rows: datasets.Dataset, data: DataArguments) -> None:
    """Checks that rows have images and labels.

    Raises:
        ValueError: a column is missing; names the columns.
    """
    column = data.label_column_name
    if column not in rows.column_names and data.image_column_name not in rows.column_names:
        source = data.dataset_name or data.train_dir or data.validation_dir
        raise ValueError(
            f"`{source}` contains neither images in class folders nor rows with the columns "
            f"`{data.image_column_name}` and `{column}`: its columns are {', '.join(rows.column_names)}; name another "
            "dataset, or its columns with `image_column_name` and `label_column_name`"
        )
    if column not in rows.column_names:
        hint = "set `label_column_name`"
        if data.dataset_name is None or os.path.isdir(data.dataset_name):
            hint += ", or make a sub-folder of images for each class"
        raise ValueError(f"the dataset has no column `{column}`, only {', '.join(rows.column_names)}; {hint}")


def _holds_names(rows: datasets.Dataset, column: str) -> bool:
    return getattr(rows.features[column], "dtype", None) in ("string", "large_string")


def encode_labels(rows: datasets.Dataset | None, column: str, names: list[str] | None) -> datasets.Dataset | None:
    """Turns class names in the label column into indices of `names`."""
    if rows is None or names is None:
        return rows
    unknown = set(rows[column]) - set(names)
    if unknown:
        raise ValueError(
            f"column `{column}` of the evaluation split has labels that the training split lacks: "
            f"{', '.join(sorted(str(name) for name in unknown)[:4])}; remove these rows"
        )
    return rows.cast_column(column, datasets.ClassLabel(names=names))
