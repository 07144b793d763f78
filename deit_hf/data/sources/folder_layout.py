"""Finds the parts of a dataset in a folder, such as `train/`, `val/` and `test/`.

Also recognises the names of training, validation and test parts of any dataset.
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
# Extensions of images that Pillow alone cannot read; the data report counts and names them.
UNREAD_PICTURES = {".heic", ".heif", ".avif", ".jxl", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf"}


# ---- names of parts ----


def find_part(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that equals `name` or means the same part (`val` for `validation`), or None."""
    names, part = list(names), part_of(name)
    if name in names or part is None:
        return name if name in names else None
    same = [other for other in names if part_of(other) == part]
    return min(same, key=lambda other: PART_NAMES[part].index(other.casefold()), default=None)


# ---- folders ----


def find_part_folders(folder: Path, named: Collection[str] = (), *, whole: str = "train") -> dict[str, Path]:
    """Finds the part folders in a folder, or takes the folder itself as a part if it contains class folders.

    Args:
        folder: contains class folders, or parts with class folders, or one folder that contains the parts.
        named: additional names of parts.
        whole: name of the part if the folder itself is the part.

    Returns:
        The folder of each part, by its own name.

    Raises:
        ValueError: a single part is next to other folders of images, so it could be a part or a class.
    """
    folder = _unwrapped(folder, named)
    subfolders = visible_folders(folder)
    parts = [name for name in subfolders if name in named or part_of(name) is not None]
    others = [name for name in subfolders if name not in parts]
    if not parts:
        return {whole: folder}
    if len(parts) == 1 and any(_first_data_file(folder / name) == "image" for name in others):
        if not visible_folders(folder / parts[0]):
            return {whole: folder}  # in a dataset of vehicles, `train` is a class
        raise ValueError(
            f"`{folder}` contains `{parts[0]}` and `{'`, `'.join(others[:4])}`, so `{parts[0]}` could be a part or a "
            f"class; name what to train on with `--train_dir`: {folder / parts[0]} or {folder}"
        )
    return {name: folder / name for name in parts}


def _unwrapped(folder: Path, named: Collection[str]) -> Path:
    """The folder that contains the parts, possibly inside a folder of an archive; otherwise the folder itself."""
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
    """Checks that a folder contains class folders instead of parts, which would become its classes.

    Raises:
        ValueError: the folder contains parts; the message names them.
    """
    subfolders = visible_folders(folder)
    parts = [name for name in subfolders if part_of(name) is not None]
    several = len({part_of(name) for name in parts}) > 1 and any(visible_folders(folder / name) for name in parts)
    if parts and (several or len(parts) == len(subfolders)):
        raise ValueError(
            f"`{option}` is {folder}, which contains the parts {', '.join(parts)} instead of class folders; name one "
            f"of them ({folder / parts[0]}), or the whole dataset with `--dataset_name {folder}`"
        )


def parts_beside(folder: Path) -> list[Path]:
    """Evaluation and test folders next to a training folder, such as `data/val` for `data/train`."""
    folder = Path(os.path.abspath(folder))
    if part_of(folder.name) != "train":
        return []
    return [folder.parent / name for name in visible_folders(folder.parent) if part_of(name) in ("validation", "test")]


def holds_class_folders(folder: Path, label_column_name: str) -> bool:
    """Whether a folder contains class folders, and not parquet files, archives or metadata with labels."""
    if _card_has_configs(folder) or metadata_has_labels(folder, label_column_name):
        return False
    subfolders = [folder / name for name in visible_folders(folder)]
    if any(_is_shard(name) for level in (folder, *subfolders) for name in os.listdir(level)):
        return False
    return any(_first_data_file(subfolder) == "image" for subfolder in subfolders)


def metadata_has_labels(folder: Path, label_column_name: str) -> bool:
    """Whether a metadata file in a folder or its sub-folders has the label column. `datasets` loads such folders.

    Raises:
        ValueError: a metadata file cannot be read.
    """
    levels = (folder, *(folder / name for name in visible_folders(folder)))
    files = [level / name for level in levels for name in sorted(METADATA_NAMES) if (level / name).is_file()]
    return any(label_column_name in _columns(file) for file in files)


def check_same_metadata(folders: Iterable[Path], label_column_name: str) -> None:
    """Checks that either all parts or none have labels in a metadata file.

    Raises:
        ValueError: some parts have labels in a metadata file and others do not; the message names one of each.
    """
    by_kind = {metadata_has_labels(folder, label_column_name): folder for folder in folders}
    if len(by_kind) > 1:
        raise ValueError(
            f"`{by_kind[True]}` has a metadata file with the column `{label_column_name}`, but `{by_kind[False]}` has "
            "none; add one to each part, or remove it to use the class folders as labels"
        )


def _columns(file: Path) -> list[str]:
    try:
        if file.suffix == ".parquet":
            return list(pyarrow.parquet.read_schema(file).names)
        with open(file, encoding="utf-8-sig", newline="") as lines:
            return next(csv.reader(lines), []) if file.suffix == ".csv" else list(json.loads(lines.readline() or "{}"))
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"`{file}` cannot be read: {error}; fix or remove it") from error


def _card_has_configs(folder: Path) -> bool:
    """Whether the dataset card assigns files to parts."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    if not text.startswith("---\n"):
        return False
    try:
        head = yaml.safe_load(text.split("\n---", 1)[0])
    except yaml.YAMLError:
        return False  # `datasets` cannot read it either
    return isinstance(head, dict) and "configs" in head


def _is_shard(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SHARD_ENDINGS and name not in METADATA_NAMES


def _first_data_file(folder: Path) -> str | None:
    """The kind of the first image or shard, searched level by level: `image`, `shard` or None."""
    endings = picture_endings() | UNREAD_PICTURES
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
                if os.path.splitext(entry.name)[1].lower() in endings:
                    return "image"
                if _is_shard(entry.name):
                    return "shard"
                if os.path.isdir(entry.path):
                    waiting.append(Path(entry.path))
    return None
