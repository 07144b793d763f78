"""Reads class folders: each sub-folder is a class, with its images at any depth.

folder_layout.py decides which folder is the training part and which is the evaluation part.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import pyarrow as pa
from datasets.config import HF_DATASETS_CACHE
from huggingface_hub.constants import HF_HUB_CACHE

PART_NAMES = {  # in lower case, the most common first
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
# Pillow recognises these formats, but cannot decode their pixels, or runs a program for it (PostScript).
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_OF_THE_SYSTEM = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "Thumbs.db", "desktop.ini"}
METADATA_NAMES = {"metadata.csv", "metadata.jsonl", "metadata.parquet"}
# Reasons why a file or folder is left out; every other reason is a file extension.
HIDDEN = "hidden"
BROKEN = "broken links and other entries that are not files"
READ_ALREADY = "links to a folder that is already read"
LEADS_OUT = "links that lead out of a downloaded dataset"
OUTSIDE = "images outside the class folders"
NO_ENDING = "without an extension"
NOT_UTF8 = "names that are not UTF-8"
METADATA = "metadata files (the folders give the labels)"


@dataclass
class ClassFolders:
    """The contents of a folder of class folders.

    Attributes:
        folder: the folder.
        classes: paths of the images of each class that has images, in the order of the rows.
        empty: class folders without images, with the number of other files by extension or reason.
        loose: images next to the class folders.
        left_out: number of files and folders that are not used, by extension or reason.
    """

    folder: Path
    classes: dict[str, list[str]] = field(default_factory=dict)
    empty: dict[str, Counter[str]] = field(default_factory=dict)
    loose: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def part_of(name: str) -> str | None:
    """`train`, `validation` or `test` if `name` is a known name of that part, otherwise None."""
    return next((part for part, names in PART_NAMES.items() if name.casefold() in names), None)


def picture_endings() -> set[str]:
    """File extensions, in lower case, of the formats that the installed Pillow can decode."""
    return {
        ending
        for ending, name in PIL.Image.registered_extensions().items()
        if name in PIL.Image.OPEN and name not in _NOT_DECODED
    }


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _OF_THE_SYSTEM


def visible_folders(folder: str | Path) -> list[str]:
    """Names of the folders in a folder, including links to folders, sorted as text."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not is_hidden(entry.name) and _kind(entry) == "folder")


def _kind(entry: os.DirEntry[str]) -> str | None:
    """`folder`, `file`, or None for a broken link, a pipe and the like; reads the disk only for links."""
    if entry.is_symlink():  # `entry.is_dir` raises an error for a link to itself
        return "folder" if os.path.isdir(entry.path) else "file" if os.path.isfile(entry.path) else None
    return "folder" if entry.is_dir() else "file" if entry.is_file() else None


def read_class_folders(folder: str | Path, dataset: str | Path | None = None) -> ClassFolders:
    """Finds the images of each class without opening them.

    Links are followed, except links that lead out of a downloaded dataset. No folder is read twice.

    Args:
        folder: contains a folder for each class.
        dataset: the dataset folder that the user named, if `folder` is a part of it.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: two classes link to the same folder, the name of a class is not UTF-8, or the folder is a link that
            leads out of a downloaded dataset.
    """
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder `{folder}`; it must contain one sub-folder of images per class")
    found, reader = ClassFolders(folder), _Reader(folder, _boundary(Path(dataset or folder)))
    if reader.leads_out(folder):
        raise ValueError(f"`{folder}` is a link that leads out of a downloaded dataset; it is not followed")
    folders, found.loose = reader.list(folder, found.left_out)
    for path in folders:
        name = os.path.basename(path)
        if not _is_utf8(name):
            raise ValueError(f"the class folder {ascii(name)} in `{folder}` has a name that is not UTF-8; rename it")
        left_out: Counter[str] = Counter()
        images = reader.images(path, name, left_out)
        if images:
            found.classes[name] = images
        else:
            found.empty[name] = left_out
        found.left_out += left_out
    if found.loose and found.classes:
        found.left_out[OUTSIDE] = len(found.loose)
    return found


