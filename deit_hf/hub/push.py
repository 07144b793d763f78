"""Pushes the files of a finished run, or a store of teacher answers, to the Hub, without pickles.

It needs only the directory, no trainer and no model. model_card.py writes the card of a model, store_card.py that of a
store.
"""

import logging
import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..argument_checks import check, without_tokens
from .public_text import public_texts
from .run_files import files_to_leave, files_to_push
from .upload import SILENT_SECONDS, one_line, upload

logger = logging.getLogger(__name__)

MESSAGE_NAMES = {"model": "model trained", "dataset": "answers stored"}
MAX_NAMES = 20  # file names per log line
BASE_SECONDS, BYTES_PER_SECOND = 600.0, 1e6  # default time limit: BASE_SECONDS + size / BYTES_PER_SECOND


class HubPushError(RuntimeError):
    """A push failed; the message has the reason and the command to repeat it."""

    exit_code = 3  # of the command


def push_directory(
    directory: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | None = None,
    include: Sequence[str] = (),
    time_limit: float | None = None,
) -> str:
    """Uploads a run or a store of teacher answers in one commit; creates a missing repository or branch.

    A directory with a store.json is a store, and becomes a dataset repository (store_files.py). Of a run, uploads only
    the files that a run writes (run_files.py) and `include`; logs the names of these and other files. Uploads
    recipe.yaml, trainer_state.json, README.md and config.json without absolute paths; the local files do not change.

    Args:
        directory: of a run, with config.json, preprocessor_config.json and weights as safetensors, or of a store.
        repo_id: `user/name`, or `name` for the user of the token.
        private: whether a new repository is private; `True` also refuses to push to an existing public one.
        revision: branch, main by default.
        commit_message: first line of the commit.
        token: of the Hub; by default that of `hf auth login` or `HF_TOKEN`.
        include: more files to upload, named relative to `directory`; never pickles or checkpoints.
        time_limit: in seconds; by default 600 plus 1 per MB.

    Returns:
        The URL of the commit.

    Raises:
        ValueError: `repo_id` is not a valid name, `time_limit` is not above 0, or a file may not be pushed.
        FileNotFoundError: the directory lacks a required file; names all missing files.
        HubPushError: the Hub was not reached, or refused the push, or did not answer; the commit was not made.
    """
    directory = Path(directory)
    check_repository_name(repo_id)
    repo_type, names, texts = _contents(directory, repo_id, include)
    files = {name: str(directory / name) for name in names}
    time_limit = default_time_limit(files.values()) if time_limit is None else time_limit
    check("time_limit", time_limit, lambda v: v > 0, "more than 0 seconds")
    _log_names(f"files to push to {repo_id}", list(files | texts))
    _log_names("files not pushed (add some with `include`)", files_to_leave(directory, list(files)))
    token = token or get_token()
    _check_no_token(files, token)
    try:
        if token is None:
            raise PermissionError("no Hub token was found; log in with `hf auth login`, or set HF_TOKEN")
        with tempfile.TemporaryDirectory() as folder:
            files |= _written(texts, Path(folder))
            options = {"private": private, "revision": revision, "token": token}
            options["commit_message"] = commit_message or f"Upload {MESSAGE_NAMES[repo_type]} with deit_hf"
            job = {"repo_id": repo_id, "repo_type": repo_type, "files": files, **options}
            return upload({**job, "silent_seconds": min(SILENT_SECONDS, time_limit)}, time_limit)
    except Exception as error:  # huggingface_hub raises many unrelated types, and none may end a training
        retry = _retry_command(directory, repo_id, private, revision, commit_message, include)
        reason = _without_token(one_line(error), token)
        raise HubPushError(
            f"`{directory}` was not pushed to `{repo_id}`: {reason}; try again with: {retry}"
        ) from error


def _contents(directory: Path, repo_id: str, include: Sequence[str]) -> tuple[str, list[str], dict[str, str]]:
    """The type of the repository, the names of local files, and the texts of files that replace or complete them."""
    if (directory / "store.json").is_file():
        from .store_files import texts_of_store, verified_files  # imports torch, which a push of a run does not need

        if include:
            raise ValueError(
                f"`include` is {list(include)}, but a store of teacher answers has no further files to push"
            )
        return "dataset", verified_files(directory), texts_of_store(directory, repo_id)
    names = files_to_push(directory, include)
    texts = public_texts(directory, repo_id)
    return "model", names, {name: text for name, text in texts.items() if name in names}


def check_repository_name(repo_id: str) -> None:
    """Checks the name of a repository.

    Raises:
        ValueError: the name is invalid, or is a token.
    """
    if without_tokens(repo_id) != repo_id:
        raise ValueError("the name of the repository (`hub_model_id`) is a Hub token; use user/name")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"`hub_model_id` is `{repo_id}`, which is not a valid repository name: {error}") from error


def push_or_warn(directory: str | Path, repo_id: str, **options: Any) -> str | None:
    """Like `push_directory`, but logs a warning and returns None if the push fails, so that no training ends."""
    try:
        return push_directory(directory, repo_id, **options)
    except (HubPushError, ValueError, OSError) as error:
        logger.warning("%s", error)
        return None


def default_time_limit(paths: Iterable[str]) -> float:
    """Returns the time limit in seconds for a push of these files."""
    return BASE_SECONDS + sum(Path(path).stat().st_size for path in paths) / BYTES_PER_SECOND


def _written(texts: Mapping[str, str], folder: Path) -> dict[str, str]:
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return {name: str(folder / name) for name in texts}


def _check_no_token(files: Mapping[str, str], token: str | None) -> None:
    for name, path in files.items():
        if token and not name.endswith(".safetensors") and token.encode() in Path(path).read_bytes():
            raise ValueError(f"`{name}` holds your Hub token, so nothing is pushed; remove it, and create a new token")


def _log_names(words: str, names: Sequence[str]) -> None:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    logger.info("%s (%d): %s%s", words, len(names), ", ".join(names[:MAX_NAMES]) or "none", more)


def _retry_command(
    directory: Path,
    repo_id: str,
    private: bool | None,
    revision: str | None,
    commit_message: str | None,
    include: Sequence[str],
) -> str:
    command = ["deit-hf", "push", str(directory), "--hub_model_id", repo_id]
    command += ["--private"] if private else []
    command += ["--revision", revision] if revision is not None else []
    command += ["--commit_message", commit_message] if commit_message is not None else []
    command += ["--include", *include] if include else []
    return shlex.join(command)


def _without_token(message: str, token: str | None) -> str:
    """Removes the token from a message, also in quoted form: errors quote a token with unprintable characters."""
    for quoted in (token, ascii(token)[1:-1]) if token else ():
        message = message.replace(quoted, "<token>")
    return message
