"""Matches the classes of a model to those of its data and of its teacher.

Classes are matched by name if both sides have names. Otherwise both sides must have the same number of classes, which
are assumed to be in the same order, with a warning. Trainer, evaluation, teacher and commands all use these functions.
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
_SAME_CLASSES = 0.95  # share of ImageNet's descriptions that must agree: published lists differ in a few words


class LabelMatch(NamedTuple):
    """How to convert the labels of one side to labels of the other.

    Attributes:
        indices: for each class of the first side, its index on the other side; None if the indices are the same.
        note: text of a warning for the user, or None.
    """

    indices: tuple[int, ...] | None = None
    note: str | None = None


# ---- the names that each side has ----


def class_names(dataset: datasets.Dataset | datasets.IterableDataset, label_column_name: str) -> list[str] | None:
    """Returns the class names of a column of labels, in label order, or None if it holds numbers without names.

    The column may also hold lists of labels.
    """
    feature = (dataset.features or {}).get(label_column_name)
    feature = getattr(feature, "feature", feature)  # of a list
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def has_labels(rows: datasets.Dataset, label_column_name: str) -> bool:
    """Whether rows have labels; a column of only -1 or None, as in test splits on the Hub, counts as unlabelled."""
    if label_column_name not in rows.column_names:
        return False
    column = rows.with_format(None)[label_column_name]
    return not all(label == -1 or label is None for label in column)


def real_names(id2label: Mapping[int, str] | None) -> list[str] | None:
    """Returns the class names in label order, or None if they are missing or transformers' placeholders."""
    if id2label is None or all(re.fullmatch(r"LABEL_\d+", str(name)) for name in id2label.values()):
        return None
    return [str(id2label[index]) for index in sorted(id2label)]


