"""Safe loading of downloaded datasets: rejects rows that point to local files or URLs.

`datasets` itself checks archives and metadata files of image folders: it does not follow entries and file names that
lead out of them.
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
    """Loads the splits of a dataset from the Hub or a local directory. Rows of a local directory are trusted.

    Raises:
        ValueError: the dataset has its own code, or rows of a downloaded dataset point to files or URLs.
    """
    with explained_by_cause(name):
        splits = datasets.load_dataset(name, config_name)
    if not os.path.isdir(name):
        for split in splits.values():
            check_downloaded_rows(split, image_column_name, name)
    return splits


def check_dataset_name(name: str) -> None:
    """Rejects a file or a missing directory before the Hub is asked for a dataset of that name.

    Raises:
        FileNotFoundError: the name can only be a directory, and there is no such directory.
        ValueError: the name is empty or is that of a file.
    """
    if not name.strip():
        raise ValueError("`dataset_name` is empty; name a directory or a Hub id, or leave it out")
    if name.endswith(".py"):  # loading it raises the error about datasets with code
        return
    if os.path.isfile(name):
        raise ValueError(
            f"`dataset_name` is the file {name}, but must be a directory or a Hub id; if it is an archive, unpack it "
            "and name the directory of its files"
        )
    if (name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name) and not os.path.isdir(name):
        raise FileNotFoundError(f"`dataset_name` is {name}, but there is no such directory; fix the path")


@contextlib.contextmanager
def explained_by_cause(name: str) -> Iterator[None]:
    """Replaces errors of `datasets` by errors of one line that include the cause.

    Raises:
        ConnectionError: the dataset is not a local directory, and the Hub cannot be reached.
        DatasetNotFoundError: the dataset is neither a local directory nor on the Hub.
        FileNotFoundError: the dataset has no files, or one of them does not exist.
        ValueError: the dataset has its own code or cannot be read (for example, a file name leads out of it), or its
            configuration is wrong.
    """
    try:
        yield
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        reason = " ".join(str(error).split())
        raise type(error)(
            f"`{name}` is not a local directory and could not be loaded from the Hub: {reason}; name a directory, or "
            "a Hub id while the Hub can be reached"
        ) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"dataset `{name}` has no files that can be read: {' '.join(str(error).split())}; it must contain one "
            "folder of images per class, or files of rows, such as parquet"
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
            f"dataset `{name}` has its own code, which deit_hf never runs; name a version with parquet files or "
            "images (on the Hub often in the branch refs/convert/parquet)"
        ) from error


def check_downloaded_rows(rows: datasets.Dataset, image_column_name: str, name: str) -> None:
    """Rejects rows that name a file or a URL instead of containing the image, unless the file was downloaded.

    Such rows would decide which local files are read and which servers are contacted.

    Args:
        rows: rows of a downloaded dataset.
        image_column_name: column of images; nothing is checked without it, because such rows cannot be trained on.
        name: name of the dataset.

    Raises:
        ValueError: there is such a row; the message names the first one.
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
                    f"row {start + place} of the downloaded dataset `{name}` names `{path}` instead of containing an "
                    "image, so the dataset decides which files or URLs this machine reads; if you trust it, save its "
                    "rows in a local folder and name that"
                )
        start += len(chunk)


def _paths_without_bytes(chunk: Any) -> list[tuple[int, str]]:
    """(index, path) of each row of an Arrow array that has a path but no bytes."""
    kind = str(chunk.type)
    if kind.startswith("struct"):
        places = np.flatnonzero(chunk.field("bytes").is_null().to_numpy(zero_copy_only=False))
        paths = chunk.field("path").take(places).to_pylist()
    elif kind in ("string", "large_string"):
        places, paths = np.arange(len(chunk)), chunk.to_pylist()
    else:
        return []
    return [(place, path) for place, path in zip(places.tolist(), paths, strict=True) if path is not None]
