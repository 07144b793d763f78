"""Options that are not set are derived from others: also in a copy, after a change, and after a save."""

import copy
import dataclasses
import pickle
from types import SimpleNamespace

import pytest
import torch
from support.trainers import make_args

from deit_hf import DistillationTrainer
from deit_hf.training.derived_options import copy_asynchronously, is_derived


def test_copy_of_options_derives_anew(tmp_path):
    args = make_args(tmp_path, learning_rate=None, warmup_epochs=None, per_device_train_batch_size=8)
    larger = dataclasses.replace(args, per_device_train_batch_size=16)
    assert larger.learning_rate == pytest.approx(5e-4 * 16 / 512)
    assert args.learning_rate == pytest.approx(5e-4 * 8 / 512)
    assert dataclasses.replace(args, warmup_steps=10).warmup_epochs == 0
    assert dataclasses.replace(larger, lr_scheduler_type="constant").min_learning_rate is None
    absolute = dataclasses.replace(args, learning_rate=1e-3)
    assert (absolute.learning_rate, absolute.base_learning_rate) == (1e-3, None)
    based = dataclasses.replace(args, base_learning_rate=1e-3)
    assert based.learning_rate == pytest.approx(1e-3 * 8 / 512)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda args: pickle.loads(pickle.dumps(args))])
def test_copies_know_what_was_derived(tmp_path, way):
    args = way(make_args(tmp_path, learning_rate=None))
    assert dataclasses.replace(args, gradient_accumulation_steps=4).learning_rate == pytest.approx(
        4 * args.learning_rate
    )


@pytest.mark.parametrize("given", ["nothing", "optimizer", "schedule"])
def test_checkpoint_holds_derived_rates_as_any_number(tmp_path, tiny_student, toy_rows, given):
    """Fails if the checkpoint contains a class of this package: no run can resume from such a file."""
    args = make_args(tmp_path, learning_rate=None, max_steps=2, save_strategy="steps", save_steps=1)
    optimizer = schedule = None
    if given != "nothing":
        optimizer = torch.optim.SGD(tiny_student.parameters(), lr=args.learning_rate)
    if given == "schedule":
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
    trainer = DistillationTrainer(tiny_student, args, train_dataset=toy_rows, optimizers=(optimizer, schedule))
    trainer.train()
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.load(tmp_path / "run" / "checkpoint-1" / name, weights_only=True)


def test_what_was_given_stays_in_a_copy(tmp_path):
    args = make_args(tmp_path, learning_rate=1e-3, warmup_epochs=2, min_learning_rate=1e-4)
    larger = dataclasses.replace(args, per_device_train_batch_size=16)
    assert (larger.learning_rate, larger.warmup_epochs, larger.min_learning_rate) == (1e-3, 2, 1e-4)
    with pytest.raises(ValueError, match="`warmup_epochs` is 2 and `warmup_steps` 10; give only one"):
        dataclasses.replace(args, warmup_steps=10)


def test_value_that_a_search_casts_to_the_derived_kind_is_given(tmp_path):
    """The search of transformers sets `type(old)(value)`; fails if that counts as not set."""
    args = make_args(tmp_path, learning_rate=None)
    args.learning_rate = type(args.learning_rate)(0.01)
    args.settle()
    assert args.learning_rate == 0.01
    assert not is_derived(args.learning_rate)


def test_changed_batch_takes_the_learning_rate_along(tmp_path):
    args = make_args(tmp_path, learning_rate=None)
    args.per_device_train_batch_size = 64
    args.settle()
    assert args.learning_rate == pytest.approx(5e-4 * 64 / 512)


@pytest.mark.parametrize(
    ("device", "given", "pins", "expected"),
    [
        ("cuda", None, True, {"non_blocking": True}),
        ("cuda", {"even_batches": True}, True, {"non_blocking": True, "even_batches": True}),
        ("cuda", '{"even_batches": true}', True, {"non_blocking": True, "even_batches": True}),
        ("cuda", {"non_blocking": False}, True, {"non_blocking": False}),
        ("cuda", "accelerate.json", True, "accelerate.json"),
        ("cuda", None, False, None),
        ("mps", None, True, None),
        (None, None, True, None),
    ],
)
def test_batches_are_copied_asynchronously_where_that_has_an_effect(device, given, pins, expected, monkeypatch):
    found = None if device is None else torch.device(device)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: found)
    args = SimpleNamespace(accelerator_config=given, dataloader_pin_memory=pins, use_cpu=False)
    copy_asynchronously(args)
    assert args.accelerator_config == expected
    args = SimpleNamespace(accelerator_config=None, dataloader_pin_memory=pins, use_cpu=True)
    copy_asynchronously(args)
    assert args.accelerator_config is None
