"""Loads training and evaluation rows from the Hub, a local directory, folders of images, or scikit-learn's digits.

shards.py finds the shards of a dataset to stream.
"""

import glob
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import datasets

from ..holdout import hold_out
from .arguments import DIGITS, DataArguments
from .class_folders import (
    ClassFolders,
    check_classes,
    check_known_classes,
    names_in_order,
    part_of,
    read_class_folders,
    rows_of_classes,
    rows_without_labels,
    visible_folders,
)
from .columns import check_columns, encode_labels, label_names, with_numbers_in_order
from .digits import load_digits
from .folder_layout import (
    check_no_parts,
    check_same_metadata,
    find_part,
    find_part_folders,
    holds_class_folders,
    metadata_has_labels,
    parts_beside,
)
from .label_files import with_labels_of
from .shards import ShardedRows, ShardedSplits, check_same_classes
from .untrusted_rows import check_dataset_name, check_downloaded_rows, explained_by_cause, load_named_dataset


@dataclass
class ImageParts:
    """The parts of a dataset that a training or an evaluation uses, and facts about their sources.

    Attributes:
        train: training rows, or None if they were not requested.
        evaluation: evaluation rows, or None if the data has none.
        test: rows to measure once at the end, if the data has a test part in addition to the evaluation part.
        names: name of each part in the data; the keys are the names of the attributes above.
        folders: class folders of each part that is read from class folders, with the same keys.
        notes: sentences about data that is not used, and why.
        evaluation_is_test: whether the test part is evaluated on because there is no other part for it.
    """

    train: datasets.Dataset | ShardedRows | None = None
    evaluation: datasets.Dataset | None = None
    test: datasets.Dataset | None = None
    names: dict[str, str] = field(default_factory=dict)
    folders: dict[str, ClassFolders] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    evaluation_is_test: bool = False


def load_image_datasets(
    data: DataArguments, *, train: bool = True
) -> tuple[datasets.Dataset | ShardedRows | None, datasets.Dataset | None]:
    """The training and evaluation rows of `load_image_parts`."""
    parts = load_image_parts(data, train=train)
    return parts.train, parts.evaluation


def load_image_parts(data: DataArguments, *, train: bool = True) -> ImageParts:
    """Loads training, evaluation and test rows with integer labels of one label set.

    With `streaming`, the shards of the training split are found but not read, and only the training and the evaluation
    split are used.

    Args:
        data: source, splits and columns.
        train: whether to load training and test rows, too.

    Raises:
        FileNotFoundError: the dataset or a folder does not exist.
        ValueError: a split or column is missing, the training split lacks a class, or a label file does not match.
    """
    if data.dataset_name is not None:
        check_dataset_name(data.dataset_name)
    if data.streaming:
        return _find_streamed(data, train)
    folders = _part_folders(data, train)
    splits = _load_splits(data) if folders is None else {}
    parts = _choose_splits(data, list(splits if folders is None else folders), train)
    holds_out = data.train_val_split is not None and "evaluation" not in parts.names
    if not holds_out:
        _check_evaluation_options(data, parts)
    if folders is not None:
        splits = _read_folders(data, folders, parts, train)
    rows = {part: _split(splits, name, data.label_column_name) for part, name in parts.names.items() if name in splits}
    if holds_out:
        rows["train"], rows["evaluation"] = _hold_out(rows["train"], data, parts)
    if "evaluation" in rows and data.label_file is not None:
        rows["evaluation"] = with_labels_of(
            data.label_file, rows["evaluation"], data.image_column_name, data.label_column_name
        )
    # the training split defines the classes, if there is one, even if only the evaluation split is loaded
    names = label_names(rows["train"] if "train" in rows else rows["evaluation"], data)
    limits = {"train": data.max_train_samples, "evaluation": data.max_eval_samples, "test": data.max_eval_samples}
    for part in rows if train else ["evaluation"]:
        if part == "test" and not _all_labelled(rows[part], data, parts):
            continue
        is_own = part == "evaluation" and data.label_file is not None  # a label file contains indices
        some = _some_rows(rows[part], limits[part])
        setattr(parts, part, encode_labels(some, data.label_column_name, None if is_own else names))
    return parts


def _check_evaluation_options(data: DataArguments, parts: ImageParts) -> None:
    for option in ("label_file", "max_eval_samples"):
        if getattr(data, option) is not None and not parts.names.keys() & {"evaluation", "test"}:
            raise ValueError(
                f"`{option}` is {getattr(data, option)}, but the data has no part to evaluate on; name one with "
                "`validation_dir` or `eval_split`, or leave it out"
            )


