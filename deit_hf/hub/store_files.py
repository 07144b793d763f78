"""Stores of teacher answers on the Hub: the files that are pushed, and downloading a store by name."""

import dataclasses
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from ..argument_checks import without_tokens
from ..distillation.teacher_cache import STORE, AnswerStore, epoch_name
from ..model.local_sources import is_unreachable
from .run_files import is_inside
from .store_card import public_value, render_store_card

logger = logging.getLogger(__name__)


# ---- pushing ----


def verified_files(directory: Path) -> list[str]:
    """The names of the files of a store that are pushed: store.json and the finished epochs, whose checksums are read.

    Logs a warning for each unfinished epoch.

    Raises:
        ValueError: there is no finished epoch, or a file is damaged or links to a file outside of the directory.
    """
    store = AnswerStore.read(directory)
    unfinished = sorted(path.name for path in directory.glob("epoch-*.unfinished.safetensors"))
    epochs = store.finished_epochs()
    if not epochs:
        raise ValueError(f"`{directory}` has no finished epoch to push; fill it with deit-hf cache-teacher")
    names = [STORE, *map(epoch_name, epochs)]
    for name in names:
        if not is_inside(directory, name):
            raise ValueError(f"`{name}` in `{directory}` links to a file outside it; replace the link by a copy")
    for epoch in epochs:
        store.rows(epoch, range(store.format.num_views))
    for name in unfinished:
        logger.warning("%s is not pushed; finish the epoch with deit-hf cache-teacher, and push again", name)
    return names


def texts_of_store(directory: Path, repo_id: str) -> dict[str, str]:
    """README.md, and store.json if its facts contain local paths.

    Raises:
        ValueError: the fingerprint contains a local path, which cannot be removed without changing it.
    """
    store = AnswerStore.read(directory)
    for name, value in store.fingerprint.items():
        if public_value(value) != value:
            raise ValueError(
                f"`{name}` in the fingerprint of `{directory}` contains a local path, {value}, so nothing is pushed; "
                "fill another store from data and a teacher without local paths in their names"
            )
    texts = {"README.md": render_store_card(store, repo_id)}
    if (facts := public_value(store.facts)) != store.facts:
        texts[STORE] = dataclasses.replace(store, facts=facts).to_json()
    return texts


# ---- downloading ----


def fetch_store(source: str | os.PathLike, *, token: str | None = None, epochs: Iterable[int] | None = None) -> Path:
    """The directory of a store: `source` itself, or the local copy of a dataset repository of this name.

    Files that were downloaded before are not downloaded again.

    Args:
        source: a directory, or `user/name`.
        token: of the Hub; by default that of `hf auth login` or `HF_TOKEN`.
        epochs: to download; by default all.

    Raises:
        FileNotFoundError: there is no such directory or repository, or it lacks one of the epochs, or is not a store.
        OSError: the Hub was not reached, and there is no local copy.
        PermissionError: the repository is gated, or the token is not valid.
        ValueError: `source` is neither a directory nor a name on the Hub.
    """
    source = os.fspath(source)
    if os.path.isdir(source):
        return Path(source)
    _check_name(source)
    wanted = None if epochs is None else [epoch_name(epoch) for epoch in epochs]
    patterns = [STORE, *(["epoch-*.safetensors"] if wanted is None else wanted)]
    options: dict[str, Any] = {"repo_type": "dataset", "allow_patterns": patterns, "token": token}
    try:
        folder = Path(snapshot_download(source, ignore_patterns=["*.unfinished.safetensors"], **options))
    except Exception as error:  # huggingface_hub raises many unrelated types
        raise _explained(source, error) from error
    if not (folder / STORE).is_file():
        raise FileNotFoundError(
            f"the dataset `{source}` on the Hub has no {STORE}, so it is not a store of teacher answers; check the "
            "name"
        )
    if missing := [name for name in wanted or () if not (folder / name).is_file()]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        wanted_and_there = f"{len(wanted or ()) - len(missing)} of the {len(wanted or ())}"
        raise FileNotFoundError(
            f"the store `{source}` on the Hub lacks {missing[0]}{more} (it has {wanted_and_there} wanted epochs); "
            "train for fewer epochs, or fill a store of your own with deit-hf cache-teacher"
        )
    return folder


def _check_name(source: str) -> None:
    is_path = source.startswith(("/", ".", "~")) or source.count("/") != 1 or "\\" in source
    if os.path.isfile(source):
        raise ValueError(f"`{source}` is a file, but a store of teacher answers is a directory; name its directory")
    if is_path:
        raise FileNotFoundError(
            f"no directory `{source}`; name a store of teacher answers, or a dataset on the Hub as user/name"
        )
    try:
        validate_repo_id(source)
    except HFValidationError as error:
        raise ValueError(
            f"`{source}` is neither a directory nor the name of a dataset on the Hub, such as user/name"
        ) from error


def _explained(source: str, error: Exception) -> Exception:
    """The error of a download, as one line that says what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError):
        return PermissionError(
            f"the dataset `{source}` on the Hub is gated; ask for access on its page, and log in with `hf auth login`"
        )
    if isinstance(error, RepositoryNotFoundError):
        return FileNotFoundError(
            f"there is neither a directory `{source}` nor a dataset of this name that you can see on the Hub; check "
            "the name, and log in with `hf auth login` if it is private"
        )
    if isinstance(error, HfHubHTTPError) and status in (401, 403):
        return PermissionError(
            f"the Hub refused access to the dataset `{source}` ({_one_line(error)}); log in again with `hf auth "
            "login`, or correct HF_TOKEN"
        )
    if isinstance(error, LocalEntryNotFoundError) or is_unreachable(error):
        return OSError(
            f"there is no directory `{source}`, and the dataset of this name was not downloaded before or only in "
            "part, and the Hub cannot be reached; check the name, connect to the network, or name a directory"
        )
    return OSError(f"the store `{source}` could not be downloaded from the Hub: {_one_line(error)}; try again")


def _one_line(error: Exception) -> str:
    return without_tokens(" ".join(str(error).split()))
