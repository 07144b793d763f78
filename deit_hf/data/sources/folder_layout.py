"""Decides which folder is which part of a dataset on disk: `train/`, `val/` and `test/` beside each other.

Also the names of parts: what counts as training, validation and test, of any kind of dataset.
"""

import csv
import json
import os
from collections import deque
from collections.abc import Collection, Iterable
from pathlib import Path

import pyarrow.parquet
import yaml

from .class_folders import METADATA_NAMES, PART_NAMES, is_hidden, part_of, picture_endings, visible_folders

SHARD_ENDINGS = {".parquet", ".arrow"}
# Pictures that Pillow alone does not read; they are counted and named instead of being taken for other data.
UNREAD_PICTURES = {".heic", ".heif", ".avif", ".jxl", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf"}


# ---- names of parts ----


def find_part(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that is `name`, or means the same: `val` for `validation`. None if there is none."""
    names, part = list(names), part_of(name)
    if name in names or part is None:
        return name if name in names else None
    same = [other for other in names if part_of(other) == part]
    return min(same, key=lambda other: PART_NAMES[part].index(other.casefold()), default=None)


# ---- folders ----


def find_part_folders(folder: Path, named: Collection[str] = (), *, whole: str = "train") -> dict[str, Path]:
    """The part folders in a folder, by their own names; the folder itself if it holds class folders.

    Args:
        folder: holds class folders, or parts that hold class folders, or one folder that holds the parts.
        named: further names of parts.
        whole: the name of the folder itself as a part.

    Raises:
        ValueError: one part stands beside other folders of pictures, so that it may be a part or a class.
    """
    folder = _unwrapped(folder, named)
    subfolders = visible_folders(folder)
    parts = [name for name in subfolders if name in named or part_of(name) is not None]
    others = [name for name in subfolders if name not in parts]
    if not parts:
        return {whole: folder}
    if len(parts) == 1 and any(_first_data_file(folder / name) == "picture" for name in others):
        if not visible_folders(folder / parts[0]):
            return {whole: folder}  # of vehicles, `train` is a class
        raise ValueError(
            f"`{folder}` holds `{parts[0]}` beside `{'`, `'.join(others[:4])}`, so that it may be a part of the data "
            f"or a class; name what to train on with `--train_dir`: {folder / parts[0]} or {folder}"
        )
    return {name: folder / name for name in parts}


def _unwrapped(folder: Path, named: Collection[str]) -> Path:
    """The folder that holds the parts, where archives unpack to a folder in a folder; else the folder itself."""
    inside = folder
    for _ in range(3):
        names = visible_folders(inside)
        if any(name in named or part_of(name) is not None for name in names):
            return inside
        if len(names) != 1:
            break
        inside = inside / names[0]
    return folder


def check_no_parts(folder: Path, option: str) -> None:
    """Refuses a folder of parts where one of class folders is named: the parts would be its classes.

    Raises:
        ValueError: names the parts.
    """
    subfolders = visible_folders(folder)
    parts = [name for name in subfolders if part_of(name) is not None]
    several = len({part_of(name) for name in parts}) > 1 and any(visible_folders(folder / name) for name in parts)
    if parts and (several or len(parts) == len(subfolders)):
        raise ValueError(
            f"`{option}` is {folder}, which holds the parts {', '.join(parts)} instead of class folders; name one of "
            f"them ({folder / parts[0]}), or the whole with `--dataset_name {folder}`"
        )


def parts_beside(folder: Path) -> list[Path]:
    """Folders to evaluate on that lie beside a training folder: `data/val` for `data/train`."""
    folder = Path(os.path.abspath(folder))
    if part_of(folder.name) != "train":
        return []
    return [folder.parent / name for name in visible_folders(folder.parent) if part_of(name) in ("validation", "test")]


def holds_class_folders(folder: Path, label_column_name: str) -> bool:
    """Whether a folder on disk is one of class folders, and not of parquet files, archives or labelled metadata."""
    if _card_has_configs(folder) or metadata_has_labels(folder, label_column_name):
        return False
    subfolders = [folder / name for name in visible_folders(folder)]
    if any(_is_shard(name) for level in (folder, *subfolders) for name in os.listdir(level)):
        return False
    return any(_first_data_file(subfolder) == "picture" for subfolder in subfolders)


def metadata_has_labels(folder: Path, label_column_name: str) -> bool:
    """Whether a metadata file in a folder, or in a folder in it, has the label column; `datasets` reads such folders.

    Raises:
        ValueError: a metadata file cannot be read.
    """
    levels = (folder, *(folder / name for name in visible_folders(folder)))
    files = [level / name for level in levels for name in sorted(METADATA_NAMES) if (level / name).is_file()]
    return any(label_column_name in _columns(file) for file in files)


def check_same_metadata(folders: Iterable[Path], label_column_name: str) -> None:
    """Refuses parts of which one has its labels in a metadata file and another in its folders.

    Raises:
        ValueError: names one of each.
    """
    by_kind = {metadata_has_labels(folder, label_column_name): folder for folder in folders}
    if len(by_kind) > 1:
        raise ValueError(
            f"`{by_kind[True]}` has a metadata file with the column `{label_column_name}`, but `{by_kind[False]}` has "
            "none; give each part one, or remove it, so that the class folders give the labels"
        )


def _columns(file: Path) -> list[str]:
    try:
        if file.suffix == ".parquet":
            return list(pyarrow.parquet.read_schema(file).names)
        with open(file, encoding="utf-8-sig", newline="") as lines:
            return next(csv.reader(lines), []) if file.suffix == ".csv" else list(json.loads(lines.readline() or "{}"))
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"`{file}` cannot be read: {error}; mend or remove it") from error


def _card_has_configs(folder: Path) -> bool:
    """Whether the dataset's card says which files are which part."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    if not text.startswith("---\n"):
        return False
    try:
        head = yaml.safe_load(text.split("\n---", 1)[0])
    except yaml.YAMLError:
        return False  # `datasets` would not read it either
    return isinstance(head, dict) and "configs" in head


def _is_shard(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SHARD_ENDINGS and name not in METADATA_NAMES


def _first_data_file(folder: Path) -> str | None:
    """`picture` or `shard`: what the first file of either kind is, level by level; None if there is none."""
    pictures = picture_endings() | UNREAD_PICTURES
    waiting, seen = deque([folder]), set()
    while waiting:
        current = waiting.popleft()
        status = os.stat(current)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(current) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if is_hidden(entry.name):
                    continue
                if os.path.splitext(entry.name)[1].lower() in pictures:
                    return "picture"
                if _is_shard(entry.name):
                    return "shard"
                if os.path.isdir(entry.path):
                    waiting.append(Path(entry.path))
    return None
