"""A report of the data of a run: classes, images, skipped files, and duplicates between parts.

The work is bounded: only the headers of some images are read. They are evenly spaced, without random numbers.
"""

import io
import itertools
import logging
import os
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import datasets
import PIL.Image

from ..model.labels import class_names
from .contents import UndecodedImages, digest_of, in_threads
from .sources.class_folders import BROKEN, NOT_UTF8, ClassFolders, in_words, letters_of
from .sources.folder_layout import UNREAD_PICTURES
from .sources.load import ImageParts
from .sources.shards import ShardedRows

logger = logging.getLogger(__name__)

NUM_SAMPLED = 200  # images per part whose header is read
NUM_COMPARED = 10_000  # images per part that are compared with other parts
NO_NAME = "an image without a file name"
MAX_NAMES = 8  # class names per line


@dataclass
class PartReport:
    """Report of one part of the data.

    Attributes:
        part: `train`, `evaluation` or `test`.
        name: name of the part in the data, such as `val`.
        num_pictures: number of images; None for a stream of unknown length.
        classes: number of images of each class, including classes without images; empty if rows have several labels.
        num_sampled: number of images whose header was read.
        sizes: (width, height) in pixels of the sampled images.
        modes: Pillow modes of the sampled images, with counts.
        unreadable: names of the sampled images that Pillow cannot open.
        folders: the class folders of the part; None for any other source.
    """

    part: str
    name: str
    num_pictures: int | None
    classes: dict[str, int] = field(default_factory=dict)
    num_sampled: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    modes: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)
    folders: ClassFolders | None = None


