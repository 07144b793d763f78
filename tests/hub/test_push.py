"""Pushes to and loads from a Hub over HTTP, with huggingface_hub in separate processes, including failures."""

import hashlib
import json
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.local_hub import LARGE_FILE_BYTES, LocalHub, StoredFile
from support.models import facts_of_run
from support.patience import PATIENCE

from deit_hf import DeiTConfig, DeiTForImageClassificationWithTeacher
from deit_hf.hub.model_card import write_model_card
from deit_hf.model.image_processing_deit import make_processor

ROOT = Path(__file__).parents[2]
REPO = "alice/tiny"

IMPORTS = """
import sys
from deit_hf.hub.push import HubPushError, push_directory
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
    """The token of user alice."""
    return hub.add_user("alice")


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with weights of more than 10 MB, and with files that must not be pushed."""
    directory = tmp_path_factory.mktemp("runs") / "my run"
    config = DeiTConfig(image_size=32, hidden_size=256, num_attention_heads=4, num_hidden_layers=4, num_labels=5)
    DeiTForImageClassificationWithTeacher(config).save_pretrained(directory)
    make_processor(32).save_pretrained(directory)
    (directory / "recipe.yaml").write_text("variant: deit_tiny_distilled_patch16_224\n")
    (directory / "eval_results.json").write_text('{"eval_top1_average": 0.5, "eval_top5_average": 1.0}')
    (directory / "training_curves.png").write_bytes(b"\x89PNG\r\n")
    write_model_card(directory, facts_of_run(directory, model_name=REPO))
    (directory / "checkpoint-1").mkdir()
    (directory / "checkpoint-1/model.safetensors").write_bytes(b"an earlier model")
    (directory / ".env").write_text("KEY=1")
    (directory / "notes.md").symlink_to(directory.parent / "private.md")
    (directory.parent / "private.md").write_text("secret")
    for name in ("training_args.bin", "checkpoint-1/optimizer.pt", "extra.pkl"):
        (directory / name).write_bytes(pickle.dumps({"name": name}))
    assert (directory / "model.safetensors").stat().st_size > LARGE_FILE_BYTES
    return directory


class Client:
    """Runs code in a process that is connected to the server, and checks that it never prints a token."""

    def __init__(self, hub: LocalHub, home: Path):
        self.hub, self.home = hub, home

    def start(self, *command: str, token: str | None) -> subprocess.Popen[str]:
        environment = self.hub.client_environment(self.home, token)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([sys.executable, *command], env=environment, cwd=ROOT, text=True, **pipes)

    def __call__(self, *command: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
        process = self.start(*command, token=token)
        try:
            stdout, stderr = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        assert token is None or token not in stdout + stderr
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def run(self, code: str, *arguments: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
        return self("-c", IMPORTS + code, *arguments, token=token)

    def push(self, directory: Path, token: str, **options: object) -> subprocess.CompletedProcess[str]:
        return self.run(PUSH, str(directory), REPO, repr(options), token=token)


@pytest.fixture
def client(hub: LocalHub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path / "home")


def public_files(directory: Path) -> dict[str, bytes]:
    """Returns the files that a push must upload, by name."""
    stay_here = {"training_args.bin", "extra.pkl", ".env", "notes.md"}
    files = [path for path in directory.iterdir() if path.is_file() and path.name not in stay_here]
    return {path.name: path.read_bytes() for path in files}


LOAD = """
import sys
sys.modules["deit_hf"] = None  # importing it fails here
import re, torch
from pathlib import Path
from PIL import Image
from huggingface_hub import hf_hub_download
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
name, saved = sys.argv[1:]
model = AutoModelForImageClassification.from_pretrained(name)
image = Image.linear_gradient("L").convert("RGB")
with torch.no_grad():
    logits = model(**AutoImageProcessor.from_pretrained(name)(image, return_tensors="pt")).logits
torch.save(logits, saved)
snippet = re.search("```python\\n(.*?)```", Path(hf_hub_download(name, "README.md")).read_text(), re.DOTALL)[1]
exec(snippet)
"""


@pytest.mark.slow
def test_pushed_run_loads_by_name_where_deit_hf_cannot_be_imported(
    hub: LocalHub, alice: str, client: Client, run_directory: Path, tmp_path: Path
) -> None:
    pushed = client("scripts/push_to_hub.py", str(run_directory), "--hub_model_id", REPO, token=alice)
    assert pushed.returncode == 0, pushed.stderr
    assert "files not pushed (add some with `include`) (5): .env, checkpoint-1/, extra.pkl, notes.md," in pushed.stderr
    assert (
        f"files to push to {REPO} (7): config.json, preprocessor_config.json, model.safetensors, README.md"
        in pushed.stderr
    )
    assert pushed.stdout == f"{hub.url}/{REPO}/commit/{hub.repositories[REPO].branches['main']}\n"
    assert hub.files(REPO) == public_files(run_directory)

    loaded = client("-c", LOAD, REPO, str(tmp_path / "logits.pt"))
    assert loaded.returncode == 0, loaded.stderr
    assert "'score'" in loaded.stdout  # printed by the code of the card
    gradient = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 256)  # what LOAD draws
    pixels = make_processor(32)(gradient.expand(3, -1, -1), return_tensors="pt")["pixel_values"]
    model = DeiTForImageClassificationWithTeacher.from_pretrained(run_directory)
    with torch.no_grad():
        expected = model(pixels).logits
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected, rtol=0, atol=1e-5)
    assert len(hub.seen("GET", "^/storage/")) == 1  # one download for AutoModel and the pipeline
    assert not [entry for entry in hub.seen("GET", "^/storage/") if entry.has_token or "localhost" not in entry.host]


