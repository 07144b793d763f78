"""The error for a model of the Hub without a network: it names what can be used instead."""

from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from deit_hf import DeiTConfig, DeiTForImageClassification, Teacher
from deit_hf.model import local_sources
from deit_hf.model.build import load_classifier
from deit_hf.model.local_sources import is_unreachable, unreachable_hub

CONFIG = DeiTConfig(num_labels=2)


@pytest.mark.parametrize("source", ["nobody/nothing", "timm/resnet18.a1_in1k", "timm:resnet18.a1_in1k"])
def test_a_teacher_that_cannot_be_downloaded_is_explained(source: str):
    with pytest.raises(OSError, match=f"`{source}` is not on this machine, and the Hub .*timm:NAME@FILE.*--variant"):
        Teacher.from_pretrained(source, student_config=CONFIG)


def test_a_model_and_a_student_that_cannot_be_downloaded_are_explained():
    for load in (load_classifier, DeiTForImageClassification.from_pretrained):
        with pytest.raises(OSError, match="`nobody/nothing` is not on this machine, and the Hub cannot be reached"):
            load("nobody/nothing")


def test_models_that_were_downloaded_before_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("models--user--one", "models--user--two", "datasets--user--rows"):
        snapshot = tmp_path / name / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        (tmp_path / name / "refs").mkdir()
        (tmp_path / name / "refs" / "main").write_text("0" * 40)
    scan = local_sources.scan_cache_dir
    monkeypatch.setattr(local_sources, "scan_cache_dir", lambda: scan(tmp_path))
    assert "downloaded before (user/one, user/two); a student" in str(unreachable_hub("nobody/nothing"))


def test_a_repository_that_does_not_exist_is_another_matter():
    missing = OSError("nobody/nothing is not a local folder and is not a valid model identifier")
    missing.__cause__ = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    assert not is_unreachable(missing)
    outer = OSError("no file")
    outer.__cause__ = LocalEntryNotFoundError("not found")
    assert is_unreachable(outer)
