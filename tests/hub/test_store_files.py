"""Stores of teacher answers on a local Hub: pushed as a dataset repository, and downloaded by name."""

import re
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import yaml
from huggingface_hub import close_session
from support.answer_stores import HARD, SOFT, filled_store, flip, write_blocks
from support.local_hub import LocalHub, StoredFile, metadata_errors

from deit_hf.commands.push import main as push_command
from deit_hf.distillation.epoch_writer import EpochWriter
from deit_hf.distillation.teacher_cache import AnswerStore
from deit_hf.hub.push import HubPushError, push_directory
from deit_hf.hub.store_card import render_store_card
from deit_hf.hub.store_files import fetch_store

REPO = "alice/answers"
STORED = f"datasets/{REPO}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    """A local Hub that the client in this process and its upload processes use."""
    with LocalHub() as running:
        environment = running.client_environment(tmp_path / "home")
        for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for name, value in {
            "ENDPOINT": running.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": running.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        close_session()
        yield running
    close_session()


@pytest.fixture
def alice(hub: LocalHub) -> str:
    """The token of user alice."""
    return hub.add_user("alice")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A store of two epochs."""
    return filled_store(tmp_path / "answers", SOFT, epochs=2, teacher_top1=0.8292).directory


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def share(hub: LocalHub, directory: Path, *, private: bool = False) -> dict[str, StoredFile]:
    """Puts the files on the Hub without a push, which takes a second; returns the files of the repository."""
    files = {name: StoredFile(content, lfs=name != "store.json") for name, content in contents(directory).items()}
    hub.objects |= {stored.sha256: stored.content for stored in files.values()}
    hub.add_repository(STORED, private)
    return hub.repositories[STORED].commit("main", "shared", files).files


def test_store_is_pushed_as_a_dataset_and_read_by_name(
    hub: LocalHub, alice: str, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setenv("HF_TOKEN", alice)
    push_command([str(directory), "--hub_model_id", REPO])
    assert list(hub.repositories) == [STORED]
    assert capsys.readouterr().out.startswith(f"{hub.url}/{STORED}/commit/")
    files = hub.files(STORED)
    card = files.pop("README.md").decode()
    assert files == contents(directory)
    assert hub.repositories[STORED].commits[-1].summary == "Upload answers stored with deit_hf"
    assert metadata_errors(card) == []

    fetched = fetch_store(REPO, token=alice)
    assert fetched != directory
    assert not (fetched / "README.md").exists()
    store = AnswerStore.read(fetched)
    assert store.finished_epochs() == [0, 1]
    expected = AnswerStore.read(directory).rows(1, range(150))
    assert all(torch.equal(a, b) for a, b in zip(store.rows(1, range(150)), expected, strict=True))

    hub.requests.clear()
    assert fetch_store(REPO, token=alice) == fetched
    assert not hub.seen("GET", "/storage/")  # not downloaded again


def test_only_the_wanted_epochs_are_downloaded(hub: LocalHub, directory: Path):
    share(hub, directory)
    fetched = fetch_store(REPO, epochs=[1])
    assert sorted(contents(fetched)) == ["epoch-0001.safetensors", "store.json"]
    message = rf"`{REPO}` on the Hub lacks epoch-0002.safetensors and 1 more \(it has 1 of the 3 wanted epochs\)"
    with pytest.raises(FileNotFoundError, match=message):
        fetch_store(REPO, epochs=[1, 2, 3])


def test_card_says_what_it_is_without_local_paths(hub: LocalHub, alice: str, tmp_path: Path):
    facts = {
        "teacher": "/home/alice/secret/regnet",
        "log": "read /mnt/disk/imagenet, then *stopped*",
        "teacher_top1": 0.8,
    }
    directory = filled_store(tmp_path / "answers", SOFT, epochs=2, **facts).directory
    push_directory(directory, REPO, token=alice)
    files = hub.files(STORED)
    card = files["README.md"].decode()
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "pretty_name": f"Teacher answers: {REPO}",
        "tags": ["deit_hf", "knowledge-distillation"],
        "task_categories": ["image-classification"],
        "viewer": False,
    }
    for words in (
        "from `regnet`, top-1 80.00 % on the evaluation part",
        "the 10 largest logits of each view, and the normaliser of all 1000 classes at temperature 3",
        "2 epochs (0 to 1) of 150 views, 1,000 classes, 0.0 MB",
        f"deit-hf train RECIPE --teacher none --teacher_cache {REPO}",
        "| views.image_size | 32 |",
        "| versions.timm | 1.0.20 |",
        r"| log | read imagenet, then \*stopped\* |",
    ):
        assert words in text
    assert not re.search(r"/home|/mnt|secret", card + files["store.json"].decode())
    assert "/home/alice" in (directory / "store.json").read_text()  # the local files do not change
    pushed = fetch_store(REPO)
    assert AnswerStore.read(pushed).rows(0, range(150)).indices.shape == (150, 10)