def test_no_pickle_and_no_token_reaches_the_repository(
    hub: LocalHub, alice: str, client: Client, run_directory: Path
) -> None:
    assert client.push(run_directory, alice).returncode == 0
    files = hub.files(REPO)
    assert set(files) == set(public_files(run_directory))
    assert not [path for path, content in files.items() if content.startswith(b"\x80") or alice.encode() in content]
    assert not [entry for entry in hub.seen("PUT", "^/storage/") if entry.has_token]


SNAPSHOT = "print(snapshot_download(sys.argv[1], revision=sys.argv[2]))"


def test_snapshot_is_bit_equal_after_a_download_that_was_cut(
    hub: LocalHub, alice: str, client: Client, run_directory: Path
) -> None:
    client.push(run_directory, alice)
    hub.fail("GET", "^/storage/", drop_after=LARGE_FILE_BYTES + 1_000_000)  # the client keeps chunks of 10 MiB
    snapshot = client.run(SNAPSHOT, REPO, "main")
    assert snapshot.returncode == 0, snapshot.stderr
    downloaded = Path(snapshot.stdout.strip())
    assert {name: (downloaded / name).read_bytes() for name in public_files(run_directory)} == hub.files(REPO)
    cut, resumed = hub.seen("GET", "^/storage/")
    assert (cut.range, cut.status, resumed.status) == (None, 200, 206)
    assert resumed.range == f"bytes={LARGE_FILE_BYTES}-"  # the download was resumed

    requests = len(hub.requests)
    pinned = client.run(SNAPSHOT, REPO, hub.repositories[REPO].branches["main"])
    assert pinned.stdout == snapshot.stdout
    assert len(hub.requests) == requests  # a cached commit needs no request


ASK = """
try:
    print(HfApi().model_info(sys.argv[1]).id)
except HfHubHTTPError as error:
    print(type(error).__name__, error.response.status_code, error)
"""


def test_private_repository_is_shown_to_its_owner_only(
    hub: LocalHub, alice: str, client: Client, run_directory: Path
) -> None:
    assert client.push(run_directory, alice, private=True).returncode == 0
    assert client.run(ASK, REPO, token=alice).stdout == f"{REPO}\n"
    assert client.run(ASK, REPO, token=hub.add_user("bob")).stdout.startswith("RepositoryNotFoundError 404")
    assert client.run(ASK, REPO).stdout.startswith("RepositoryNotFoundError 401")
    bad = client.run(ASK, REPO, token="hf_" + "x" * 34).stdout
    assert "HfHubHTTPError 401" in bad
    assert "Invalid credentials in Authorization header" in bad


def test_missing_repository_is_named(client: Client) -> None:
    result = client.run(ASK, "alice/nothing")
    assert "RepositoryNotFoundError" in result.stdout
    assert "alice/nothing" in result.stdout


def test_upload_that_is_cut_once_is_repeated_by_the_client(
    hub: LocalHub, alice: str, client: Client, run_directory: Path
) -> None:
    hub.fail("PUT", "^/storage/", drop_after=5_000_000)
    assert client.push(run_directory, alice).returncode == 0
    assert [entry.status for entry in hub.seen("PUT", "^/storage/")] == [0, 200]
    assert hub.files(REPO) == public_files(run_directory)


