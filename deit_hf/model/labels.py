"""How the classes of a model, its data and its teacher correspond."""

import logging
import re
from collections.abc import Mapping
from typing import Any

import datasets

logger = logging.getLogger(__name__)


def class_names(dataset: datasets.Dataset | datasets.IterableDataset, label_column_name: str) -> list[str] | None:
    """Class names in label order, or None where the labels are bare numbers."""
    label = (dataset.features or {}).get(label_column_name)
    return list(label.names) if isinstance(label, datasets.ClassLabel) else None


def label_config(
    rows: datasets.Dataset | datasets.IterableDataset, label_column_name: str, num_labels: int | None = None
) -> dict[str, Any]:
    """The data's label set as a model's config wants it; `num_labels` is for numbers without names."""
    names = class_names(rows, label_column_name)
    if names is None:
        return {"num_labels": num_labels or _count_labels(rows, label_column_name)}
    if num_labels not in (None, len(names)):
        raise ValueError(
            f"`num_labels` is {num_labels}, but column `{label_column_name}` has {len(names)} classes with names; "
            "leave it out"
        )
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }


def _count_labels(rows: datasets.Dataset | datasets.IterableDataset, label_column_name: str) -> int:
    """One more than the largest label."""
    if isinstance(rows, datasets.IterableDataset):
        raise ValueError(
            f"column `{label_column_name}` has no names of classes, and how many there are is not known before all "
            "of a stream is read; say how many with `num_labels`"
        )
    feature = rows.features[label_column_name]
    if not re.fullmatch(r"u?int\d+", getattr(feature, "dtype", "")):
        raise TypeError(
            f"column `{label_column_name}` holds {feature}, but labels must be class indices or names; set "
            "`label_column_name`"
        )
    return max((label for label in rows[label_column_name] if label is not None), default=1) + 1


def check_label_order(names: list[str] | None, id2label: dict[int, str]) -> None:
    """Refuses data that counts the model's labels in another order; other names may mean the same."""
    own = [id2label[index] for index in sorted(id2label)]
    if names is None or names == own:
        return
    if all(name.isdecimal() for name in names) and not set(names) & set(own):
        _check_numbers(names, own)
        return
    for index, name in enumerate(names):
        if name in own and own[index : index + 1] != [name]:
            raise ValueError(
                f"label {name!r} has index {index} in the data but {own.index(name)} in the model; bring the data's "
                "labels into the model's order with `dataset.align_labels_with_mapping`"
            )
    others = [name for name in names if name not in own]
    if others:
        logger.warning("labels have other names in the data (%s, ...) than in the model (%s, ...)", others[0], own[0])


def _check_numbers(names: list[str], own: list[str]) -> None:
    """Refuses classes named by numbers that are not the model's class indices, each in its place."""
    wrong = next((index for index, name in enumerate(names) if int(name) != index), None)
    if wrong is not None:
        raise ValueError(
            f"class {names[wrong]!r} of the data has index {wrong}; classes that are named by numbers, not as the "
            "model names them, must be its class indices: 0, 1, 2, ..., without a gap"
        )
    logger.warning("classes of the data are numbers, taken for the model's class indices (0 is %s)", own[0])


def check_single_labels(rows: datasets.Dataset, label_column_name: str) -> None:
    labels = rows.select_columns([label_column_name])[:][label_column_name]
    several = next((row for row, label in enumerate(labels) if isinstance(label, list) and len(set(label)) > 1), None)
    if several is not None:
        raise ValueError(
            f"row {several} has the labels {labels[several]}, but accuracy by class needs one label for each image; "
            "leave out `per_class_file` or the label file"
        )


def real_names(id2label: Mapping[int, str] | None) -> list[str] | None:
    """Class names in order, or None where they are transformers' placeholders."""
    if id2label is None or all(re.fullmatch(r"LABEL_\d+", str(name)) for name in id2label.values()):
        return None
    return [" ".join(str(id2label[index]).replace("_", " ").casefold().split()) for index in sorted(id2label)]


def indices_by_name(student_names: list[str], teacher_names: list[str], name: str) -> list[int]:
    """For each of the student's classes, the teacher's class of that name."""
    if student_names == teacher_names:
        return list(range(len(teacher_names)))
    missing = [label for label in student_names if label not in teacher_names]
    if missing:
        raise ValueError(
            f"teacher `{name}` has {len(teacher_names)} classes ({', '.join(teacher_names[:4])}, ...) and lacks "
            f"{len(missing)} of the student's {len(student_names)}: {', '.join(missing[:4])}"
            f"{', ...' if len(missing) > 4 else ''}; use a teacher with these labels, or make the names agree"
        )
    for names, side in ((student_names, "student"), (teacher_names, f"teacher `{name}`")):
        repeated = sorted({label for label in names if names.count(label) > 1})
        if repeated:
            raise ValueError(
                f"labels are matched by name, but the {side} has several classes named {', '.join(repeated[:4])}; "
                "make the names in `id2label` unique"
            )
    return [teacher_names.index(label) for label in student_names]
