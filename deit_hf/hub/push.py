"""Pushing a finished run to the Hub: what a run writes, without pickles (what the card says is in model_card.py).

It knows no trainer and no model, only the directory that a run left.
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

MAX_NAMES = 20  # in a line of the log
BASE_SECONDS, BYTES_PER_SECOND = 600.0, 1e6  # a push takes no longer than the first and its bytes at the second


class HubPushError(RuntimeError):
    """A push that failed; the message holds the reason and the command that tries again."""

    exit_code = 3  # of a command


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
    """Uploads a run in one commit; creates the repository, and the branch, if they are not there.

    Uploads the files that a run writes (run_files.py) and no others; both are logged. recipe.yaml, trainer_state.json
    and README.md go without absolute paths; the files here stay as they are.

    Args:
        directory: with config.json, preprocessor_config.json and weights as safetensors.
        repo_id: `user/name`, or `name` for the token's own user.
        private: of a new repository; `True` also refuses to push into one that is public.
        revision: branch, main by default.
        commit_message: the commit's first line.
        token: of the Hub; by default the one of `hf auth login` or of `HF_TOKEN`.
        include: further files to upload, by their names relative to `directory`; never pickles or checkpoints.
        time_limit: seconds after which the push is given up; by default 600 and one for each MB.

    Returns:
        The commit's address.

    Raises:
        ValueError: `repo_id` is no name of the Hub, `time_limit` is not above 0, or a file may not be pushed.
        FileNotFoundError: the directory lacks a needed file; names all that it lacks.
        HubPushError: the Hub was not reached, refused or did not answer; nothing of the commit is visible there.
    """
    directory = Path(directory)
    check_repository_name(repo_id)
    files = {name: str(directory / name) for name in files_to_push(directory, include)}
    texts = public_texts(directory, repo_id)
    time_limit = default_time_limit(files.values()) if time_limit is None else time_limit
    check("time_limit", time_limit, lambda v: v > 0, "more than 0 seconds")
    _log_names(f"pushes to {repo_id}", list(files))
    _log_names("leaves here (`include` pushes more, by name)", files_to_leave(directory, list(files)))
    token = token or get_token()
    _check_no_token(files, token)
    try:
        if token is None:
            raise PermissionError("there is no token; log in with `hf auth login`, or set HF_TOKEN")
        with tempfile.TemporaryDirectory() as folder:
            for name in texts.keys() & files.keys():
                files[name] = str(Path(folder) / name)
                Path(files[name]).write_text(texts[name], encoding="utf-8")
            options = {"private": private, "revision": revision, "commit_message": commit_message, "token": token}
            job = {"repo_id": repo_id, "files": files, **options}
            return upload({**job, "silent_seconds": min(SILENT_SECONDS, time_limit)}, time_limit)
    except Exception as error:  # the client raises many unrelated types, and none of them may end a training
        retry = _retry_command(directory, repo_id, private, revision, commit_message, include)
        reason = _without_token(one_line(error), token)
        raise HubPushError(
            f"`{directory}` was not pushed to `{repo_id}`: {reason}; try again with: {retry}"
        ) from error


def check_repository_name(repo_id: str) -> None:
    """Raises ValueError for a name that no repository can have, or that is a token."""
    if without_tokens(repo_id) != repo_id:
        raise ValueError("the repository's name (`hub_model_id`) is a token of the Hub; name it user/name")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"no repository can have the name `{repo_id}` (`hub_model_id`): {error}") from error


def push_or_warn(directory: str | Path, repo_id: str, **options: Any) -> str | None:
    """As `push_directory`; what goes wrong is a warning, and gives None, as no training may end by it."""
    try:
        return push_directory(directory, repo_id, **options)
    except (HubPushError, ValueError, OSError) as error:
        logger.warning("%s", error)
        return None


def default_time_limit(paths: Iterable[str]) -> float:
    """Seconds that a push of these files may take."""
    return BASE_SECONDS + sum(Path(path).stat().st_size for path in paths) / BYTES_PER_SECOND


def _check_no_token(files: Mapping[str, str], token: str | None) -> None:
    for name, path in files.items():
        if token and not name.endswith(".safetensors") and token.encode() in Path(path).read_bytes():
            raise ValueError(f"`{name}` holds your Hub token, so nothing is pushed; take it out, and make a new token")


def _log_names(words: str, names: Sequence[str]) -> None:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    logger.info("%s, %d: %s%s", words, len(names), ", ".join(names[:MAX_NAMES]) or "nothing", more)


def _retry_command(
    directory: Path,
    repo_id: str,
    private: bool | None,
    revision: str | None,
    commit_message: str | None,
    include: Sequence[str],
) -> str:
    command = ["python", "scripts/push_to_hub.py", str(directory), "--hub_model_id", repo_id]
    command += ["--private"] if private else []
    command += ["--revision", revision] if revision is not None else []
    command += ["--commit_message", commit_message] if commit_message is not None else []
    command += ["--include", *include] if include else []
    return shlex.join(command)


def _without_token(message: str, token: str | None) -> str:
    """The message without the token; one with a line break or another stray character is quoted in the error."""
    for quoted in (token, ascii(token)[1:-1]) if token else ():
        message = message.replace(quoted, "<token>")
    return message