def test_push_that_is_killed_in_the_upload_leaves_nothing_and_can_be_repeated(
    hub: LocalHub, alice: str, client: Client, run_directory: Path
) -> None:
    uploading, killed = threading.Event(), threading.Event()

    def wait_for_the_end() -> None:
        uploading.set()
        killed.wait(PATIENCE)

    hub.fail("PUT", "^/storage/", hook=wait_for_the_end)
    process = client.start("-c", IMPORTS + PUSH, str(run_directory), REPO, "{}", token=alice)
    try:
        assert uploading.wait(PATIENCE)
        process.kill()
        process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        killed.set()
    assert hub.files(REPO) == {}
    assert client.push(run_directory, alice).returncode == 0
    assert hub.files(REPO) == public_files(run_directory)


def test_failed_commit_names_the_command_that_repeats_it_without_a_second_upload(
    hub: LocalHub, alice: str, client: Client, run_directory: Path
) -> None:
    hub.fail("POST", "/commit/", status=500)
    failed = client.push(run_directory, alice, private=True, commit_message="a trained model")
    assert failed.returncode == 3
    assert "500" in failed.stderr
    command = shlex.split(failed.stderr.partition("try again with: ")[2])
    repeated = ["deit-hf", "push", str(run_directory), "--hub_model_id", REPO, "--private"]
    assert command == [*repeated, "--commit_message", "a trained model"]
    assert hub.files(REPO) == {}

    assert client.push(run_directory, alice, private=True).returncode == 0
    assert len(hub.seen("PUT", "^/storage/")) == 1
    assert hub.files(REPO) == public_files(run_directory)


def test_commit_of_somebody_else_during_the_upload_is_not_overwritten(
    hub: LocalHub, alice: str, client: Client, run_directory: Path
) -> None:
    def commit_in_between() -> None:
        repository = hub.repositories[REPO]
        files = {**repository.find("main").files, "README.md": StoredFile(b"edited on the site", lfs=False)}
        repository.commit("main", "edit README.md", files)

    hub.fail("PUT", "^/storage/", hook=commit_in_between)
    failed = client.push(run_directory, alice)
    assert failed.returncode == 3
    assert "A commit has happened since" in failed.stderr
    assert hub.files(REPO) == {"README.md": b"edited on the site"}


def test_unchanged_run_is_pushed_without_a_commit(
    hub: LocalHub, alice: str, client: Client, run_directory: Path
) -> None:
    first, second = (client.push(run_directory, alice).stdout for _ in range(2))
    assert first == second
    assert len(hub.repositories[REPO].commits) == 2  # the server's own and the first push


def test_revision_is_made_and_main_stays_as_it_is(
    hub: LocalHub, alice: str, client: Client, run_directory: Path
) -> None:
    assert client.push(run_directory, alice, revision="epoch-300").returncode == 0
    assert hub.files(REPO) == {}
    assert hub.files(REPO, "epoch-300") == public_files(run_directory)


@pytest.mark.parametrize(
    ("role", "options", "message"),
    [
        ("read", {}, "You don't have the rights to write"),
        ("write", {"private": True}, "is public; make it private"),
        (None, {}, "Invalid credentials in Authorization header"),
    ],
)
def test_push_that_is_not_allowed_uploads_nothing(
    hub: LocalHub, client: Client, run_directory: Path, role: str | None, options: dict, message: str
) -> None:
    token = "hf_" + "x" * 34 if role is None else hub.add_user("alice", role)
    hub.add_repository(REPO)
    failed = client.push(run_directory, token, **options)
    assert failed.returncode == 3
    assert message in failed.stderr
    assert "\n" not in failed.stderr.rstrip("\n")
    assert not hub.seen("PUT", "")


def test_card_with_wrong_metadata_stops_the_push_before_the_upload(
    hub: LocalHub, alice: str, client: Client, run_directory: Path, tmp_path: Path
) -> None:
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        shutil.copy(run_directory / name, tmp_path / name)
    (tmp_path / "README.md").write_text("---\nlicense: whatever\n---\n# Model\n")
    failed = client.push(tmp_path, alice)
    assert failed.returncode == 3
    assert '"license" must be one of' in failed.stderr
    assert not hub.seen("PUT", "")


