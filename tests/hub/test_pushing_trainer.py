"""The options that a trainer passes to the push."""

import pytest
from support.trainers import make_args

from deit_hf import DistillationTrainer
from deit_hf.hub import pushing_trainer

OPTIONS = {
    "hub_model_id": "user/model",
    "hub_private_repo": True,
    "hub_revision": "branch",
    "hub_token": "token-of-args",
}


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> list:
    calls: list = []
    monkeypatch.setattr(
        pushing_trainer, "push_or_warn", lambda directory, repo_id, **options: calls.append((repo_id, options))
    )
    return calls


def test_push_goes_where_the_options_say(tmp_path, tiny_student, pushed):
    """Red when an option is not passed on: a private model pushed to a public repository cannot be withdrawn."""
    DistillationTrainer(tiny_student, make_args(tmp_path, **OPTIONS)).push_to_hub("first line")
    options = {"private": True, "revision": "branch", "commit_message": "first line", "token": "token-of-args"}
    assert pushed == [("user/model", options)]


def test_arguments_of_a_push_win_over_the_options(tmp_path, tiny_student, pushed):
    trainer = DistillationTrainer(tiny_student, make_args(tmp_path, **OPTIONS))
    trainer.push_to_hub(token="another", revision="other")
    ((_, options),) = pushed
    assert (options["token"], options["revision"], options["commit_message"]) == ("another", "other", None)


def test_run_without_a_name_is_called_as_its_directory(tmp_path, tiny_student, pushed):
    DistillationTrainer(tiny_student, make_args(tmp_path)).push_to_hub()
    ((repo_id, options),) = pushed
    assert repo_id == "run"
    assert options["private"] is None
