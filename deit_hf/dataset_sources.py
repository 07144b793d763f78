"""Where the rows come from: `datasets` on the Hub or on disk, folders of images, or scikit-learn's digits."""

from pathlib import Path

import datasets
import numpy as np

from .arguments import DataArguments

DIGITS = "digits"


def load_image_datasets(
    data: DataArguments, *, train: bool = True
) -> tuple[datasets.Dataset | None, datasets.Dataset | None]:
    """Training and evaluation rows, with integer labels of one common label set.

    Args:
        data: names the source, splits and columns.
        train: False loads no training rows.

    Returns:
        (training rows, evaluation rows); the latter are None when the source has no evaluation split and none is
        named.

    Raises:
        FileNotFoundError: no such dataset or folder.
        ValueError: no such split or column.
    """
    splits = _load_splits(data)
    train_rows = None
    if train:
        train_rows = _first_rows(_split(splits, data.train_split), data.max_train_samples)
    eval_split = data.eval_split or next((name for name in ("validation", "test") if name in splits), None)
    eval_rows = None if eval_split is None else _first_rows(_split(splits, eval_split), data.max_eval_samples)
    if not train and eval_rows is None:
        raise ValueError(f"no split to evaluate on among {', '.join(splits)}; name one with `eval_split`")
    return _encode_labels(train_rows, eval_rows, data.label_column_name)


def class_names(dataset: datasets.Dataset, label_column_name: str) -> list[str] | None:
    """Class names in label order, or None where the labels are bare numbers."""
    label = dataset.features.get(label_column_name)
    return list(label.names) if isinstance(label, datasets.ClassLabel) else None


def load_digits() -> datasets.DatasetDict:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels, which need no download: 1,437 to train, 360 to test.

    Source: UCI "Optical Recognition of Handwritten Digits", test part. The split is stratified and fixed.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    from sklearn.datasets import load_digits as load_arrays  # an extra: only this dataset needs it
    from sklearn.model_selection import train_test_split

    arrays = load_arrays()
    images = np.round(arrays.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8); 0..16 on disk
    parts = train_test_split(images, arrays.target, test_size=360, stratify=arrays.target, random_state=0)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("0123456789"))})
    return datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict({"image": list(images), "label": labels}, features=features)
            for name, images, labels in (("train", parts[0], parts[2]), ("test", parts[1], parts[3]))
        }
    )


def _load_splits(data: DataArguments) -> datasets.DatasetDict:
    if data.dataset_name == DIGITS:
        return load_digits()
    if data.dataset_name is not None:
        return datasets.load_dataset(data.dataset_name, data.dataset_config_name)
    folders = {data.train_split: data.train_dir, data.eval_split or "validation": data.validation_dir}
    for folder in folders.values():
        if folder is not None and not Path(folder).is_dir():
            raise FileNotFoundError(f"no folder `{folder}`; it must hold one sub-folder of images per class")
    patterns = {name: str(Path(folder) / "**") for name, folder in folders.items() if folder is not None}
    return datasets.load_dataset("imagefolder", data_files=patterns)


def _split(splits: datasets.DatasetDict, name: str) -> datasets.Dataset:
    if name not in splits:
        raise ValueError(
            f"the dataset has no split `{name}`, only {', '.join(splits)}; set `train_split` or `eval_split`"
        )
    return splits[name]


def _first_rows(dataset: datasets.Dataset, max_samples: int | None) -> datasets.Dataset:
    return dataset if max_samples is None else dataset.select(range(min(max_samples, len(dataset))))


def _encode_labels(
    train_rows: datasets.Dataset | None, eval_rows: datasets.Dataset | None, column: str
) -> tuple[datasets.Dataset | None, datasets.Dataset | None]:
    """Turns class names in the label column into indices, the same for both splits."""
    reference = train_rows if train_rows is not None else eval_rows
    assert reference is not None
    if column not in reference.column_names:
        raise ValueError(
            f"the dataset has no column `{column}`, only {', '.join(reference.column_names)}; set `label_column_name`"
        )
    if reference.features[column].dtype != "string":
        return train_rows, eval_rows
    names = datasets.ClassLabel(names=sorted(set(reference[column])))
    return (
        None if train_rows is None else train_rows.cast_column(column, names),
        None if eval_rows is None else eval_rows.cast_column(column, names),
    )