def _part_folders(data: DataArguments, train: bool) -> dict[str, Path] | None:
    """The folder of each part, or None if the source is not made of class folders."""
    if data.dataset_name is not None:
        folder = Path(data.dataset_name)
        if data.dataset_name == DIGITS or data.dataset_config_name is not None or not folder.is_dir():
            return None
        parts = [folder / name for name in visible_folders(folder) if part_of(name) is not None]
        check_same_metadata(parts, data.label_column_name)
        if not holds_class_folders(folder, data.label_column_name):
            return None
        named = {name for name in (data.train_split, data.eval_split) if name is not None}
        is_trained_on = train or data.train_val_split is not None
        whole = data.train_split if is_trained_on else data.eval_split or "validation"  # if the folder has no parts
        return find_part_folders(folder, named, whole=whole)
    options = {"train_dir": data.train_split, "validation_dir": data.eval_split or "validation"}
    named_folders = {name: (option, getattr(data, option)) for option, name in options.items()}
    folders = {name: Path(folder) for name, (_, folder) in named_folders.items() if folder is not None}
    for name, folder in folders.items():
        if not folder.is_dir():
            fault = " (it is a file; if it is an archive, unpack it)" if folder.exists() else ""
            raise FileNotFoundError(
                f"no folder `{folder}`{fault}; it must contain one sub-folder of images per class "
                f"(`{named_folders[name][0]}`)"
            )
        check_no_parts(folder, named_folders[name][0])
    check_same_metadata(folders.values(), data.label_column_name)
    return None if any(metadata_has_labels(folder, data.label_column_name) for folder in folders.values()) else folders


def _load_splits(data: DataArguments) -> datasets.DatasetDict:
    if data.dataset_name == DIGITS:
        return load_digits()
    if data.dataset_name is not None:
        if os.path.isdir(data.dataset_name):
            files = sorted(str(path) for path in Path(data.dataset_name).rglob("*.parquet"))
            check_same_classes(files, data.label_column_name)
        return load_named_dataset(data.dataset_name, data.dataset_config_name, data.image_column_name)
    named = ((data.train_split, data.train_dir), (data.eval_split or "validation", data.validation_dir))
    folders = {name: folder for name, folder in named if folder is not None}
    patterns = {name: str(Path(glob.escape(str(folder))) / "**") for name, folder in folders.items()}
    with explained_by_cause(" and ".join(map(str, folders.values()))):
        return datasets.load_dataset("imagefolder", data_files=patterns)


def _choose_splits(data: DataArguments, names: list[str], train: bool) -> ImageParts:
    """Assigns splits to parts. The test split is a part of its own, unless it is the evaluation part."""
    parts = ImageParts()
    eval_split = _eval_split(data, names, needed=not train)
    if eval_split is not None and data.train_val_split is not None:
        parts.notes.append(f"`train_val_split` is not used: the data has a validation part, `{eval_split}`")
    train_split = find_part(data.train_split, names)
    if train or train_split is not None or (data.train_val_split is not None and eval_split is None):
        parts.names["train"] = _checked_split(names, data.train_split)
    if eval_split is not None:
        parts.names["evaluation"] = _checked_split(names, eval_split)
        parts.evaluation_is_test = data.eval_split is None and part_of(eval_split) == "test"
    test_split = find_part("test", names)
    if train and test_split is not None and test_split not in parts.names.values():
        parts.names["test"] = test_split
    unused = [name for name in names if name not in parts.names.values()] if train else []
    if data.train_dir is not None:
        used = {os.path.abspath(folder) for folder in (data.train_dir, data.validation_dir) if folder is not None}
        unused += [str(folder) for folder in parts_beside(Path(data.train_dir)) if str(folder) not in used]
    if unused:
        parts.notes.append(f"not used: {', '.join(unused)}")
    return parts


