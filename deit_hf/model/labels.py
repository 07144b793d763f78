"""Whose labels are whose: how the classes of a model, its data and its teacher correspond.

Classes correspond by name wherever both sides have names. A side without names must have as many classes as the other,
in the same order, which is then said. The trainer, the evaluation, the teacher and the commands all ask here.
"""

import difflib
import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import datasets
from timm.data import ImageNetInfo
from transformers import PreTrainedConfig

logger = logging.getLogger(__name__)

_WORDNET_ID = re.compile(r"n\d{8}")
_SAME_CLASSES = 0.95  # share of ImageNet's descriptions that must agree: lists of them differ in a few words


class LabelMatch(NamedTuple):
    """How labels of one side become labels of another.

    Attributes:
        indices: for each class of the one side its index on the other; None where the indices are the same.
        note: what a user should know of it, for a warning; None where there is nothing to say.
    """

    indices: tuple[int, ...] | None = None
    note: str | None = None


# ---- the names that each side has ----


def class_names(dataset: datasets.Dataset | datasets.IterableDataset, label_column_name: str) -> list[str] | None:
    """Class names in label order of a column of labels, or of lists of labels; None where they are bare numbers."""
    feature = (dataset.features or {}).get(label_column_name)
    feature = getattr(feature, "feature", feature)  # of a list
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def has_labels(rows: datasets.Dataset, label_column_name: str) -> bool:
    """Whether rows have labels: a column of -1 alone, as in the test parts of the Hub, has none."""
    if label_column_name not in rows.column_names:
        return False
    column = rows.with_format(None)[label_column_name]
    return not all(label == -1 or label is None for label in column)


def real_names(id2label: Mapping[int, str] | None) -> list[str] | None:
    """Class names in label order, or None where they are not given or are transformers' placeholders."""
    if id2label is None or all(re.fullmatch(r"LABEL_\d+", str(name)) for name in id2label.values()):
        return None
    return [str(id2label[index]) for index in sorted(id2label)]


