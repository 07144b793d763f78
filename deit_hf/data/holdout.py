"""Holds out a part of the training images for validation, for data without a validation part.

The content of an image decides whether it is held out, not its name or position: the same images are held out every
time, wherever the data lies, and most of them stay the same when images are added.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from itertools import groupby

import datasets

from .contents import UndecodedImages, digests

FRACTION = 0.15  # of each class, for commands that choose a validation part themselves


def hold_out(
    rows: datasets.Dataset, fraction: float, *, image_column_name: str, label_column_name: str
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Splits rows into training and validation rows, each in the order of `rows`.

    Args:
        rows: images with labels.
        fraction: share of each class to hold out, in (0, 1); rounded to whole images, at least one of a class with two
            different images. Images with the same content are not separated.
        image_column_name: column of images.
        label_column_name: column of labels.

    Raises:
        ValueError: no image can be held out, because no class has two different images.
    """
    labels = rows.with_format(None).select_columns([label_column_name])[:][label_column_name]
    contents = digests(UndecodedImages(rows, image_column_name))
    chosen = held_out(contents, [tuple(label) if isinstance(label, list) else label for label in labels], fraction)
    if not chosen:
        raise ValueError(
            f"no image of {len(rows)} can be held out for validation, because no class has two different images; add "
            "images, or name a validation part"
        )
    kept = sorted(set(range(len(rows))) - set(chosen))
    return rows.select(kept), rows.select(chosen)


def held_out(contents: Sequence[bytes], labels: Sequence[Hashable], fraction: float) -> list[int]:
    """Indices of the images to hold out, in order.

    Args:
        contents: a digest of each image.
        labels: the class of each image.
        fraction: share of each class, in (0, 1).
    """
    by_class: dict[Hashable, list[tuple[bytes, int]]] = defaultdict(list)
    for index, (content, label) in enumerate(zip(contents, labels, strict=True)):
        by_class[label].append((content, index))
    kept, chosen, indices = set[bytes](), set[bytes](), []
    for label in sorted(by_class, key=repr):  # an image in two classes belongs where the first of them has put it
        images = sorted(by_class[label])
        equal = [(content, [index for _, index in group]) for content, group in groupby(images, key=lambda x: x[0])]
        wanted = max(1, round(fraction * len(images)))
        taken = sum(len(group) for content, group in equal if content in chosen)
        undecided = [(content, group) for content, group in equal if content not in kept | chosen]
        has_kept = any(content in kept for content, _ in equal)
        for content, group in undecided if has_kept else undecided[:-1]:
            if taken >= wanted:
                break
            chosen.add(content)
            taken += len(group)
        kept |= {content for content, _ in equal} - chosen
        indices += [index for content, group in equal if content in chosen for index in group]
    return sorted(indices)