def images_below(folder: str | Path) -> tuple[list[str], Counter[str]]:
    """Finds the images in a folder at any depth, whatever its sub-folders are, by the rules for class folders.

    Returns:
        Their paths, sorted as text, and the number of other files and folders by extension or reason.
    """
    reader, left_out = _Reader(Path(folder), _boundary(Path(folder))), Counter[str]()
    waiting, found = reader.list(folder, left_out)
    while waiting:
        current = waiting.pop()
        if reader.is_new(current, ""):
            folders, images = reader.list(current, left_out)
            waiting += folders
            found += images
        else:
            left_out[READ_ALREADY] += 1
    return sorted(found), left_out


class _Reader:
    """Lists each folder only once, because links may lead to a parent folder or to the folder of another class."""

    def __init__(self, root: Path, boundary: Path | None):
        self.endings, self.boundary = picture_endings(), boundary
        above = (root.resolve(), *root.resolve().parents)
        self.read: dict[tuple[int, int], tuple[str | None, str]] = {
            _identity(path): (None, str(path)) for path in above
        }

    def images(self, folder: str, label: str, left_out: Counter[str]) -> list[str]:
        """All images below a class folder, sorted by path as text."""
        waiting, found = [folder], []
        while waiting:
            current = waiting.pop()
            if self.is_new(current, label):
                folders, images = self.list(current, left_out)
                if current == folder:
                    _check_no_parts(folder, folders)
                waiting += reversed(folders)
                found += images
            else:
                left_out[READ_ALREADY] += 1
        return sorted(found)

    def is_new(self, folder: str, label: str) -> bool:
        known_label, known = self.read.setdefault(_identity(folder), (label, folder))
        if known_label not in (None, label):
            raise ValueError(
                f"`{known}` and `{folder}` are the same folder, but belong to the classes {known_label!r} and "
                f"{label!r}; remove one of them"
            )
        return known == folder

    def list(self, folder: str | Path, left_out: Counter[str]) -> tuple[list[str], list[str]]:
        """Sorted paths of (folders, images) in a folder; counts everything else in `left_out`."""
        folders, images = [], []
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                ending = os.path.splitext(entry.name)[1].lower()
                if is_hidden(entry.name):
                    left_out[HIDDEN] += 1
                elif entry.is_symlink() and self.leads_out(entry.path):
                    left_out[LEADS_OUT] += 1
                elif entry.is_symlink() and Path(os.path.realpath(folder)).is_relative_to(
                    os.path.realpath(entry.path)
                ):
                    left_out[READ_ALREADY] += 1  # a link to a parent folder would lead here again
                elif _kind(entry) == "folder":
                    folders.append(entry.path)
                elif _kind(entry) is None:
                    left_out[BROKEN] += 1
                elif entry.name in METADATA_NAMES:
                    left_out[METADATA] += 1
                elif ending not in self.endings:
                    left_out[ending or NO_ENDING] += 1
                elif not _is_utf8(entry.name):
                    left_out[NOT_UTF8] += 1
                else:
                    images.append(entry.path)
        return folders, images

    def leads_out(self, path: str | Path) -> bool:
        return self.boundary is not None and not Path(os.path.realpath(path)).is_relative_to(self.boundary)


def _check_no_parts(folder: str, inside: list[str]) -> None:
    """Rejects a class folder that contains parts (`cat/train` and `cat/test`), because all would be trained on."""
    names = [os.path.basename(path) for path in inside]
    if len({part_of(name) for name in names} - {None}) > 1:
        raise ValueError(
            f"the class folder `{folder}` contains the parts {', '.join(names)}; put the class folders into the "
            f"parts, such as {names[0]}/{os.path.basename(folder)}"
        )


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_utf8(name: str) -> bool:
    return name.isascii() or name.encode(errors="replace").decode() == name


def _boundary(folder: Path) -> Path | None:
    """The folder that links of a downloaded dataset must not leave, or None for a folder of the user."""
    folder = folder.resolve()
    for cache in (Path(HF_HUB_CACHE).resolve(), Path(HF_DATASETS_CACHE).resolve()):
        if folder.is_relative_to(cache):  # the images of a snapshot are links to blobs elsewhere in its repository
            return cache.joinpath(*folder.relative_to(cache).parts[:1])
    for root in (folder, *folder.parents):
        marker = root / ".cache" / "huggingface" / "download"  # created by `hf download --local-dir`
        if marker.is_dir() and (marker / folder.relative_to(root)).exists():
            return root
    return folder if (folder / ".git").exists() else None  # a clone


# ---- rows ----