def named_labels(names: Sequence[str]) -> dict[str, Any]:
    """Returns the fields of a model configuration that name its classes."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }


def take_names(config: PreTrainedConfig, names: Sequence[str]) -> bool:
    """Sets the class names of a model without names, if their number is right; returns whether it did.

    Args:
        config: of the model; changed in place.
        names: the class names of its training data, in label order.
    """
    if real_names(config.id2label) is not None or len(names) != config.num_labels:
        return False
    config.id2label, config.label2id = named_labels(names)["id2label"], named_labels(names)["label2id"]
    return True


def label_config(
    rows: datasets.Dataset | datasets.IterableDataset, label_column_name: str, num_labels: int | None = None
) -> dict[str, Any]:
    """Returns the classes of training data as fields of a model configuration.

    Args:
        rows: training data.
        label_column_name: column of class indices.
        num_labels: number of classes, for labels without names.

    Raises:
        TypeError: the column does not hold one class index per image.
        ValueError: `num_labels` contradicts the names, or the number of classes is unknown.
    """
    names = class_names(rows, label_column_name)
    if rows.features is not None and label_column_name in rows.features:
        check_label_feature(rows.features[label_column_name], label_column_name)
    if names is None:
        return {"num_labels": num_labels or _count_labels(rows, label_column_name)}
    if num_labels not in (None, len(names)):
        raise ValueError(
            f"`num_labels` is {num_labels}, but column `{label_column_name}` has {len(names)} named classes; "
            "leave `num_labels` out"
        )
    return named_labels(names)


def _count_labels(rows: datasets.Dataset | datasets.IterableDataset, label_column_name: str) -> int:
    """Returns the largest label plus one."""
    if isinstance(rows, datasets.IterableDataset):
        raise ValueError(
            f"column `{label_column_name}` has no class names, so the number of classes of a stream is unknown; set "
            "`num_labels`"
        )
    labels = {label for label in rows[label_column_name] if label is not None}
    if labels and min(labels) > 0:
        logger.warning(
            "column `%s` has no class names and its smallest label is %d: classes 0 to %d have no images; if the "
            "labels start at 1, subtract 1",
            *(label_column_name, min(labels), min(labels) - 1),
        )
    return max(labels, default=1) + 1


# ---- checks of a column of labels ----


def check_label_feature(feature: Any, label_column_name: Any, *, several: bool = False) -> None:
    """Refuses a column that does not hold class indices.

    Args:
        feature: of the column, as in `Dataset.features`.
        label_column_name: for the message.
        several: whether a row may hold a list of labels, each of them correct.

    Raises:
        TypeError: the column holds something else.
    """
    inner = getattr(feature, "feature", None)  # of a list
    if inner is not None and not several:
        raise TypeError(
            f"column `{label_column_name}` holds {feature}: several labels for each image (multi-label), but training "
            "needs one class for each; name another column with `label_column_name`, or keep one label per row"
        )
    if not re.fullmatch(r"u?int\d+", str(getattr(feature if inner is None else inner, "dtype", ""))):
        raise TypeError(
            f"column `{label_column_name}` holds {feature}, but labels must be class indices; set `label_column_name` "
            f"or encode class names with the same list for every split: `dataset.cast_column({label_column_name!r}, "
            "datasets.ClassLabel(names=[...]))`"
        )


def check_single_labels(rows: datasets.Dataset, label_column_name: str) -> None:
    """Refuses rows with several labels, which accuracy by class does not support.

    Raises:
        ValueError: a row has several labels; names the first one.
    """
    labels = rows.select_columns([label_column_name])[:][label_column_name]
    several = next((row for row, label in enumerate(labels) if isinstance(label, list) and len(set(label)) > 1), None)
    if several is not None:
        raise ValueError(
            f"row {several} has the labels {labels[several]}, but accuracy by class needs one label per image; "
            "leave out `per_class_file` or the label file"
        )


# ---- matching of two sides ----


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
    """Finds, for each class of one side, the same class on the other side.

    Args:
        names: class names of the first side in label order, None if it has none.
        num_classes: number of classes of the first side, None if unknown.
        own_names: class names of the other side in label order, None if it has none.
        num_own: number of classes of the other side.
        side: the first side in words, such as `the training data`.
        own_side: the other side in words, such as `the model`.
        needs_all: whether the first side must have every class of the other side.
        numbers_are_indices: whether names 0, 1, 2, ... on the first side may be class indices of the other side.
        advice: for the error message, what a user can do.

    Raises:
        ValueError: the classes do not match; names both sides.
    """
    if names is None or own_names is None:
        return _match_by_count(names, num_classes, own_names, num_own, side, own_side, advice)
    if list(names) == list(own_names):
        return LabelMatch()
    numbers = _class_numbers(names, own_names) if numbers_are_indices else None
    if numbers is not None:
        return LabelMatch(
            _unless_same(numbers, num_own),
            f"the class names of {side} are numbers; they are used as class indices of {own_side} (0 is "
            f"{own_names[0]!r})",
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
        f"the classes of {side} are matched to those of {own_side} by name: "
        f"{names[moved]!r} is class {moved} of {side} and class {found[moved]} of {own_side}",
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
    """Matches equal indices, after a check of the number of classes: at least one side has no names."""
    nameless = " and ".join(each for each, its in ((side, names), (own_side, own_names)) if its is None)
    has = "have" if names is None and own_names is None else "has"
    counted = num_classes if names is None else len(names)
    if counted not in (None, num_own):
        raise ValueError(
            f"{side} has {counted} classes{_listed(names)} but {own_side} has {num_own}{_listed(own_names)}, and they "
            f"cannot be matched by name because {nameless} {has} no class names; {advice}"
        )
    if counted is None and own_names is None:
        return LabelMatch()
    return LabelMatch(
        note=f"{nameless} {has} no class names: the class indices of {side} and of {own_side} are assumed to be equal"
    )


def _unless_same(indices: Sequence[int], num_own: int) -> tuple[int, ...] | None:
    return None if tuple(indices) == tuple(range(num_own)) else tuple(indices)


def _class_numbers(names: Sequence[str], own_names: Sequence[str]) -> list[int] | None:
    """Converts names "0", "1", ... to class indices of the other side; returns None if they are not valid indices."""
    if not all(name.isdecimal() and str(int(name)) == name for name in names) or set(names) & set(own_names):
        return None
    numbers = [int(name) for name in names]
    return numbers if len(set(numbers)) == len(numbers) and 0 in numbers and max(numbers) < len(own_names) else None


def _indices_by_name(names: Sequence[str], own_names: Sequence[str], side: str, own_side: str) -> list[int | None]:
    """Returns the index of each name on the other side, or None for an unknown name.

    Names are compared exactly. If any name is not found, all are compared without regard to case and underscores.
    """
    exact = {name: index for index, name in enumerate(own_names)}
    if len(exact) == len(own_names) and len(set(names)) == len(names) and exact.keys() >= set(names):
        return [exact[name] for name in names]
    wanted, known = _in_one_language(names, own_names)
    # repeated names are unambiguous in lists of the same order
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
    """Returns both lists in plain spelling, or as WordNet ids if one has ids and the other ImageNet's descriptions."""
    sides = [[_plain(name) for name in each] for each in (names, own_names)]
    with_ids = [bool(side) and all(_WORDNET_ID.fullmatch(name) for name in side) for side in sides]
    if with_ids[0] != with_ids[1]:
        sides = [side if has_ids else _as_wordnet_ids(side) for side, has_ids in zip(sides, with_ids, strict=True)]
    return sides[0], sides[1]


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _as_wordnet_ids(descriptions: list[str]) -> list[str]:
    """Returns the WordNet ids if these are the descriptions of ImageNet's 1,000 classes in order, else the input."""
    ids, known = _imagenet()
    agreeing = sum(name == other for name, other in zip(descriptions, known, strict=False))
    return ids if len(descriptions) == len(ids) and agreeing >= _SAME_CLASSES * len(ids) else descriptions


@cache
def _imagenet() -> tuple[list[str], list[str]]:
    """Returns the WordNet ids and the descriptions of ImageNet's classes, in label order."""
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
    """Formats at most four names as ` (a, b, ...)`."""
    return f" ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})" if names else ""