def named_labels(names: Sequence[str]) -> dict[str, Any]:
    """The fields of a model's configuration that name its classes."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }


def take_names(config: PreTrainedConfig, names: Sequence[str]) -> bool:
    """Gives a model without class names those of its training data, if there are as many; returns whether it did."""
    if real_names(config.id2label) is not None or len(names) != config.num_labels:
        return False
    config.id2label, config.label2id = named_labels(names)["id2label"], named_labels(names)["label2id"]
    return True


def label_config(
    rows: datasets.Dataset | datasets.IterableDataset, label_column_name: str, num_labels: int | None = None
) -> dict[str, Any]:
    """The classes of training data as fields of a model's configuration.

    Args:
        rows: training data.
        label_column_name: column of class indices.
        num_labels: number of classes, for labels without names.

    Raises:
        TypeError: the column does not hold one class index for each image.
        ValueError: `num_labels` contradicts the names, or the number of classes is not known.
    """
    names = class_names(rows, label_column_name)
    if rows.features is not None and label_column_name in rows.features:
        check_label_feature(rows.features[label_column_name], label_column_name)
    if names is None:
        return {"num_labels": num_labels or _count_labels(rows, label_column_name)}
    if num_labels not in (None, len(names)):
        raise ValueError(
            f"`num_labels` is {num_labels}, but column `{label_column_name}` has {len(names)} classes with names; "
            "leave it out"
        )
    return named_labels(names)


def _count_labels(rows: datasets.Dataset | datasets.IterableDataset, label_column_name: str) -> int:
    """One more than the largest label."""
    if isinstance(rows, datasets.IterableDataset):
        raise ValueError(
            f"column `{label_column_name}` has no class names, and how many classes there are is not known before all "
            "of a stream is read; set `num_labels`"
        )
    labels = {label for label in rows[label_column_name] if label is not None}
    if labels and min(labels) > 0:
        logger.warning(
            "column `%s` has no class names and no label below %d: classes 0 to %d have no images; if the labels "
            "count from 1, subtract 1",
            *(label_column_name, min(labels), min(labels) - 1),
        )
    return max(labels, default=1) + 1


# ---- what a column of labels may hold ----


def check_label_feature(feature: Any, label_column_name: Any, *, several: bool = False) -> None:
    """Refuses a column that does not hold class indices.

    Args:
        feature: of the column, as in `Dataset.features`.
        label_column_name: for the message.
        several: whether a row may hold a list of labels, all of them right.

    Raises:
        TypeError: names the column and what it holds.
    """
    inner = getattr(feature, "feature", None)  # of a list
    if inner is not None and not several:
        raise TypeError(
            f"column `{label_column_name}` holds {feature}: several labels for each image (multi-label), but training "
            "needs one class for each; name another column with `label_column_name`, or keep one label of each row"
        )
    if not re.fullmatch(r"u?int\d+", str(getattr(feature if inner is None else inner, "dtype", ""))):
        raise TypeError(
            f"column `{label_column_name}` holds {feature}, but labels must be class indices; set `label_column_name` "
            f"or encode class names with the same list for every split: `dataset.cast_column({label_column_name!r}, "
            "datasets.ClassLabel(names=[...]))`"
        )


def check_single_labels(rows: datasets.Dataset, label_column_name: str) -> None:
    """Refuses rows with several labels, which have no place in a table of confusions.

    Raises:
        ValueError: names the first such row.
    """
    labels = rows.select_columns([label_column_name])[:][label_column_name]
    several = next((row for row, label in enumerate(labels) if isinstance(label, list) and len(set(label)) > 1), None)
    if several is not None:
        raise ValueError(
            f"row {several} has the labels {labels[several]}, but accuracy by class needs one label for each image; "
            "leave out `per_class_file` or the label file"
        )


# ---- how two sides correspond ----


def match_labels(
    names: Sequence[str] | None,
    num_classes: int | None,
    own_names: Sequence[str] | None,
    num_own: int,
    *,
    side: str,
    own_side: str,
    needs_all: bool = False,
    numbers_are_indices: bool = False,
    advice: str = "rename the classes so that both agree",
) -> LabelMatch:
    """For each class of one side, the class of the other side that it is.

    Args:
        names: of the one side's classes in label order, None where it has none.
        num_classes: of the one side, None where that is not known.
        own_names: of the other side, None where it has none.
        num_own: classes of the other side.
        side: the one side in words, such as `the training data`.
        own_side: the other, such as `the model`.
        needs_all: whether the one side must have every class of the other.
        numbers_are_indices: whether names 0, 1, 2, ... on the one side may be class indices of the other.
        advice: what a user can do if they do not correspond.

    Raises:
        ValueError: they do not correspond; names both sides.
    """
    if names is None or own_names is None:
        return _match_by_count(names, num_classes, own_names, num_own, side, own_side, advice)
    if list(names) == list(own_names):
        return LabelMatch()
    numbers = _class_numbers(names, own_names) if numbers_are_indices else None
    if numbers is not None:
        return LabelMatch(
            _unless_same(numbers, num_own),
            f"the classes of {side} are numbers: they are used as class indices of {own_side} (0 is {own_names[0]!r})",
        )
    indices = _indices_by_name(names, own_names, side, own_side)
    unknown = [name for name, index in zip(names, indices, strict=True) if index is None]
    found = tuple(index for index in indices if index is not None)
    missing = [name for index, name in enumerate(own_names) if index not in found] if needs_all else []
    if unknown or missing:
        raise ValueError(_mismatch(names, unknown, own_names, missing, side, own_side, advice))
    moved = next((label for label, index in enumerate(found) if label != index), None)
    if moved is None:
        return LabelMatch(_unless_same(found, num_own))
    return LabelMatch(
        found,
        f"the classes of {side} are matched to those of {own_side} by name: {names[moved]!r} is {moved} there and "
        f"{found[moved]} here",
    )


def _match_by_count(
    names: Sequence[str] | None,
    num_classes: int | None,
    own_names: Sequence[str] | None,
    num_own: int,
    side: str,
    own_side: str,
    advice: str,
) -> LabelMatch:
    """The same indices on both sides, of which one or both have no names."""
    nameless = " and ".join(each for each, its in ((side, names), (own_side, own_names)) if its is None)
    has = "have" if names is None and own_names is None else "has"
    counted = num_classes if names is None else len(names)
    if counted not in (None, num_own):
        raise ValueError(
            f"{side} has {counted} classes{_listed(names)} but {own_side} has {num_own}{_listed(own_names)}, and they "
            f"cannot be matched by name, as {nameless} {has} no class names; {advice}"
        )
    if counted is None and own_names is None:
        return LabelMatch()
    return LabelMatch(
        note=f"{nameless} {has} no class names: the class indices of {side} and of {own_side} are taken to be the same"
    )


def _unless_same(indices: Sequence[int], num_own: int) -> tuple[int, ...] | None:
    return None if tuple(indices) == tuple(range(num_own)) else tuple(indices)


def _class_numbers(names: Sequence[str], own_names: Sequence[str]) -> list[int] | None:
    """Class names that are class indices, counted from 0, of classes that have other names; None of others."""
    if not all(name.isdecimal() and str(int(name)) == name for name in names) or set(names) & set(own_names):
        return None
    numbers = [int(name) for name in names]
    return numbers if len(set(numbers)) == len(numbers) and 0 in numbers and max(numbers) < len(own_names) else None


def _indices_by_name(names: Sequence[str], own_names: Sequence[str], side: str, own_side: str) -> list[int | None]:
    """The index of each name on the other side, or None; as spelled if all are found so, else by plain spelling."""
    exact = {name: index for index, name in enumerate(own_names)}
    if len(exact) == len(own_names) and len(set(names)) == len(names) and exact.keys() >= set(names):
        return [exact[name] for name in names]
    wanted, known = _in_one_language(names, own_names)
    # of lists in the same order, repeated names do no harm
    if wanted == known or list(names) == list(own_names)[: len(names)]:
        return list(range(len(wanted)))
    for each, words in ((side, wanted), (own_side, known)):
        repeated = [name for name, count in Counter(words).items() if count > 1 and name in set(wanted)]
        if repeated:
            raise ValueError(
                f"classes are matched by name, but {each} has several classes named {', '.join(repeated[:4])}; make "
                "the names unique"
            )
    places = {name: index for index, name in enumerate(known)}
    return [places.get(name) for name in wanted]


def _in_one_language(names: Sequence[str], own_names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Both lists in plain spelling; where one has WordNet ids and the other ImageNet's descriptions, both as ids."""
    sides = [[_plain(name) for name in each] for each in (names, own_names)]
    with_ids = [bool(side) and all(_WORDNET_ID.fullmatch(name) for name in side) for side in sides]
    if with_ids[0] != with_ids[1]:
        sides = [side if has_ids else _as_wordnet_ids(side) for side, has_ids in zip(sides, with_ids, strict=True)]
    return sides[0], sides[1]


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _as_wordnet_ids(descriptions: list[str]) -> list[str]:
    """The ids of ImageNet's 1,000 classes, if these are their descriptions in order; else what was given."""
    ids, known = _imagenet()
    agreeing = sum(name == other for name, other in zip(descriptions, known, strict=False))
    return ids if len(descriptions) == len(ids) and agreeing >= _SAME_CLASSES * len(ids) else descriptions