def test_card_of_hard_answers(tmp_path: Path):
    card = render_store_card(filled_store(tmp_path / "answers", HARD), REPO)
    assert "hard answers: the teacher's class for each view, 2 bytes each\n- 1 epoch (number 0) of 150 views" in card


def test_local_directory_is_used_as_it_is(directory: Path):
    assert fetch_store(directory) == fetch_store(str(directory), epochs=[7]) == directory


def test_unfinished_epochs_and_other_files_stay_here(
    hub: LocalHub, alice: str, directory: Path, caplog: pytest.LogCaptureFixture
):
    EpochWriter(AnswerStore.read(directory), 2).flush()
    (directory / "answers.pkl").write_bytes(b"\x80\x04")
    (directory / "epoch-0003.safetensors.pt").write_bytes(b"\x80\x04")
    caplog.set_level("INFO")
    push_directory(directory, REPO, token=alice)
    names = ["README.md", "epoch-0000.safetensors", "epoch-0001.safetensors", "store.json"]
    assert sorted(hub.files(STORED)) == names
    assert (
        "epoch-0002.unfinished.safetensors is not pushed; finish the epoch with deit-hf cache-teacher" in caplog.text
    )
    assert "files not pushed (add some with `include`) (4): answers.pkl, epoch-0002.blocks, epoch" in caplog.text
    hub.repositories[STORED].commits[-1].files["epoch-0005.unfinished.safetensors"] = (
        hub.repositories[STORED].commits[-1].files["store.json"]
    )
    assert sorted(contents(fetch_store(REPO))) == names[1:]  # also if somebody else pushed one


