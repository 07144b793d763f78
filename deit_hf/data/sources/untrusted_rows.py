"""Datasets that others made: what their rows may make this machine read.

Archives and metadata files of image folders are checked by `datasets` itself: entries and file names that lead out of
them are not followed.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
from datasets.config import HF_DATASETS_CACHE
from huggingface_hub.constants import HF_HUB_CACHE


def load_named_dataset(
    name: str, config_name: str | None = None, image_column_name: str = "image"
) -> datasets.DatasetDict:
    """The splits of a dataset on the Hub, or in a local directory, whose rows are the user's own.

    Raises:
        ValueError: the dataset brings code of its own, or rows of a downloaded one name files or addresses.
    """
    with said_by_cause(name):
        splits = datasets.load_dataset(name, config_name)
    if not os.path.isdir(name):
        for split in splits.values():
            check_downloaded_rows(split, image_column_name, name)
    return splits


def check_dataset_name(name: str) -> None:
    """Refuses a name that can only be a directory, but is none, before the Hub is asked for it.

    Raises:
        FileNotFoundError: there is nothing of that name.
        ValueError: it is a file.
    """
    if not name.strip():
        raise ValueError("`dataset_name` is empty; name a directory or a Hub id, or leave it out")
    if name.endswith(".py"):  # one with code is refused as that, when it is loaded
        return
    if os.path.isfile(name):
        raise ValueError(
            f"`dataset_name` is the file {name}, but must be a directory or a Hub id; unpack an archive, and name the "
            "directory that holds its files"
        )
    if (name.startswith(("/", ".", "~")) or name.count("/") > 1) and not os.path.isdir(name):
        raise FileNotFoundError(f"`dataset_name` is {name}, but there is no such directory; mend the path")


@contextlib.contextmanager
def said_by_cause(name: str) -> Iterator[None]:
    """Gives the errors of `datasets` their reason, which it leaves to a traceback.

    Raises:
        ValueError: the dataset brings code of its own, or cannot be read; a file name in it may lead out of it.
    """
    try:
        yield
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        reason = " ".join(str(error).split())
        raise type(error)(
            f"`{name}` is no directory here and was not loaded: {reason}; name a directory, or a Hub id while the "
            "Hub can be reached"
        ) from error
    except datasets.exceptions.DatasetGenerationError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"dataset `{name}` cannot be read: {reason}") from error
    except ValueError as error:
        if "BuilderConfig" not in str(error):
            raise
        raise ValueError(f"`dataset_config_name` of dataset `{name}` is wrong: {error}") from error
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise ValueError(
            f"dataset `{name}` brings code of its own, which is never run here; name a version of parquet files or "
            "images (on the Hub often in the branch refs/convert/parquet)"
        ) from error


def check_downloaded_rows(rows: datasets.Dataset, image_column_name: str, name: str) -> None:
    """Refuses rows that name a file or an address instead of holding their image, unless the file was downloaded.

    They would decide which files of this machine are read, and whom it calls.

    Args:
        rows: of a downloaded dataset.
        image_column_name: nothing is checked if there is no such column, as it cannot be trained on.
        name: of the dataset.

    Raises:
        ValueError: names the first such row.
    """
    if image_column_name not in rows.column_names:
        return
    caches = tuple(os.path.join(os.path.abspath(cache), "") for cache in (HF_DATASETS_CACHE, HF_HUB_CACHE))
    column = rows.select_columns([image_column_name])
    if isinstance(rows.features[image_column_name], datasets.Image):
        column = column.cast_column(image_column_name, datasets.Image(decode=False))
    start = 0
    for chunk in column.with_format("arrow")[:].column(0).chunks:
        for place, path in _paths_without_bytes(chunk):
            if not os.path.abspath(path).startswith(caches):
                raise ValueError(
                    f"row {start + place} of the downloaded dataset `{name}` names `{path}` instead of holding an "
                    "image, so that it decides what this machine reads; if that is what you want, save its rows in a "
                    "local folder and name that"
                )
        start += len(chunk)


def _paths_without_bytes(chunk: Any) -> list[tuple[int, str]]:
    """(place, path) of each row of an Arrow array that has a path alone."""
    kind = str(chunk.type)
    if kind.startswith("struct"):
        places = np.flatnonzero(chunk.field("bytes").is_null().to_numpy(zero_copy_only=False))
        paths = chunk.field("path").take(places).to_pylist()
    elif kind in ("string", "large_string"):
        places, paths = np.arange(len(chunk)), chunk.to_pylist()
    else:
        return []
    return [(place, path) for place, path in zip(places.tolist(), paths, strict=True) if path is not None]
