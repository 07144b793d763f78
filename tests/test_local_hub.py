"""Push to and load from a Hub over HTTP, with the unmodified client in processes of its own, and what can go wrong."""

import hashlib
import json
import pickle
import re
import shlex
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from local_hub import LARGE_FILE_BYTES, LocalHub, StoredFile

from deit_hf import DeiTConfig, DeiTForImageClassificationWithTeacher
from deit_hf.hub import ModelFacts, write_model_card
from deit_hf.transforms import make_processor

ROOT = Path(__file__).parents[1]
REPO = "alice/tiny"

# hub.py alone: importing the whole package costs seconds, and only torch-free parts of it are used in these processes
LIGHT_IMPORT = f"""
import sys, types
sys.modules["deit_hf"] = types.ModuleType("deit_hf")
sys.modules["deit_hf"].__path__ = [{str(ROOT / "deit_hf")!r}]
from deit_hf.hub import HubPushError, push_directory
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.utils import HfHubHTTPError
"""

PUSH = """
try:
    print(push_directory(sys.argv[1], sys.argv[2], **eval(sys.argv[3])))
except HubPushError as error:
    print(error, file=sys.stderr)
    sys.exit(3)
"""


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with LocalHub() as running:
        yield running


@pytest.fixture
def alice(hub: LocalHub) -> str:
    """Her token."""
    return hub.add_user("alice")


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a finished run leaves, weights of more than 10 MB and files that must stay here included."""
    directory = tmp_path_factory.mktemp("runs") / "my run"
    config = DeiTConfig(image_size=32, hidden_size=256, num_attention_heads=4, num_hidden_layers=4, num_labels=5)
    DeiTForImageClassificationWithTeacher(config).save_pretrained(directory)
    make_processor(32).save_pretrained(directory)
    (directory / "recipe.yaml").write_text("variant: deit_tiny_distilled_patch16_224\n")
    (directory / "eval_results.json").write_text('{"eval_top1_average": 0.5, "eval_top5_average": 1.0}')
    (directory / "training_curves.png").write_bytes(b"\x89PNG\r\n")
    write_model_card(directory, ModelFacts.from_directory(directory, model_name=REPO))
    (directory / "checkpoint-1").mkdir()
    for name in ("training_args.bin", "checkpoint-1/optimizer.pt", "extra.pkl"):
        (directory / name).write_bytes(pickle.dumps({"name": name}))
    assert (directory / "model.safetensors").stat().st_size > LARGE_FILE_BYTES
    return directory


class Client:
    """Runs code in a process whose client talks to the server; no token may ever show in what it prints."""

    def __init__(self, hub: LocalHub, home: Path):
        self.hub, self.home = hub, home

    def start(self, *command: str, token: str | None) -> subprocess.Popen[str]:
        environment = self.hub.client_environment(self.home, token)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([sys.executable, *command], env=environment, cwd=ROOT, text=True, **pipes)

    def __call__(self, *command: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
        process = self.start(*command, token=token)
        try:
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
        assert token is None or token not in stdout + stderr
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def run(self, code: str, *arguments: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
        return self("-c", LIGHT_IMPORT + code, *arguments, token=token)

    def push(self, directory: Path, token: str, **options: object) -> subprocess.CompletedProcess[str]:
        return self.run(PUSH, str(directory), REPO, repr(options), token=token)


@pytest.fixture
def client(hub: LocalHub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path / "home")


def public_files(directory: Path) -> dict[str, bytes]:
    """The files that a push must bring, by name."""
    kept_here = {"training_args.bin", "extra.pkl"}
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()} | {}.fromkeys(
        ()
    ) if False else {
        path.name: path.read_bytes()
        for path in directory.iterdir()
        if path.is_file() and path.name not in kept_here
    }
