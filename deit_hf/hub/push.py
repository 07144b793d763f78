"""Pushing a finished run to the Hub, without its pickles (what the card says is in model_card.py).

It knows no trainer and no model, only the directory that a run left.
"""

import logging
import shlex
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.utils import validate_repo_id

from .run_files import read_json, require_files

logger = logging.getLogger(__name__)

# Pickles run code when they are read; the rest is of no use to others.
NEVER_PUSHED = ["training_args.bin", "*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib"]
NEVER_PUSHED += ["checkpoint-*/", "*/checkpoint-*/", ".unfinished-*", ".unfinished-*/", "runs/", ".cache/"]
NEVER_PUSHED += ["bad_images*.jsonl", "run_identity.json", ".run-*"]  # paths of this machine


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
) -> str:
    """Uploads a run's directory in one commit; creates the repository, and the branch, if they are not there.

    Checkpoints and pickles (`NEVER_PUSHED`) stay here.

    Args:
        directory: with config.json, preprocessor_config.json and weights as safetensors.
        repo_id: `user/name`, or `name` for the token's own user.
        private: of a new repository; `True` also refuses to push into one that is public.
        revision: branch, main by default.
        commit_message: the commit's first line.
        token: of the Hub; by default the one of `hf auth login` or of `HF_TOKEN`.

    Returns:
        The commit's address.

    Raises:
        ValueError: `repo_id` is not a name that the Hub allows.
        FileNotFoundError: the directory lacks a needed file; names all that it lacks.
        HubPushError: the Hub was not reached or refused; nothing of the commit is visible there.
    """
    directory = Path(directory)
    validate_repo_id(repo_id)
    require_files(directory, ["config.json", "preprocessor_config.json", *_weight_files(directory)])
    try:
        return _push(HfApi(token=token, library_name="deit_hf"), directory, repo_id, private, revision, commit_message)
    except Exception as error:  # the client raises many unrelated types, and none of them may end a training
        retry = _retry_command(directory, repo_id, private, revision, commit_message)
        reason = _without_token(_one_line(error), token or get_token())
        raise HubPushError(
            f"`{directory}` was not pushed to `{repo_id}`: {reason}; try again with: {retry}"
        ) from error


def push_or_warn(directory: str | Path, repo_id: str, **options: Any) -> str | None:
    """As `push_directory`; a Hub that fails is a warning with the command that tries again, and gives None."""
    try:
        return push_directory(directory, repo_id, **options)
    except HubPushError as error:
        logger.warning("%s", error)
        return None


def _push(
    api: HfApi,
    directory: Path,
    repo_id: str,
    private: bool | None,
    revision: str | None,
    commit_message: str | None,
) -> str:
    if (api.token or get_token()) is None:
        raise PermissionError("there is no token; log in with `hf auth login`, or set HF_TOKEN")
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    info = api.model_info(repo_id, revision=revision)
    if private and info.private is False:  # some servers do not tell
        raise PermissionError(f"`{repo_id}` is public; make it private in its settings, or push without `private`")
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=directory,
        revision=revision,
        commit_message=commit_message or "Upload model trained with deit_hf",
        ignore_patterns=list(NEVER_PUSHED),
        parent_commit=info.sha,  # whoever commits meanwhile is not silently overwritten
    )
    return commit.commit_url


def _weight_files(directory: Path) -> list[str]:
    """The weights that must be there: one file, or the parts that an index names."""
    index = read_json(directory / "model.safetensors.index.json")
    return sorted(set(index["weight_map"].values())) if index else ["model.safetensors"]


def _retry_command(
    directory: Path, repo_id: str, private: bool | None, revision: str | None, commit_message: str | None
) -> str:
    command = ["python", "scripts/push_to_hub.py", str(directory), "--hub_model_id", repo_id]
    command += ["--private"] if private else []
    command += ["--revision", revision] if revision is not None else []
    command += ["--commit_message", commit_message] if commit_message is not None else []
    return shlex.join(command)


def _one_line(error: BaseException) -> str:
    """What an error and its cause say; the client's upload errors name only the file."""
    messages = [" ".join(str(each).split()) for each in (error, error.__cause__) if each is not None]
    return ": ".join(message.rstrip(".:") for message in messages if message) or type(error).__name__


def _without_token(message: str, token: str | None) -> str:
    """The message without the token; one with a line break or another stray character is quoted in the error."""
    for quoted in (token, ascii(token)[1:-1]) if token else ():
        message = message.replace(quoted, "<token>")
    return message