def _read_folders(
    data: DataArguments, folders: dict[str, Path], parts: ImageParts, train: bool
) -> dict[str, datasets.Dataset]:
    """Reads the rows of the chosen parts, by their names in the data; adds folders and notes to `parts`."""
    found_in = {
        name: read_class_folders(folders[name], data.dataset_name) for name in dict.fromkeys(parts.names.values())
    }
    parts.folders = {part: found_in[name] for part, name in parts.names.items()}
    trained = parts.folders.get("train")
    if trained is not None and train:
        check_classes(trained, at_least=2)
    splits = {}
    for part, found in parts.folders.items():
        has_own_labels = part == "evaluation" and data.label_file is not None
        if part == "test" and not found.classes:
            parts.notes.append(f"`{found.folder}` is not evaluated because it has no class folders with images")
            continue
        if part == "train" and not found.classes:
            continue  # it is only needed for the names of its classes
        if has_own_labels and found.loose and not found.classes:
            splits[parts.names[part]] = rows_without_labels(found)
            continue
        check_classes(found)
        names = names_in_order(found.classes)
        if trained is not None and trained.classes and not has_own_labels:
            check_known_classes(found, trained)
            names = names_in_order(trained.classes)
        splits[parts.names[part]] = rows_of_classes(found, names)
    return splits


def _hold_out(
    rows: datasets.Dataset, data: DataArguments, parts: ImageParts
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Splits the training rows, and adds a note and the name of the new part to `parts`."""
    assert data.train_val_split is not None
    columns = {name: getattr(data, name) for name in ("image_column_name", "label_column_name")}
    check_columns(rows, data)
    kept, held_out = hold_out(rows, data.train_val_split, **columns)
    parts.names["evaluation"] = f"held out of {parts.names['train']}"
    parts.notes.append(
        f"no validation part: {len(held_out)} of the {len(rows)} training images are held out for it "
        f"({data.train_val_split:g} of each class, chosen by content, the same every time)"
    )
    return kept, held_out


def _all_labelled(rows: datasets.Dataset, data: DataArguments, parts: ImageParts) -> bool:
    """Whether all rows of the test split have labels; adds a note if not. Many are published without (all -1)."""
    column = data.label_column_name
    if column in rows.column_names:
        labels = rows.select_columns([column])[:][column]
        missing = sum(label is None or (isinstance(label, int) and label < 0) for label in labels)
    else:
        missing = len(rows)
    if missing:
        parts.notes.append(
            f"split `{parts.names['test']}` is not evaluated: {missing} of {len(rows)} rows have no label"
        )
    return not missing


def _find_streamed(data: DataArguments, train: bool) -> ImageParts:
    assert data.dataset_name is not None
    splits = ShardedSplits(data.dataset_name, data.dataset_config_name)
    check_same_classes(splits.files(), data.label_column_name)
    parts = _choose_splits(data, splits.names, train)
    column, names = data.label_column_name, parts.names
    if train:
        parts.train = splits.stream(names["train"], data.max_train_samples)
    eval_rows = splits.load(names["evaluation"]) if "evaluation" in names else None
    if eval_rows is not None and not os.path.isdir(data.dataset_name):
        check_downloaded_rows(eval_rows, data.image_column_name, data.dataset_name)
    if eval_rows is not None and data.label_file is not None:
        eval_rows = with_labels_of(data.label_file, eval_rows, data.image_column_name, column)
    parts.evaluation = _some_rows(eval_rows, data.max_eval_samples)
    if "test" in names:
        parts.notes.append(
            f"split `{names.pop('test')}` is not used with `streaming`; measure it with deit-hf evaluate"
        )
    return parts


def _eval_split(data: DataArguments, splits: Iterable[str], *, needed: bool) -> str | None:
    eval_split = data.eval_split or find_part("validation", splits)
    if data.train_val_split is not None:
        return eval_split
    eval_split = eval_split or find_part("test", splits)
    if needed and eval_split is None:
        raise ValueError(f"no split to evaluate on among {', '.join(splits)}; name one with `eval_split`")
    return eval_split


def _checked_split(splits: Iterable[str], name: str) -> str:
    """The split of this name, or of another name of the same part."""
    found = find_part(name, splits)
    if found is None:
        raise ValueError(
            f"the dataset has no split `{name}`, only {', '.join(splits)}; set `train_split` or `eval_split`"
        )
    return found


def _split(splits: Mapping[str, datasets.Dataset], name: str, label_column_name: str) -> datasets.Dataset:
    return with_numbers_in_order(splits[name], label_column_name)


def _some_rows(rows: datasets.Dataset | None, max_samples: int | None) -> datasets.Dataset | None:
    """At most `max_samples` rows, selected at random: the first rows of class folders are all of one class.

    The selection is the same every time.
    """
    if rows is None or max_samples is None or max_samples >= len(rows):
        return rows
    return rows.shuffle(seed=0).select(range(max_samples))
