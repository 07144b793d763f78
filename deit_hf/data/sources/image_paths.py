"""Finds the images that a user names by files, folders, globs and URLs."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .class_folders import images_below, in_words, is_hidden, picture_endings

URL_STARTS = ("http://", "https://")


def find_images(paths: Sequence[str]) -> list[str]:
    """Lists the images that files, folders, globs and URLs name, each once and in the order in which they are named.

    A folder stands for the images in it at any depth, by the rules for class folders: hidden files and files that are
    not images by their extension are left out. A glob (`*`, `?`, `[...]`, and `**` for any depth) stands for the
    files that it matches, by the same rules, and for the images in the folders that it matches. A file that is named
    itself may have any extension. Files and URLs are not opened.

    Raises:
        FileNotFoundError: a path does not exist, or a glob matches nothing.
        ValueError: a folder, or what a glob matches, contains no image; or a URL is not one of the web.
    """
    found: dict[str, str] = {}
    for path in paths:
        for image in _images_of(path):
            found.setdefault(image if image.startswith(URL_STARTS) else os.path.abspath(image), image)
    return list(found.values())


def _images_of(path: str) -> list[str]:
    if path.startswith(URL_STARTS) or os.path.isfile(path):
        return [path]
    if "://" in path:
        raise ValueError(f"`{path}` is not a web address; name an http:// or https:// address, or download the file")
    if os.path.isdir(path):
        return _checked(path, *images_below(path))
    if glob.has_magic(path) and not os.path.lexists(path):  # a shell passes a glob that matches nothing unchanged
        return _matching(path)
    if os.path.lexists(path):
        return [path]  # a broken link or a pipe; decoding it raises an error that says so
    raise FileNotFoundError(
        f"`{path}` does not exist (looked in {Path(path).absolute().parent}); name an image, a folder, a glob such as "
        "'photos/**/*.jpg', or a URL"
    )


def _matching(pattern: str) -> list[str]:
    """Images that a glob matches, and images in the folders that it matches."""
    matches = sorted(glob.glob(pattern, recursive=True))
    if not matches:
        raise FileNotFoundError(
            f"`{pattern}` matches no file (looked in {Path.cwd()}); check the folder and the extension, or name a "
            "folder, which is searched at any depth"
        )
    fixed = len(Path(pattern[: next(i for i, c in enumerate(pattern) if c in "*?[")]).parts)
    images, left_out, endings = [], Counter[str](), picture_endings()
    for match in matches:
        ending = os.path.splitext(match)[1].lower()
        if any(is_hidden(part) for part in Path(match).parts[fixed:]):
            left_out["hidden"] += 1
        elif os.path.isdir(match):
            inside, others = images_below(match)
            images += inside
            left_out += others
        elif ending in endings:
            images.append(match)
        else:
            left_out[ending or "without an extension"] += 1
    return _checked(pattern, images, left_out)


def _checked(path: str, images: list[str], left_out: Counter[str]) -> list[str]:
    """Returns the images, if there are any.

    Raises:
        ValueError: there are none; the message says what there is instead.
    """
    if images:
        return images
    what = f"only other files: {in_words(left_out)}" if left_out else "it is empty"
    raise ValueError(
        f"`{path}` contains no image that can be read ({what}); name a folder of images such as .jpg or .png, or "
        "convert them"
    )