@dataclass
class DataReport:
    """Report of all parts of the data.

    Attributes:
        parts: report of each part.
        notes: sentences about data that is not used.
        duplicates: for (first part, second part), the images of the second part that the first part contains, too:
            (name in the first part, name in the second part).
        num_compared: number of compared images of each part that was not compared completely.
    """

    parts: list[PartReport]
    notes: list[str] = field(default_factory=list)
    duplicates: dict[tuple[str, str], list[tuple[str, str]]] = field(default_factory=dict)
    num_compared: dict[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The report as lines of text."""
        titles = [part.part if part.part == part.name else f"{part.part} ({part.name})" for part in self.parts]
        width = max(map(len, titles))
        lines = [f"{title:{width}}  {_in_words(part)}" for title, part in zip(titles, self.parts, strict=True)]
        for title, part in zip(titles, self.parts, strict=True):
            if part.folders is not None and part.folders.left_out:
                lines.append(f"{title:{width}}  left out: {in_words(part.folders.left_out)}")
        return [*lines, *self.notes]

    def warnings(self) -> list[str]:
        """Probable mistakes in the data, one sentence each."""
        found = [warning for part in self.parts for warning in _warnings(part)]
        for (first, second), pairs in self.duplicates.items():
            limits = [f"{self.num_compared[part]} of {part}" for part in (first, second) if part in self.num_compared]
            compared = f" (compared: {' and '.join(limits)})" if limits else ""
            found.append(
                f"images of the {second} part that are also in the {first} part{compared}: {len(pairs)}, such as "
                f"{pairs[0][1]} (equal to {pairs[0][0]}); accuracy on them is misleading, so remove them from one part"
            )
        return found


def check_data(parts: ImageParts, *, image_column_name: str = "image", label_column_name: str = "label") -> DataReport:
    """Reports what the parts contain. Changes nothing, and draws no random numbers.

    Args:
        parts: the parts of a training or an evaluation.
        image_column_name: column of images.
        label_column_name: column of labels.
    """
    rows = {part: getattr(parts, part) for part in ("train", "evaluation", "test")}
    report = DataReport([], list(parts.notes))
    images = {}
    for part, part_rows in rows.items():
        if part_rows is None:
            continue
        name = parts.names.get(part, part)
        if isinstance(part_rows, ShardedRows):
            num = None if part_rows.lengths is None else sum(part_rows.lengths)
            report.parts.append(PartReport(part, name, num))
            continue
        checked = PartReport(part, name, len(part_rows), _count_classes(part_rows, label_column_name))
        checked.folders = parts.folders.get(part)
        report.parts.append(checked)
        if image_column_name in part_rows.column_names:
            images[part] = UndecodedImages(part_rows, image_column_name)
            _inspect_some(images[part], checked)
    if len(images) > 1:
        _find_duplicates(images, report)
    return report


def log_data_report(report: DataReport) -> None:
    """Logs the report in a few lines, and a warning for each probable mistake."""
    logger.info("The data:\n%s", "\n".join(report.lines()))
    for warning in report.warnings():
        logger.warning("%s", warning)


# ---- one part ----


def _count_classes(rows: datasets.Dataset, column: str) -> dict[str, int]:
    if column not in rows.column_names:
        return {}
    names = class_names(rows, column)
    labels = rows.with_format(None).select_columns([column])[:][column]
    if any(isinstance(label, list) for label in labels):
        return {}
    counts = Counter(labels)
    if names is None:
        return {
            str(label): count for label, count in sorted(counts.items(), key=lambda item: (item[0] is None, item[0]))
        }
    return {name: counts[index] for index, name in enumerate(names)}


def _inspect_some(images: UndecodedImages, report: PartReport) -> None:
    """Adds sizes and modes of some images to the report."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # too large images: decoding.py raises an error for them
        headers = in_threads(_header, list(images.spaced(NUM_SAMPLED)))
    for header in headers:
        if isinstance(header, str):
            report.unreadable.append(header)
        elif header is not None:
            report.sizes.append(header[0])
            report.modes[header[1]] += 1
    report.num_sampled = len(report.sizes) + len(report.unreadable)


def _header(source: tuple[bytes | None, str | None]) -> tuple[tuple[int, int], str] | str | None:
    """Size and mode of an image; its name if it cannot be opened; None if it is not on this machine."""
    content, path = source
    if content is None and (path is None or path.startswith(("http://", "https://"))):
        return None
    try:
        if content is None and not os.path.isfile(str(path)):
            return str(path)  # opening a pipe would block forever
        with PIL.Image.open(str(path) if content is None else io.BytesIO(content)) as image:
            return image.size, image.mode
    except Exception:  # Pillow's decoders raise many types of errors
        return path or NO_NAME


# ---- duplicates ----


class _Compared(NamedTuple):
    """An image to compare: the digest of its bytes, or None if they are in the file `name`."""

    name: str
    num_bytes: int
    digest: bytes | None = None


def _find_duplicates(images: dict[str, UndecodedImages], report: DataReport) -> None:
    """Adds pairs of equal images in two parts. Bytes are compared only if the number of bytes is equal."""
    report.num_compared = {part: NUM_COMPARED for part, each in images.items() if len(each) > NUM_COMPARED}
    compared = {part: _to_compare(each) for part, each in images.items()}
    parts_of = Counter(num for rows in compared.values() for num in {row.num_bytes for row in rows})
    contents = {}
    for part, rows in compared.items():
        alike = [row for row in rows if parts_of[row.num_bytes] > 1]
        contents[part] = list(zip(in_threads(_digest_of_row, alike), (row.name for row in alike), strict=True))
    for first, second in itertools.combinations(contents, 2):
        known = dict(contents[first])
        both = [(known[digest], name) for digest, name in contents[second] if digest in known]
        if both:
            report.duplicates[first, second] = both


def _to_compare(images: UndecodedImages) -> list[_Compared]:
    rows, paths = [], []
    for content, path in images.spaced(NUM_COMPARED):
        if content is not None:
            rows.append(_Compared(path or NO_NAME, len(content), digest_of(io.BytesIO(content))))
        elif path is not None:
            paths.append(path)
    sizes = in_threads(lambda path: os.path.getsize(path) if os.path.isfile(path) else None, paths)
    return rows + [_Compared(path, size) for path, size in zip(paths, sizes, strict=True) if size is not None]


def _digest_of_row(row: _Compared) -> bytes:
    if row.digest is not None:
        return row.digest
    with open(row.name, "rb") as file:
        return digest_of(file)


# ---- text ----


def _in_words(part: PartReport) -> str:
    text = "a stream" if part.num_pictures is None else f"{part.num_pictures:,} images"
    present = {name: count for name, count in part.classes.items() if count}
    if present:
        counts = ", ".join(f"{name} {count}" for name, count in present.items())
        each = counts if len(present) <= MAX_NAMES else f"{_range(present.values())} each"
        of = f" of the {len(part.classes)}" if len(present) < len(part.classes) else ""
        text += f" in {len(present)}{of} classes ({each})"
    if part.sizes:
        widths, heights = zip(*part.sizes, strict=True)
        modes = ", ".join(f"{mode} {count}" for mode, count in part.modes.most_common())
        text += f"; {part.num_sampled} inspected: {_range(widths)} pixels wide, {_range(heights)} high, {modes}"
    return text


def _range(values: Collection[int]) -> str:
    fewest, most = min(values), max(values)
    return f"{fewest} to {most}" if fewest < most else str(most)


def _warnings(part: PartReport) -> list[str]:
    found = []
    if part.unreadable:
        found.append(
            f"images of the {part.part} part that cannot be opened: {len(part.unreadable)} of {part.num_sampled} "
            f"inspected, such as {part.unreadable[0]}; fix or remove them"
        )
    if part.part == "train":
        lacking = [name for name, count in part.classes.items() if not count]
        if lacking:
            found.append(
                f"classes without images in the train part: {len(lacking)} ({_some(lacking)}); add images, or "
                "remove these classes"
            )
        alike = Counter(letters_of(name) for name in part.classes)
        same = [repr(name) for name in part.classes if alike[letters_of(name)] > 1]
        if same:
            found.append(f"classes with nearly equal names: {_some(same)}; merge them if they are the same")
    return found + ([] if part.folders is None else _folder_warnings(part.part, part.folders))


def _folder_warnings(part: str, folders: ClassFolders) -> list[str]:
    found = []
    empty = [f"{folders.folder / name} ({in_words(held) or 'empty'})" for name, held in folders.empty.items()]
    if empty:
        found.append(f"class folders of the {part} part without images, which are not used: {_some(empty)}")
    unread = {ending: count for ending, count in folders.left_out.items() if ending in UNREAD_PICTURES}
    if unread:
        found.append(
            f"images of the {part} part are left out because the installed Pillow cannot read them: "
            f"{in_words(unread)}; convert them, for example to JPEG"
        )
    lost = {reason: count for reason, count in folders.left_out.items() if reason in (BROKEN, NOT_UTF8)}
    return found + ([f"left out of the {part} part: {in_words(lost)}"] if lost else [])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")
