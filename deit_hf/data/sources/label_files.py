"""Labels of evaluation images from a separate file, such as ImageNet-ReaL's (arXiv:2006.07159).

This module reads the correct labels of each image; metrics.py computes the accuracy for several correct labels. Labels
are class indices from 0.
"""

import json
import logging
import re
from collections import Counter
from pathlib import Path, PurePosixPath

import datasets

logger = logging.getLogger(__name__)

VALIDATION_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")

_FORMATS = "it must be JSON such as [[3], [0, 2], []] (class indices of each image) or text with lines `name index`"

Labels = list[list[int]] | dict[str, list[int]]


def read_label_file(path: str | Path) -> Labels:
    """Reads the correct labels of each image.

    Args:
        path: JSON with a list of labels for each image (ImageNet-ReaL's real.json), or text with a line `name label`
            for each image.

    Returns:
        A list of labels for each image in order, or by file name.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file has another format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no label file at `{path}`; fix the path, or leave `label_file` out")
    text = path.read_text(encoding="utf-8")
    labels = _read_lists(path, text) if text.lstrip().startswith("[") else _read_lines(path, text)
    if not labels:
        raise ValueError(f"label file `{path}` is empty; {_FORMATS}")
    return labels


def _read_lists(path: Path, text: str) -> list[list[int]]:
    try:
        lists = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"label file `{path}` is not valid JSON: {error}; {_FORMATS}") from error
    for index, labels in enumerate(lists):
        if not isinstance(labels, list) or not all(type(label) is int and label >= 0 for label in labels):
            raise ValueError(f"label file `{path}` has {labels!r:.80} at index {index}; {_FORMATS}")
    return lists


def _read_lines(path: Path, text: str) -> dict[str, list[int]]:
    labels: dict[str, list[int]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        *name, label = line.rsplit(maxsplit=1)
        if not name or not label.isdecimal():
            raise ValueError(f"label file `{path}` has the line {line!r:.80}; {_FORMATS}")
        if name[0] in labels:
            raise ValueError(f"label file `{path}` names `{name[0]}` more than once; give each image one line")
        labels[name[0]] = [int(label)]
    return labels


def with_labels_of(
    path: str | Path, rows: datasets.Dataset, image_column_name: str, label_column_name: str
) -> datasets.Dataset:
    """Replaces the labels of rows by those of a label file; removes rows without a label in the file.

    Labels and rows are matched by file name; if the names in the file include folders, by the last parts of the path.
    A file without names is matched by the number in names such as ILSVRC2012_val_00000001.JPEG (number 1 is the first
    entry), or by order if the rows have no such names.

    Args:
        path: see `read_label_file`.
        rows: all rows in their own order.
        image_column_name: column of images, or of their paths.
        label_column_name: column for the labels: integers if each row has one label, otherwise lists.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file does not match the rows.
    """
    labels, image_paths = read_label_file(path), _image_paths(rows, image_column_name)
    if isinstance(labels, dict):
        matched, words = _by_name(path, labels, image_paths), "file name"
    elif all(VALIDATION_NUMBER.search(image_path) for image_path in image_paths):
        matched, words = _by_number(path, labels, image_paths), "number of the validation image"
    else:
        matched, words = _by_order(path, labels, image_paths), "order"
    labelled = [index for index, row_labels in enumerate(matched) if row_labels]
    if not labelled:
        raise ValueError(
            f"label file `{path}` gives none of the {len(rows)} images a label; use the label file of this data"
        )
    logger.warning("labels from %s, by %s: %d of %d images have a label", path, words, len(labelled), len(rows))
    if label_column_name in rows.column_names:
        rows = rows.remove_columns(label_column_name)
    one_each = all(len(row_labels) == 1 for row_labels in matched)
    column = [row_labels[0] for row_labels in matched] if one_each else matched
    feature = datasets.Value("int64") if one_each else datasets.List(datasets.Value("int64"))
    return rows.add_column(label_column_name, column, feature=feature).select(labelled)


def _image_paths(rows: datasets.Dataset, column: str) -> list[str]:
    """The path of each image, or "" if it is unknown; the images are not read."""
    if column not in rows.column_names:
        raise ValueError(
            f"the dataset has no column `{column}`, only {', '.join(rows.column_names)}; set `image_column_name`"
        )
    rows = rows.select_columns([column])
    if isinstance(rows.features[column], datasets.Image):
        rows = rows.cast_column(column, datasets.Image(decode=False))
    chunks = rows.with_format("arrow")[:].column(column).chunks
    paths = [chunk.field("path") if str(chunk.type).startswith("struct") else chunk for chunk in chunks]
    return [path if isinstance(path, str) else "" for chunk in paths for path in chunk.to_pylist()]


def _by_name(path: str | Path, labels: dict[str, list[int]], image_paths: list[str]) -> list[list[int]]:
    by_parts = {PurePosixPath(name).parts: row_labels for name, row_labels in labels.items()}
    depths = {len(parts) for parts in by_parts}
    if len(depths) > 1:
        raise ValueError(
            f"label file `{path}` has names with {min(depths) - 1} and with {max(depths) - 1} folders; give all names "
            "the same number of folders"
        )
    names = [Path(image_path).parts[-min(depths) :] for image_path in image_paths]
    for parts, count in Counter(names).items():
        if parts not in by_parts:
            raise ValueError(
                f"label file `{path}` has no `{'/'.join(parts)}`, the image in row {names.index(parts)}; it names "
                f"`{next(iter(labels))}` and others"
            )
        if count > 1:
            raise ValueError(f"{count} images are named `{'/'.join(parts)}`; add folders to the names in the file")
    return [by_parts[parts] for parts in names]


def _by_number(path: str | Path, labels: list[list[int]], image_paths: list[str]) -> list[list[int]]:
    numbers = [int(match[1]) for match in map(VALIDATION_NUMBER.search, image_paths) if match]
    outside = [number for number in numbers if not 1 <= number <= len(labels)]
    if outside:
        raise ValueError(
            f"label file `{path}` lists {len(labels)} images, but the data has ILSVRC2012_val_{outside[0]:08d}; list "
            "all validation images, or use text with lines `name index`"
        )
    return [labels[number - 1] for number in numbers]


def _by_order(path: str | Path, labels: list[list[int]], image_paths: list[str]) -> list[list[int]]:
    if len(labels) != len(image_paths):
        raise ValueError(
            f"label file `{path}` lists {len(labels)} images but there are {len(image_paths)}; list all, or use "
            "text with lines `name index`"
        )
    return labels