def test_unreachable_hub_is_one_line(hub: LocalHub, alice: str, client: Client, run_directory: Path) -> None:
    hub.__exit__()
    failed = client.push(run_directory, alice)
    assert failed.returncode == 3
    assert re.fullmatch(r"`.*` was not pushed to `alice/tiny`: .*refused.*; try again with: .*\n", failed.stderr)


def test_push_without_a_token_says_how_to_get_one(hub: LocalHub, client: Client, run_directory: Path) -> None:
    failed = client.run(PUSH, str(run_directory), REPO, "{}")
    assert failed.returncode == 3
    assert (
        "no Hub token was found; log in with `hf auth login`, or set HF_TOKEN; try again with: deit-hf push"
        in failed.stderr
    )
    assert hub.requests == []


TRAIN = ["scripts/train.py", "scripts/recipes/quickstart-plain.yaml", "--max_steps", "2", "--report_to", "none"]
TRAIN += ["--max_train_samples", "64", "--max_eval_samples", "20", "--push_to_hub", "true", "--hub_model_id", REPO]

LOAD_HERE = """
import sys, torch
from deit_hf import DeiTForImageClassification
by_name, by_path = (DeiTForImageClassification.from_pretrained(name) for name in sys.argv[1:3])
assert all(torch.equal(by_name.state_dict()[name], tensor) for name, tensor in by_path.state_dict().items())
for name, revision in ((sys.argv[1], "v9"), ("alice/nothing", "main")):
    try:
        DeiTForImageClassification.from_pretrained(name, revision=revision)
    except OSError as error:
        print(error)
"""


@pytest.mark.slow
def test_training_pushes_its_run_and_a_hub_that_is_away_costs_nothing(
    hub: LocalHub, alice: str, client: Client, tmp_path: Path
) -> None:
    """Red when a failed push ends a training, the logged command does not repeat it, or the pushed model differs."""
    hub.fail("POST", "^/api/repos/create", status=403)
    away = client(*TRAIN, "--output_dir", str(tmp_path / "run"), token=alice)
    assert away.returncode == 0, away.stderr
    assert REPO not in hub.repositories
    command = re.search(r"try again with: deit-hf (.*)", away.stderr)
    assert command is not None, away.stderr
    repeated = client("-m", "deit_hf", *shlex.split(command[1]), token=alice)
    assert repeated.returncode == 0, repeated.stderr
    names = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "recipe.yaml"}
    assert names < set(hub.files(REPO))
    assert not [name for name in hub.files(REPO) if name.endswith((".bin", ".pt"))]
    texts = {name: content for name, content in hub.files(REPO).items() if name != "model.safetensors"}
    assert not [name for name, content in texts.items() if str(tmp_path).encode() in content]
    assert str(tmp_path) in (tmp_path / "run" / "recipe.yaml").read_text()  # the local file is unchanged
    loaded = client("-c", LOAD_HERE, REPO, str(tmp_path / "run"), token=alice)
    assert loaded.returncode == 0, loaded.stderr
    assert re.search("v9 .*alice/tiny.*alice/nothing", loaded.stdout, re.DOTALL), loaded.stdout


def ask(hub: LocalHub, method: str, url: str, body: bytes, token: str | None = None) -> int:
    """Returns the status of a request that does not use huggingface_hub."""
    request = urllib.request.Request(url, body, {"Authorization": f"Bearer {token}"} if token else {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_server_refuses_bytes_that_are_not_those_announced(hub: LocalHub) -> None:
    oid = hashlib.sha256(b"announced").hexdigest()
    assert ask(hub, "PUT", hub.signed_link("PUT", oid), b"received") == 400
    assert ask(hub, "PUT", hub.signed_link("PUT", oid).partition("?")[0], b"announced") == 403
    assert hub.objects == {}
    assert ask(hub, "PUT", hub.signed_link("PUT", oid), b"announced") == 200
    assert hub.objects == {oid: b"announced"}


def test_server_refuses_a_commit_of_a_file_that_was_never_uploaded(hub: LocalHub, alice: str) -> None:
    hub.add_repository(REPO)
    pointer = {"path": "model.safetensors", "algo": "sha256", "oid": "0" * 64, "size": 3}
    lines = [{"key": "header", "value": {"summary": "x"}}, {"key": "lfsFile", "value": pointer}]
    body = b"\n".join(json.dumps(line).encode() for line in lines)
    assert ask(hub, "POST", f"{hub.url}/api/models/{REPO}/commit/main", body, alice) == 400
    assert hub.files(REPO) == {}
