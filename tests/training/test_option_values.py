"""Invalid values of transformers' options are refused at construction, with the name of the option."""

from typing import Any

import pytest
from transformers.integrations import integration_utils

from deit_hf import DistillationArguments
from deit_hf.training.option_values import TRACKERS


def make(**options: Any) -> DistillationArguments:
    return DistillationArguments(**{"output_dir": "run", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"report_to": "tensorboard"},
            "`report_to` has 'tensorboard', which is not installed; run `pip install tensor",
        ),
        ({"report_to": ["none", "wand"]}, "`report_to` has 'none', but must be 'none' or 'all' alone"),
        ({"report_to": "wand"}, r"`report_to` has 'wand', but must be .*; did you mean 'wandb'\?"),
        (
            {"lr_scheduler_kwargs": "{x"},
            r"`lr_scheduler_kwargs` is '{x', which is not valid JSON \(Expecting property name",
        ),
        ({"lr_scheduler_kwargs": "3"}, "`lr_scheduler_kwargs` is '3', but must be a JSON object"),
        (
            {"gradient_checkpointing_kwargs": "[1]"},
            r"`gradient_checkpointing_kwargs` is '\[1\]', but must be a JSON obj",
        ),
        ({"accelerator_config": "{"}, "`accelerator_config` is '{', which is not valid JSON"),
        (
            {"num_train_epochs": 0},
            "`num_train_epochs` is 0 and `max_steps` is -1, so there is nothing to train; raise one of them",
        ),
        ({"metric_for_best_model": "top1"}, "`metric_for_best_model` is 'top1', but `eval_strategy` is 'no', so it"),
        ({"optim": "adafactor", "optim_args": "foo"}, "`optim_args` is 'foo', but must be name=value pairs"),
        ({"output_dir": " "}, "`output_dir` is empty; set it to a directory"),
        ({"seed": -1}, "`seed` is -1, but must be 0 or more"),
        ({"data_seed": -1}, "`data_seed` is -1, but must be 0 or more"),
        ({"save_total_limit": 0}, "`save_total_limit` is 0, but must be 1 or more"),
        ({"dataloader_num_workers": -1}, "`dataloader_num_workers` is -1, but must be 0 or more"),
        ({"per_device_eval_batch_size": 0}, "`per_device_eval_batch_size` is 0, but must be 1 or more"),
        ({"save_steps": 0}, "`save_steps` is 0, but must be more than 0 while `save_strategy` is 'steps'"),
        (
            {"eval_strategy": "steps", "eval_steps": -1},
            "`eval_steps` is -1, but must be more than 0 while `eval_strat",
        ),
        ({"max_steps": -7}, "`max_steps` is -7, but must be 1 or more, or -1 to use `num_train_epochs`"),
    ],
)
def test_value_is_refused_with_its_option_and_the_next_step(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("name", ["deepspeed", "fsdp_config", "accelerator_config"])
def test_file_of_an_option_that_is_not_there_is_named_with_the_option(name: str):
    with pytest.raises(FileNotFoundError, match=f"`{name}` is nofile.json, but this file does not exist"):
        make(**{name: "nofile.json"})


def test_something_that_is_no_mapping_is_refused():
    with pytest.raises(TypeError, match=r"`lr_scheduler_kwargs` is \['power'\], but must be a mapping"):
        make(lr_scheduler_kwargs=["power"])


def test_right_values_are_taken(monkeypatch: pytest.MonkeyPatch):
    assert make(report_to="all").report_to == []
    assert make(report_to=["none"]).report_to == []
    options = {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": '{"power": 2}'}
    assert make(**options).lr_scheduler_kwargs == {"power": 2}
    assert make(num_train_epochs=0, max_steps=3).max_steps == 3
    assert make(metric_for_best_model="top1", eval_strategy="epoch").metric_for_best_model == "top1"
    monkeypatch.setattr("deit_hf.training.option_values.get_available_reporting_integrations", lambda: ["wandb"])
    assert make(report_to="wandb").report_to == ["wandb"]


def test_the_table_of_trackers_is_that_of_transformers():
    assert TRACKERS.keys() == integration_utils.INTEGRATION_TO_CALLBACK.keys()
