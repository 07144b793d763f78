"""Uploads files to the Hub in one commit, in a separate process that can be stopped at any time.

huggingface_hub waits forever for a server that accepts a connection but does not answer, and its threads cannot be
stopped.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, get_session, set_client_factory

SILENT_SECONDS = 60.0  # a request fails after this time without a byte from the Hub; huggingface_hub repeats some


def upload(job: dict[str, Any], time_limit: float) -> str:
    """Uploads files in one commit, in a process that ends when this process ends.

    Args:
        job: arguments of `commit`, and `silent_seconds`.
        time_limit: in seconds.

    Returns:
        The URL of the commit.

    Raises:
        TimeoutError: the upload was not complete within `time_limit`.
        RuntimeError: the upload failed; the message is that of huggingface_hub.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    command = [sys.executable, "-m", __name__]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            with contextlib.suppress(BrokenPipeError):  # it has already ended; the error below has its exit code
                process.stdin.write(json.dumps(job) + "\n")  # arguments are visible to other users
                process.stdin.flush()  # stays open: the child ends when this process closes it or dies
            process.wait(time_limit)
            lines = process.stdout.read().splitlines()
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the upload was not complete within {time_limit:g} s") from None
        finally:
            process.kill()
    if not lines:
        raise RuntimeError(f"the upload process ended with exit code {process.returncode}")
    answer = json.loads(lines[-1])
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["commit_url"]


def commit(
    repo_id: str,
    files: dict[str, str],
    *,
    repo_type: str,
    token: str,
    private: bool | None,
    revision: str | None,
    commit_message: str,
) -> str:
    """Commits `files` (name in the repository -> local path); creates a missing repository or branch.

    Returns:
        The URL of the commit.

    Raises:
        FileExistsError: a dataset repository has safetensors files that are not in `files`.
        PermissionError: the repository is public, but `private` is asked for.
    """
    api = HfApi(token=token, library_name="deit_hf")
    repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(repo_id, repo_type=repo_type, branch=revision, exist_ok=True)
    info = (api.dataset_info if repo_type == "dataset" else api.model_info)(repo_id, revision=revision)
    if private and info.private is False:  # None if the server does not report it
        raise PermissionError(f"`{repo_id}` is public; make it private in its settings, or push without `private`")
    if repo_type == "dataset":
        _check_same_epochs(repo_id, {each.rfilename for each in info.siblings or ()}, files)
    made = api.create_commit(
        repo_id,
        [CommitOperationAdd(name, path) for name, path in files.items()],
        commit_message=commit_message,
        repo_type=repo_type,
        revision=revision,
        parent_commit=info.sha,  # a concurrent commit is not silently overwritten
    )
    return made.commit_url


def _check_same_epochs(repo_id: str, present: set[str], files: dict[str, str]) -> None:
    """Refuses to mix the epochs of two stores of teacher answers, or to leave old ones in the repository."""
    others = sorted(name for name in present - files.keys() if name.endswith(".safetensors"))
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise FileExistsError(
            f"`{repo_id}` has {others[0]}{more}, which this directory lacks; delete them in the repository if they "
            "are not wanted, or push to another one"
        )


def one_line(error: BaseException) -> str:
    """Joins the messages of an error and its cause: upload errors of huggingface_hub name only the file."""
    messages = [" ".join(str(each).split()) for each in (error, error.__cause__) if each is not None]
    return ": ".join(message.rstrip(".:") for message in messages if message) or type(error).__name__


def _set_request_timeout(seconds: float) -> None:
    client = get_session()
    client_class, hooks = type(client), client.event_hooks
    set_client_factory(lambda: client_class(event_hooks=hooks, follow_redirects=True, timeout=seconds))


def _exit_with_parent() -> None:
    sys.stdin.read()  # returns when the parent process ends, for any reason
    os._exit(1)


def main() -> None:
    """Reads a job from stdin, and writes the URL of the commit or an error to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C and ends this process
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    seconds = job.pop("silent_seconds")
    _set_request_timeout(seconds)
    try:
        answer = {"commit_url": commit(**job)}
    except Exception as error:  # huggingface_hub raises many unrelated types
        silent = f"the Hub did not answer for {seconds:g} s: " if "Timeout" in type(error).__name__ else ""
        answer = {"error": silent + one_line(error)}
    print(json.dumps(answer), flush=True)  # noqa: T201  # the pipe to the parent process
    os._exit(0)  # waiting threads of huggingface_hub would keep the process alive


if __name__ == "__main__":
    main()