def refused(directory: Path, alice: str, **options: object) -> str:
    with pytest.raises((ValueError, HubPushError)) as error:
        push_directory(directory, REPO, token=alice, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_cannot_be_pushed_is_refused_before_the_upload(
    hub: LocalHub, alice: str, directory: Path, tmp_path: Path
):
    assert "a store of teacher answers has no further files to push" in refused(directory, alice, include=["x"])
    flip(directory / "epoch-0001.safetensors", 3000)
    assert "epoch-0001.safetensors` is damaged in the block of positions" in refused(directory, alice)
    for path in directory.glob("epoch-*"):
        path.unlink()
    assert "has no finished epoch to push" in refused(directory, alice)
    (tmp_path / "elsewhere").write_bytes(b"")
    (directory / "epoch-0000.safetensors").symlink_to(tmp_path / "elsewhere")
    assert "links to a file outside it" in refused(directory, alice)
    (directory / "store.json").write_text("{}")
    assert "is damaged" in refused(directory, alice)
    assert not hub.seen("POST", "")


def test_local_path_in_the_fingerprint_is_refused(hub: LocalHub, alice: str, tmp_path: Path):
    store = AnswerStore.create(tmp_path, HARD, {"data": {"train_dir": "/home/alice/photos"}}, {})
    writer = EpochWriter(store, 0)
    write_blocks(writer, [0, 1, 2])
    writer.finish()
    assert "`data` in the fingerprint of" in refused(tmp_path, alice)
    assert not hub.seen("POST", "")


def test_epochs_of_two_stores_are_not_mixed(hub: LocalHub, alice: str, directory: Path):
    before = share(hub, directory)
    (directory / "epoch-0001.safetensors").unlink()
    message = refused(directory, alice)
    assert f"`{REPO}` has epoch-0001.safetensors, which this directory lacks; delete them" in message
    assert f"try again with: deit-hf push {directory} --hub_model_id {REPO}" in message
    assert hub.repositories[STORED].find("main").files == before


def test_private_store_and_branch(hub: LocalHub, alice: str, directory: Path):
    push_directory(directory, REPO, token=alice, private=True, revision="soft")
    assert len(hub.files(STORED, "soft")) == 4
    assert hub.files(STORED) == {}
    assert hub.repositories[STORED].private
    hub.repositories[STORED].private = False
    assert "is public; make it private" in refused(directory, alice, private=True)


@pytest.mark.parametrize(
    ("case", "error_type", "message"),
    [
        (
            "absent",
            FileNotFoundError,
            "neither a directory `alice/answers` nor a dataset of this name that you can see",
        ),
        ("private", FileNotFoundError, "log in with `hf auth login` if it is private"),
        ("gated", PermissionError, "`alice/answers` on the Hub is gated; ask for access on its page"),
        ("a model", FileNotFoundError, "nor a dataset of this name"),
        ("not a store", FileNotFoundError, "has no store.json, so it is not a store of teacher answers"),
        ("bad token", PermissionError, "the Hub refused access .*Invalid credentials.*log in again"),
        ("broken", OSError, "alice/answers"),
        ("unreachable", OSError, "the Hub cannot be reached; check the name, connect to the network"),
        ("offline", OSError, "the Hub cannot be reached; check the name, connect to the network"),
    ],
)
def test_store_that_cannot_be_downloaded_is_one_line(
    hub: LocalHub, directory: Path, case: str, error_type: type, message: str, monkeypatch
):
    token = None
    if case in ("private", "gated", "not a store", "bad token", "broken"):
        share(hub, directory, private=case == "private")
        token = hub.add_user("bob") if case == "private" else None
    if case == "gated":
        hub.repositories[STORED].gated = True
    elif case == "a model":
        hub.add_repository(REPO)
    elif case == "not a store":
        del hub.repositories[STORED].commits[-1].files["store.json"]
    elif case == "bad token":
        token = "hf_" + "x" * 34
    elif case == "broken":
        hub.fail("GET", "/storage/", status=500, times=100)
    elif case == "unreachable":
        hub.__exit__()
    elif case == "offline":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        close_session()
    with pytest.raises(error_type, match=message) as error:
        fetch_store(REPO, token=token)
    assert "\n" not in str(error.value)


def test_downloaded_store_is_used_without_a_network(hub: LocalHub, directory: Path):
    share(hub, directory)
    fetched = fetch_store(REPO)
    hub.__exit__()
    assert fetch_store(REPO) == fetched


def test_damaged_download_names_the_file_to_delete(hub: LocalHub, directory: Path):
    share(hub, directory)
    fetched = fetch_store(REPO)
    blob = (fetched / "epoch-0001.safetensors").resolve()
    flip(blob, 3000)
    with pytest.raises(ValueError, match=f"delete `{blob}`, and start again to download it again"):
        AnswerStore.read(fetched).rows(1, range(150))
    blob.unlink()
    AnswerStore.read(fetch_store(REPO)).rows(1, range(150))


@pytest.mark.parametrize("source", ["/absent/answers", "./answers", "answers", "a/b/c", "~/answers", "a\\b", ""])
def test_path_that_does_not_exist_is_not_looked_up(hub: LocalHub, source: str):
    with pytest.raises(
        FileNotFoundError, match=re.escape(f"no directory `{source}`; name a store of teacher answers")
    ):
        fetch_store(source)
    assert hub.requests == []


def test_names_that_cannot_be_stores_are_refused(hub: LocalHub, directory: Path):
    with pytest.raises(ValueError, match="is a file, but a store of teacher answers is a directory"):
        fetch_store(directory / "store.json")
    with pytest.raises(ValueError, match="`alice/an swers` is neither a directory nor the name of a dataset"):
        fetch_store("alice/an swers")
    assert hub.requests == []
