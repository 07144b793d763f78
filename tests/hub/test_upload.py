"""A push to a Hub that accepts a connection but does not answer ends in time, and the run is not affected."""

import contextlib
import json
import re
import shlex
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.local_hub import LocalHub
from support.patience import PATIENCE

from deit_hf import DistillationArguments
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.hub import push, upload
from deit_hf.hub.push import HubPushError, push_directory, push_or_warn
from deit_hf.model.arguments import ModelArguments
from deit_hf.training.run import train

TOKEN = "hf_" + "A1" * 17


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """A server that accepts connections and never answers; the list contains the connections."""
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connections.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        use(f"http://127.0.0.1:{server.getsockname()[1]}", monkeypatch)
        yield connections
        server.shutdown(socket.SHUT_RDWR)


def use(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_text("{}")
    save_file({"x": torch.zeros(3)}, folder / "model.safetensors")
    return folder


def test_silent_hub_is_given_up_and_the_command_that_tries_again_is_said(silent_hub, directory, monkeypatch, caplog):
    monkeypatch.setattr(push, "SILENT_SECONDS", 0.5)
    (directory / "notes.md").write_text("")
    assert push_or_warn(directory, "alice/x", token=TOKEN, private=True, include=["notes.md"]) is None
    assert "`alice/x`: the Hub did not answer for 0.5 s: " in caplog.text
    command = shlex.split(re.search("try again with: deit-hf (.*)", caplog.text)[1])
    expected = ["push", str(directory), "--hub_model_id", "alice/x", "--private"]
    assert command == [*expected, "--include", "notes.md"]
    assert TOKEN not in caplog.text
    assert silent_hub  # the server was reached


def test_whole_push_has_an_end_also_where_the_client_tries_again(directory, monkeypatch):
    """Red, after a long time, when a push never ends because the Hub does not accept the weights."""
    uploading, ended = threading.Event(), threading.Event()

    class Uploading(subprocess.Popen):
        """Starts the time limit only when the upload has reached the weights, even on a busy machine."""

        def wait(self, timeout: float | None = None) -> int:
            assert timeout != 0.5 or uploading.wait(PATIENCE)
            return super().wait(timeout)

    def never_take_it() -> None:
        uploading.set()
        ended.wait(PATIENCE)

    monkeypatch.setattr(upload.subprocess, "Popen", Uploading)
    with LocalHub() as hub:
        use(hub.url, monkeypatch)
        hub.fail("PUT", "^/storage/", times=99, hook=never_take_it)
        try:
            with pytest.raises(HubPushError, match="the upload was not complete within 0.5 s; try again with"):
                push_directory(directory, "alice/x", token=hub.add_user("alice"), time_limit=0.5)
        finally:
            ended.set()
        assert hub.files("alice/x") == {}


def test_limit_of_a_push_grows_with_its_bytes(tmp_path: Path):
    for name, size in (("small", 0), ("large", 300_000_000)):
        with open(tmp_path / name, "wb") as file:
            file.truncate(size)
    assert push.default_time_limit([str(tmp_path / "small")]) == 600
    assert push.default_time_limit([str(tmp_path / "small"), str(tmp_path / "large")]) == 900


def test_file_that_holds_the_token_is_not_pushed(silent_hub, directory):
    (directory / "README.md").write_text(f"huggingface-cli login --token {TOKEN}\n")
    with pytest.raises(ValueError, match="`README.md` holds your Hub token, so nothing is pushed") as error:
        push_directory(directory, "alice/x", token=TOKEN)
    assert TOKEN not in str(error.value)
    assert not silent_hub


@pytest.mark.parametrize("name", ["a/b/c", "a b", TOKEN])
def test_name_that_no_repository_has_is_refused_before_a_training(tmp_path: Path, directory: Path, name: str):
    for use_it in (
        lambda: push_directory(directory, name, token=TOKEN),
        lambda: DistillationArguments(str(tmp_path), report_to="none", push_to_hub=True, hub_model_id=name),
    ):
        with pytest.raises(ValueError, match="hub_model_id") as error:
            use_it()
        assert TOKEN not in str(error.value)


def test_run_counts_as_finished_before_it_is_pushed(tmp_path: Path, monkeypatch):
    """Red when a hanging or killed push leaves a run that looks unfinished, or writes its files again."""
    found, found_marker = {}, []

    def times() -> dict[str, int]:
        """Returns the times of all files except the lock, which the run keeps until it has pushed."""
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("[!.]*")}

    def look() -> None:
        found.update(times())
        found_marker.append((tmp_path / "run" / ".unfinished-run").exists())

    args = {"max_steps": 1, "warmup_epochs": 0, "per_device_train_batch_size": 4, "save_strategy": "no"}
    sizes = {"patch_size": 8, "hidden_size": 24, "num_hidden_layers": 1, "intermediate_size": 24}
    with LocalHub() as hub:
        use(hub.url, monkeypatch)
        hub.fail("POST", "^/api/repos/create", hook=look)
        options = DistillationArguments(
            str(tmp_path / "run"),
            **args,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            push_to_hub=True,
            hub_model_id="alice/x",
            hub_token=hub.add_user("alice"),
        )
        model = ModelArguments(variant="deit_tiny_patch16_224", image_size=16, config_overrides=json.dumps(sizes))
        train(model, DataArguments(dataset_name="digits", max_train_samples=16, max_eval_samples=4), options)
        assert {"model.safetensors", "README.md", "eval_results.json", "recipe.yaml"} < found.keys()
        assert found_marker == [False]
        assert times() == found
        assert {"model.safetensors", "README.md", "eval_results.json", "recipe.yaml"} < hub.files("alice/x").keys()
        assert not [name for name, content in hub.files("alice/x").items() if str(tmp_path).encode() in content]