@cache
def _imagenet() -> tuple[list[str], list[str]]:
    """WordNet ids and descriptions of ImageNet's classes, in label order."""
    info = ImageNetInfo("imagenet-1k")
    return info.label_names(), [_plain(description) for description in info.label_descriptions()]


def _mismatch(
    names: Sequence[str],
    unknown: Collection[str],
    own_names: Sequence[str],
    missing: Sequence[str],
    side: str,
    own_side: str,
    advice: str,
) -> str:
    parts = []
    if len(unknown) == len(names):
        parts.append(f"none of the {len(names)} classes of {side}{_listed(names)} is a class of {own_side}")
    elif unknown:
        parts.append(f"{own_side} lacks {len(unknown)} of the classes of {side}{_listed(list(unknown))}")
    if missing:
        parts.append(f"{side} lacks {len(missing)} of the classes of {own_side}{_listed(missing)}")
    spelled = {_plain(name): name for name in own_names}
    close = difflib.get_close_matches(_plain(next(iter(unknown), "")), spelled, n=1)
    nearest = f"; did you mean {spelled[close[0]]!r}?" if close else ""
    return f"{' and '.join(parts)}; {own_side} has {len(own_names)} classes{_listed(own_names)}{nearest}; {advice}"


def _listed(names: Sequence[str] | None) -> str:
    """` (a, b, ...)`, of four names at most."""
    return f" ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})" if names else ""