def names_in_order(names: Iterable[str]) -> list[str]:
    """Class names sorted as text; if they are the numbers 0 to C - 1, as in ImageNet-V2, sorted by value."""
    in_order = sorted(names)
    numbers = [str(number) for number in range(len(in_order))]
    return numbers if sorted(numbers) == in_order else in_order


def rows_of_classes(found: ClassFolders, names: list[str]) -> datasets.Dataset:
    """Rows of images and class indices (in `names`), sorted by path as text.

    This is the order of `datasets`. Training views depend on it.
    """
    indices = {name: index for index, name in enumerate(names)}
    pairs = sorted((path, indices[name]) for name, paths in found.classes.items() for path in paths)
    labels = pa.array([index for _, index in pairs], pa.int64())
    return _rows([path for path, _ in pairs], label=(datasets.ClassLabel(names=names), labels))


def rows_without_labels(found: ClassFolders) -> datasets.Dataset:
    """Rows of the images in a folder without class folders."""
    return _rows(found.loose)


def _rows(paths: list[str], **columns: tuple[Any, pa.Array]) -> datasets.Dataset:
    image = datasets.Image()
    images = image.cast_storage(pa.array(paths, pa.string()))  # only paths: files are read when they are needed
    table = pa.table({"image": images, **{name: array for name, (_, array) in columns.items()}})
    features = {"image": image, **{name: feature for name, (feature, _) in columns.items()}}
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=datasets.Features(features)))


def check_classes(found: ClassFolders, *, at_least: int = 1) -> None:
    """Checks that a folder contains enough classes.

    Raises:
        ValueError: there are too few classes; the message names what the folder contains instead.
    """
    if len(found.classes) >= at_least:
        return
    left_out = found.left_out | ({OUTSIDE: len(found.loose)} if found.loose else {})
    empty = f"class folders without images: {', '.join(list(found.empty)[:4])}" if found.empty else ""
    held = "; ".join(filter(None, (empty, in_words(left_out))))
    instead = f" ({held})" if held else ""
    if not found.classes:
        raise ValueError(
            f"`{found.folder}` has no class folder with images{instead}; it must contain one sub-folder of images "
            "for each class"
        )
    name = next(iter(found.classes))
    inside = visible_folders(found.folder / name)
    hint = f"; if the classes are {', '.join(inside[:4])}, name `{found.folder / name}`" if len(inside) > 1 else ""
    raise ValueError(
        f"`{found.folder}` has images of one class only, `{name}`{instead}; it must contain one sub-folder of images "
        f"for each class, at least two{hint}"
    )


def in_words(left_out: Mapping[str, int]) -> str:
    """The counts of what is left out as text, the most frequent first: `.heic 12, hidden 3`."""
    return ", ".join(f"{reason} {count}" for reason, count in sorted(left_out.items(), key=lambda item: -item[1]))


def check_known_classes(found: ClassFolders, trained: ClassFolders) -> None:
    """Checks that the training part has images of each class of the evaluation part.

    Raises:
        ValueError: a class is missing in training; the message names both folders and the most similar class.
    """
    unknown = [name for name in found.classes if name not in trained.classes]
    if not unknown:
        return
    name = unknown[0]
    if name in trained.empty:
        hint = f"the class folder `{trained.folder / name}` has no readable images; add some, or remove both folders"
    else:
        nearest = nearest_name(name, trained.classes)
        similar = f"; the most similar is {_shown(nearest, name)}" if nearest is not None else ""
        hint = f"`{trained.folder}` has no such class{similar}; rename or remove the folder"
    others = f" ({len(unknown)} such classes: {', '.join(unknown[:4])})" if len(unknown) > 1 else ""
    raise ValueError(f"`{found.folder / name}` is a class that the training part lacks{others}: {hint}")


def nearest_name(name: str, names: Iterable[str]) -> str | None:
    """The most similar name, or None if no name is similar. Ignores the differences of `letters_of`."""
    by_letters: Mapping[str, str] = {letters_of(other): other for other in names}
    close = get_close_matches(letters_of(name), by_letters, n=1)
    return by_letters[close[0]] if close else None


def letters_of(name: str) -> str:
    """Normalises a name: ignores case, kinds of separators, and the Unicode encoding of accents."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").replace("-", " ").split())


def _shown(name: str, other: str) -> str:
    """A name for a message; if both names look the same, both in ASCII."""
    same = unicodedata.normalize("NFKC", name) == unicodedata.normalize("NFKC", other)
    return f"{ascii(name)}, not {ascii(other)}" if same else f"`{name}`"
