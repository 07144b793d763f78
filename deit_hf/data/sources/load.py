"""Loads training and evaluation rows from the Hub, a local directory, folders of images, or scikit-learn's digits.

Shards to stream are found in shards.py.
"""

import glob
import itertools
from collections.abc import Iterable
from pathlib import Path

import datasets

from ...model.labels import class_names
from .arguments import DIGITS, DataArguments
from .digits import load_digits
from .label_files import with_labels_of
from .shards import ShardedRows, ShardedSplits
from .untrusted_rows import load_named_dataset, said_by_cause


def load_image_datasets(
    data: DataArguments, *, train: bool = True
) -> tuple[datasets.Dataset | ShardedRows | None, datasets.Dataset | None]:
    """Training and evaluation rows, with integer labels of one common label set.

    With `streaming` the training rows are only found, not read, and no other split than the two is touched.

    Args:
        data: names the source, splits and columns.
        train: False loads no training rows.

    Returns:
        (training rows, evaluation rows); the latter are None when the source has no evaluation split and none is
        named.

    Raises:
        FileNotFoundError: no such dataset or folder.
        ValueError: no such split or column, class names that the training split lacks, or a label file that does not
            fit.
    """
    if data.streaming:
        return _find_streamed(data, train)
    splits = _load_splits(data)
    eval_split = _eval_split(data, splits, needed=not train)
    # the training split, if there is one, says which classes there are, even when only the other one is wanted
    column = data.label_column_name
    train_rows = _split(splits, data.train_split, column) if train or data.train_split in splits else None
    eval_rows = None if eval_split is None else _split(splits, eval_split, column)
    if eval_rows is not None and data.label_file is not None:
        eval_rows = with_labels_of(data.label_file, eval_rows, data.image_column_name, column)
    names = _label_names(train_rows if train_rows is not None else eval_rows, data)
    train_rows = _some_rows(train_rows, data.max_train_samples) if train else None
    eval_rows = _some_rows(eval_rows, data.max_eval_samples)
    eval_names = names if data.label_file is None else None  # a label file holds indices
    return _encode_labels(train_rows, column, names), _encode_labels(eval_rows, column, eval_names)


def _load_splits(data: DataArguments) -> datasets.DatasetDict:
    if data.dataset_name == DIGITS:
        return load_digits()
    if data.dataset_name is not None:
        return load_named_dataset(data.dataset_name, data.dataset_config_name, data.image_column_name)
    named = ((data.train_split, data.train_dir), (data.eval_split or "validation", data.validation_dir))
    folders = {name: folder for name, folder in named if folder is not None}
    for folder in folders.values():
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"no folder `{folder}`; it must hold one sub-folder of images per class")
        if not any(path.is_file() for path in Path(folder).rglob("*")):
            raise FileNotFoundError(
                f"folder `{folder}` holds no files; it must hold one sub-folder of images per class"
            )
    patterns = {name: str(Path(glob.escape(str(folder))) / "**") for name, folder in folders.items()}
    with said_by_cause(" and ".join(map(str, folders.values()))):
        return datasets.load_dataset("imagefolder", data_files=patterns)


def _find_streamed(data: DataArguments, train: bool) -> tuple[ShardedRows | None, datasets.Dataset | None]:
    assert data.dataset_name is not None
    splits = ShardedSplits(data.dataset_name, data.dataset_config_name)
    eval_split = _eval_split(data, splits.names, needed=not train)
    for name in ([data.train_split] if train else []) + ([eval_split] if eval_split is not None else []):
        _check_split(splits.names, name)
    train_rows = splits.stream(data.train_split, data.max_train_samples) if train else None
    eval_rows = None if eval_split is None else splits.load(eval_split)
    column = data.label_column_name
    if eval_rows is not None and data.label_file is not None:
        eval_rows = with_labels_of(data.label_file, eval_rows, data.image_column_name, column)
    elif eval_rows is not None and train_rows is not None:
        _check_same_names(class_names(train_rows.rows, column), class_names(eval_rows, column))
    return train_rows, _some_rows(eval_rows, data.max_eval_samples)


def _check_same_names(train_names: list[str] | None, eval_names: list[str] | None) -> None:
    """Two splits whose files tell their classes must tell the same ones."""
    if train_names is not None and eval_names is not None and train_names != eval_names:
        pairs = itertools.zip_longest(train_names, eval_names)
        index, (own, other) = next((index, pair) for index, pair in enumerate(pairs) if pair[0] != pair[1])
        raise ValueError(
            f"class {index} is {own!r} in the training split but {other!r} in the evaluation split; write both with "
            "the same `ClassLabel`"
        )


def _eval_split(data: DataArguments, splits: Iterable[str], *, needed: bool) -> str | None:
    eval_split = data.eval_split or next((name for name in ("validation", "test") if name in splits), None)
    if needed and eval_split is None:
        raise ValueError(f"no split to evaluate on among {', '.join(splits)}; name one with `eval_split`")
    return eval_split


def _check_split(splits: Iterable[str], name: str) -> None:
    if name not in splits:
        raise ValueError(
            f"the dataset has no split `{name}`, only {', '.join(splits)}; set `train_split` or `eval_split`"
        )


def _split(splits: datasets.DatasetDict, name: str, label_column_name: str) -> datasets.Dataset:
    _check_split(splits, name)
    return _with_numbers_in_order(splits[name], label_column_name)


def _with_numbers_in_order(rows: datasets.Dataset, column: str) -> datasets.Dataset:
    """Labels of class folders that are numbered from 0 follow the numbers; `datasets` sorts names as text."""
    names = class_names(rows, column)
    if names is None or names != sorted(names) or names == _in_order(names):
        return rows
    labels = [None if label is None else int(names[label]) for label in rows[column]]
    feature = datasets.ClassLabel(names=_in_order(names))
    return rows.remove_columns(column).add_column(column, labels, feature=feature)


def _in_order(names: Iterable[str]) -> list[str]:
    """Class names sorted as text; the numbers 0 to C - 1, as ImageNet-V2's folders are named, by value."""
    in_order = sorted(names)
    numbers = [str(number) for number in range(len(in_order))]
    return numbers if sorted(numbers) == in_order else in_order


def _some_rows(rows: datasets.Dataset | None, max_samples: int | None) -> datasets.Dataset | None:
    """As many rows at most, the same ones every time; drawn, as the first rows of class folders are all of a class."""
    if rows is None or max_samples is None or max_samples >= len(rows):
        return rows
    return rows.shuffle(seed=0).select(range(max_samples))


def _label_names(rows: datasets.Dataset | None, data: DataArguments) -> list[str] | None:
    """The classes in a column of class names, in order; None for a column of anything else."""
    assert rows is not None
    column = data.label_column_name
    if column not in rows.column_names:
        hint = "set `label_column_name`"
        if data.dataset_name is None:
            hint = "a folder must hold a sub-folder of images for each class, at least two"
        raise ValueError(f"the dataset has no column `{column}`, only {', '.join(rows.column_names)}; {hint}")
    if not _holds_names(rows, column):
        return None
    names = set(rows[column])
    if None in names:
        raise ValueError(f"column `{column}` has rows without a label; remove them, such as with `dataset.filter`")
    return _in_order(names)


def _holds_names(rows: datasets.Dataset, column: str) -> bool:
    return getattr(rows.features[column], "dtype", None) in ("string", "large_string")


def _encode_labels(rows: datasets.Dataset | None, column: str, names: list[str] | None) -> datasets.Dataset | None:
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
