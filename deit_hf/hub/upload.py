"""One commit on the Hub, made by a process of its own, which can be ended at any time.

The client waits without end for a Hub that accepts a connection and is silent, and its threads cannot be stopped.
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

SILENT_SECONDS = 60.0  # without a byte from the Hub, after which a request has failed; the client repeats some


def upload(job: dict[str, Any], time_limit: float) -> str:
    """Uploads files in one commit, in a process that ends with this one.

    Args:
        job: of `commit`.
        time_limit: seconds after which it is given up.

    Returns:
        The commit's address.

    Raises:
        TimeoutError: the Hub did not take everything in time.
        RuntimeError: what the client said.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    command = [sys.executable, "-m", __name__]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended at once; its exit code is said below
                process.stdin.write(json.dumps(job) + "\n")  # not as an argument, which everybody can read
                process.stdin.flush()  # and stays open: its end is the sign that this process is gone
            process.wait(time_limit)
            lines = process.stdout.read().splitlines()
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the Hub did not take everything within {time_limit:g} s") from None
        finally:
            process.kill()
    if not lines:
        raise RuntimeError(f"the uploading process ended with code {process.returncode}")
    answer = json.loads(lines[-1])
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["commit_url"]


def commit(
    repo_id: str,
    files: dict[str, str],
    *,
    token: str,
    private: bool | None,
    revision: str | None,
    commit_message: str | None,
) -> str:
    """Creates the repository and the branch, if they are not there, and commits `files`: name there -> path here."""
    api = HfApi(token=token, library_name="deit_hf")
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    info = api.model_info(repo_id, revision=revision)
    if private and info.private is False:  # some servers do not tell
        raise PermissionError(f"`{repo_id}` is public; make it private in its settings, or push without `private`")
    made = api.create_commit(
        repo_id,
        [CommitOperationAdd(name, path) for name, path in files.items()],
        commit_message=commit_message or "Upload model trained with deit_hf",
        revision=revision,
        parent_commit=info.sha,  # whoever commits meanwhile is not silently overwritten
    )
    return made.commit_url


def one_line(error: BaseException) -> str:
    """What an error and its cause say; the client's upload errors name only the file."""
    messages = [" ".join(str(each).split()) for each in (error, error.__cause__) if each is not None]
    return ": ".join(message.rstrip(".:") for message in messages if message) or type(error).__name__


def _give_up_silent_requests(seconds: float) -> None:
    client = get_session()
    client_class, hooks = type(client), client.event_hooks
    set_client_factory(lambda: client_class(event_hooks=hooks, follow_redirects=True, timeout=seconds))


def _leave_with_the_parent() -> None:
    sys.stdin.read()  # ends when the parent does, however it ends
    os._exit(1)


def main() -> None:
    """Reads a job from stdin, and writes the commit's address or an error to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    seconds = job.pop("silent_seconds")
    _give_up_silent_requests(seconds)
    try:
        answer = {"commit_url": commit(**job)}
    except Exception as error:  # the client raises many unrelated types
        silent = f"the Hub was silent for {seconds:g} s: " if "Timeout" in type(error).__name__ else ""
        answer = {"error": silent + one_line(error)}
    print(json.dumps(answer), flush=True)  # noqa: T201  # the pipe to the parent
    os._exit(0)  # threads of the client that still wait would keep the process


if __name__ == "__main__":
    main()
