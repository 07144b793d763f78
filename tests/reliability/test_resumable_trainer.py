"""Checkpoints are complete or absent, and a run resumes from the last complete one in its directory."""

import copy
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from deit_hf import DeiTForImageClassificationWithTeacher, DistillationArguments, DistillationTrainer
from deit_hf.data import decoding
from deit_hf.reliability import checkpoints
from deit_hf.reliability.checkpoints import (
    MANIFEST,
    UNFINISHED_RUN,
    begin_run,
    end_run,
    find_checkpoint,
    last_complete_checkpoint,
    rotate,
)
from deit_hf.reliability.gradient_layout import settle_gradient_layout
from deit_hf.reliability.run_lock import LOCK
from deit_hf.reliability.running_state import read_running_state

OPTIONS = {
    "per_device_train_batch_size": 8,
    "max_steps": 4,
    "save_strategy": "steps",
    "save_steps": 1,
    "learning_rate": 1e-3,
    "warmup_epochs": 0,
    "random_augment": "none",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


def make_trainer(directory, tiny_config, toy_rows, model=None, **options) -> DistillationTrainer:
    torch.manual_seed(1)
    model = DeiTForImageClassificationWithTeacher(tiny_config) if model is None else model
    args = DistillationArguments(str(directory), **{**OPTIONS, **options})
    return DistillationTrainer(model, args, train_dataset=toy_rows)


def write_checkpoint(directory: Path, step: int) -> Path:
    """Writes the directory of a complete checkpoint, with placeholder files."""
    aside = directory / "aside"
    aside.mkdir(parents=True)
    (aside / "model.safetensors").write_bytes((92).to_bytes(8, "little") + b"{}".ljust(92))  # holds no tensor
    (aside / "running_state_0.json").write_text("{}")
    checkpoints.move_into_place(aside, directory / f"checkpoint-{step}")
    return directory / f"checkpoint-{step}"


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {LOCK}


# ---- the output directory of a run ----


def begin(output_dir: Path, **options) -> str | None:
    args = DistillationArguments(str(output_dir), report_to="none", **options)
    checkpoint = find_checkpoint(args)
    begin_run(args)
    return checkpoint


def test_new_or_empty_directory_starts_afresh(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert begin(tmp_path / "new" / "deep") is None
    assert begin(tmp_path / "empty") is None


def test_run_goes_on_from_the_last_complete_checkpoint(tmp_path: Path, caplog):
    for step in (5, 30, 9):
        write_checkpoint(tmp_path, step)
    assert begin(tmp_path) == str(tmp_path / "checkpoint-30")
    assert (
        f"resuming from {tmp_path / 'checkpoint-30'}; to start again from step 0, pass --overwrite_output_dir"
        in caplog.text
    )


def test_named_checkpoint_wins(tmp_path: Path):
    earlier = write_checkpoint(tmp_path, 5)
    write_checkpoint(tmp_path, 9)
    assert begin(tmp_path, resume_from_checkpoint=str(earlier)) == str(earlier)


@pytest.mark.parametrize("name", ["nowhere", "half"])
def test_named_checkpoint_that_is_not_complete_is_refused(tmp_path: Path, name: str):
    (tmp_path / "half").mkdir()
    with pytest.raises(ValueError, match=f"cannot resume from `.*{name}`: (there is no|it has no readable)"):
        begin(tmp_path, resume_from_checkpoint=str(tmp_path / name))


def _truncate(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(bytes(99))


def _remove(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()


def _unseal(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).unlink()


def _break_manifest(checkpoint: Path) -> None:
    text = (checkpoint / MANIFEST).read_text()
    (checkpoint / MANIFEST).write_text(text[: len(text) // 2])


def _drop_optimizer(checkpoint: Path) -> None:
    (checkpoint / "running_state_0.json").unlink()
    (checkpoint / MANIFEST).write_text(json.dumps({"sizes": {"model.safetensors": 100}}))


def _empty(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "model.safetensors has 99 bytes, but was written with 100"),
        (_remove, "model.safetensors is missing"),
        (_unseal, "no readable manifest.json"),
        (_break_manifest, "no readable manifest.json"),
        (_empty, "no readable manifest.json"),
        (_drop_optimizer, "save_only_model"),
    ],
)
def test_damaged_checkpoint_is_never_picked_and_the_reason_is_said(tmp_path: Path, caplog, damage, message: str):
    good = write_checkpoint(tmp_path, 5)
    damage(write_checkpoint(tmp_path, 9))
    assert begin(tmp_path) == str(good)
    assert message in caplog.text


def test_run_that_stopped_before_its_first_checkpoint_starts_again(tmp_path: Path, caplog):
    assert begin(tmp_path) is None
    (tmp_path / ".unfinished-checkpoint" / "checkpoint-3").mkdir(parents=True)
    assert begin(tmp_path) is None
    assert "stopped before its first checkpoint; starting at step 0" in caplog.text
    assert names(tmp_path) == {UNFINISHED_RUN}


def test_end_of_a_run_that_nobody_began_is_no_error(tmp_path: Path):
    end_run(DistillationArguments(str(tmp_path), report_to="none"))
    assert names(tmp_path) == set()


def test_finished_run_is_refused_and_kept(tmp_path: Path):
    begin(tmp_path)
    (tmp_path / "model.safetensors").write_text("weeks of work")
    end_run(DistillationArguments(str(tmp_path), report_to="none"))
    with pytest.raises(FileExistsError, match="not empty and holds no checkpoint to resume from; name another dir"):
        begin(tmp_path)
    assert names(tmp_path) == {"model.safetensors"}


def test_overwriting_deletes_the_checkpoints_and_nothing_else(tmp_path: Path):
    write_checkpoint(tmp_path, 5)
    (tmp_path / "checkpoint-5-notes").mkdir()
    (tmp_path / "notes.txt").write_text("")
    assert begin(tmp_path, overwrite_output_dir=True) is None
    assert names(tmp_path) == {"checkpoint-5-notes", "notes.txt", UNFINISHED_RUN}


# ---- writing and rotating ----


def test_checkpoint_that_cannot_be_written_leaves_the_others_and_says_so(tmp_path, tiny_config, toy_rows, monkeypatch):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, save_total_limit=1)
    save_scaler = trainer._save_scaler

    def full_disk(directory: str) -> None:
        save_scaler(directory)
        if trainer.state.global_step == 3:
            raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    monkeypatch.setattr(trainer, "_save_scaler", full_disk)
    with pytest.raises(OSError, match="checkpoint-3 could not be written .* MiB free.*file write failed") as error:
        trainer.train()
    assert f"the last complete one is {tmp_path / 'checkpoint-2'}. Free disk space" in str(error.value)
    assert names(tmp_path) == {"checkpoint-2"}
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


def test_interrupted_move_leaves_nothing_to_pick(tmp_path, tiny_config, toy_rows, monkeypatch):
    monkeypatch.setattr(checkpoints.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, tiny_config, toy_rows).train()
    assert last_complete_checkpoint(tmp_path) is None
    assert names(tmp_path) == {".unfinished-checkpoint"}


def test_rotation_keeps_the_last_and_the_best(tmp_path: Path):
    for step in (2, 10, 9, 30):
        write_checkpoint(tmp_path, step)
    rotate(tmp_path, limit=2, keep={"checkpoint-30", "checkpoint-2"})
    assert names(tmp_path) == {"checkpoint-30", "checkpoint-2"}


@pytest.mark.parametrize(("limit", "left"), [(1, {30}), (3, {9, 10, 30}), (None, {2, 9, 10, 30})])
def test_rotation_keeps_as_many_as_asked(tmp_path: Path, limit, left):
    for step in (2, 10, 9, 30):
        write_checkpoint(tmp_path, step)
    rotate(tmp_path, limit=limit, keep={"checkpoint-30"})
    assert names(tmp_path) == {f"checkpoint-{step}" for step in left}


def test_rotation_does_not_count_damaged_checkpoints(tmp_path: Path):
    for step in (5, 8, 9):
        write_checkpoint(tmp_path, step)
    _truncate(tmp_path / "checkpoint-9")
    rotate(tmp_path, limit=2, keep={"checkpoint-8"})
    assert names(tmp_path) == {"checkpoint-5", "checkpoint-8", "checkpoint-9"}


def test_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path: Path):
    _truncate(write_checkpoint(tmp_path, 5))
    write_checkpoint(tmp_path, 5)
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-5"


# ---- resuming ----


def log_of(trainer: DistillationTrainer) -> list[dict]:
    measured = ("runtime", "since_step", "per_second", "preparation_time", "data_wait")
    return [
        {name: value for name, value in entry.items() if not name.endswith(measured)}
        for entry in trainer.state.log_history
    ]


def assert_same_run(resumed: DistillationTrainer, whole: DistillationTrainer) -> None:
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())
    moments, own = whole.optimizer.state_dict()["state"], resumed.optimizer.state_dict()["state"]
    assert moments.keys() == own.keys()
    assert all(torch.equal(own[i][name], moments[i][name]) for i in moments for name in moments[i])
    assert log_of(resumed) == log_of(whole)


@pytest.mark.parametrize("stop_at", range(1, 9))
def test_resumed_run_reports_the_same_losses(tmp_path, tiny_config, tiny_teacher, toy_rows, stop_at: int):
    # five steps per epoch, a log every three: most stops are between two logs, one is at the end of an epoch
    options = {"max_steps": 8, "logging_steps": 3, "eval_strategy": "epoch", "distillation_type": "soft"}

    def trainer() -> DistillationTrainer:
        torch.manual_seed(1)
        args = DistillationArguments(str(tmp_path / "run"), **{**OPTIONS, **options})
        student = DeiTForImageClassificationWithTeacher(tiny_config)
        student.deit.encoder.layer[1].drop_path.p = 0.5  # draws random numbers in the step itself
        return DistillationTrainer(student, args, teacher=tiny_teacher, train_dataset=toy_rows, eval_dataset=toy_rows)

    whole = trainer()
    whole.train()
    for step in range(stop_at + 1, 9):
        shutil.rmtree(tmp_path / "run" / f"checkpoint-{step}")
    resumed = trainer()
    result = resumed.train(resume_from_checkpoint=True)
    assert_same_run(resumed, whole)
    assert result.metrics["train_loss"] == log_of(whole)[-1]["train_loss"]


@pytest.mark.parametrize("stop_at", [2, 3, 4])
def test_early_stopping_is_where_it_would_have_been(tmp_path, tiny_config, toy_rows, stop_at: int):
    options = {"max_steps": 9, "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "top1_cls"}

    def trainer() -> DistillationTrainer:
        torch.manual_seed(1)
        student = DeiTForImageClassificationWithTeacher(tiny_config)
        args = DistillationArguments(str(tmp_path / "run"), **{**OPTIONS, **options, "learning_rate": 0.0})
        callbacks = [transformers.EarlyStoppingCallback(3)]  # nothing is learned, so it stops at step 4
        return DistillationTrainer(student, args, train_dataset=toy_rows, eval_dataset=toy_rows, callbacks=callbacks)

    whole = trainer()
    assert whole.train().global_step == 4
    for step in range(stop_at + 1, 5):
        shutil.rmtree(tmp_path / "run" / f"checkpoint-{step}")
    resumed = trainer()
    assert resumed.train(resume_from_checkpoint=True).global_step == 4
    assert_same_run(resumed, whole)
    assert resumed.state.num_train_epochs == whole.state.num_train_epochs > 0  # also if no step was left


def test_model_of_transformers_with_renamed_keys_resumes_with_all_its_weights(tmp_path, toy_rows):
    # these keys have other names on disk, and `Trainer` would leave most tensors at their random values
    config = transformers.DeiTConfig(
        image_size=32, patch_size=8, hidden_size=24, num_attention_heads=3, num_hidden_layers=2, num_labels=5
    )

    def trainer() -> DistillationTrainer:
        torch.manual_seed(3)
        model = transformers.DeiTForImageClassification(config)
        return make_trainer(tmp_path / "run", None, toy_rows, model=model)

    whole = trainer()
    whole.train()
    for step in (3, 4):
        shutil.rmtree(tmp_path / "run" / f"checkpoint-{step}")
    resumed = trainer()
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(resumed, whole)


def test_resuming_another_model_is_refused(tmp_path, tiny_config, toy_rows):
    make_trainer(tmp_path / "run", tiny_config, toy_rows).train()
    tiny_config.intermediate_size = 48
    with pytest.raises(ValueError, match="holds another model than the one to train"):
        make_trainer(tmp_path / "run", tiny_config, toy_rows).train(resume_from_checkpoint=True)


def test_resuming_from_nothing_is_refused(tmp_path, tiny_config, toy_rows):
    with pytest.raises(ValueError, match="`resume_from_checkpoint` is True, but `.*` holds no complete checkpoint"):
        make_trainer(tmp_path / "run", tiny_config, toy_rows).train(resume_from_checkpoint=True)


def test_a_training_that_starts_over_the_checkpoints_of_another_one_warns(tmp_path, tiny_config, toy_rows, caplog):
    """Fails if a later resume would silently continue the earlier training."""
    trainer = make_trainer(tmp_path / "run", tiny_config, toy_rows, max_steps=2)
    trainer.train()
    warning = "starts at step 0, but an earlier one has left checkpoints up to .*checkpoint-2.*`overwrite_output_dir`"
    assert not re.search(warning, caplog.text)
    trainer.train()
    assert re.search(warning, caplog.text)


def test_overwriting_deletes_damaged_checkpoints_too(tmp_path, tiny_config, toy_rows):
    run = tmp_path / "run"
    make_trainer(run, tiny_config, toy_rows, max_steps=2).train()
    for checkpoint in run.glob("checkpoint-*"):
        (checkpoint / "model.safetensors").unlink()
    make_trainer(run, tiny_config, toy_rows, max_steps=1, overwrite_output_dir=True).train()
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-1"]


def test_resume_decodes_no_image_that_it_skips(tmp_path, tiny_config, toy_rows, monkeypatch):
    options = {"max_steps": 4, "repeated_augmentation": 1}
    make_trainer(tmp_path / "run", tiny_config, toy_rows, **options).train()
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    resumed = make_trainer(tmp_path / "run", tiny_config, toy_rows, **options)
    decoded = []
    decode = decoding.decode_for_view
    monkeypatch.setattr(decoding, "decode_for_view", lambda *args: decoded.append(args) or decode(*args))
    resumed.train(resume_from_checkpoint=True)
    assert 8 <= len(decoded) <= 16  # the last step and what the loader reads ahead; an epoch has 40


def test_best_checkpoint_is_known_by_its_place(tmp_path, tiny_config, toy_rows):
    args = DistillationArguments(
        str(tmp_path / "run"),
        **{**OPTIONS, "eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True},
        save_total_limit=1,
        metric_for_best_model="loss",
    )
    student = DeiTForImageClassificationWithTeacher(tiny_config)
    trainer = DistillationTrainer(student, args, train_dataset=toy_rows, eval_dataset=toy_rows)
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best == f"{args.output_dir}/checkpoint-{trainer.state.best_global_step}"
    assert os.path.isdir(best)
    last = last_complete_checkpoint(args.output_dir)
    stored = json.loads((last / "trainer_state.json").read_text())["best_model_checkpoint"]
    assert stored == best


def test_running_losses_of_several_processes_are_averaged_on_another_number(tmp_path, tiny_config, toy_rows, caplog):
    trainer = make_trainer(tmp_path / "run", tiny_config, toy_rows, max_steps=2, logging_steps=5)
    trainer.train()
    checkpoint = tmp_path / "run" / "checkpoint-1"
    own = json.loads((checkpoint / "running_state_0.json").read_text())
    other = copy.deepcopy(own)
    other["means"]["since_report"]["sums"]["loss_cls"] += 3
    (checkpoint / "running_state_1.json").write_text(json.dumps(other))
    stored = read_running_state(checkpoint, process_index=0, num_processes=1)
    assert "was written by 2 processes and is resumed with 1" in caplog.text
    trainer.restore_running_state(stored)
    sums = own["means"]["since_report"]["sums"]
    assert trainer.loss_log.state()["since_report"]["sums"]["loss_cls"] == pytest.approx(sums["loss_cls"] + 1.5)


# ---- several processes ----


def test_gradients_have_their_last_layout_before_the_first_step_and_nothing_else_has_changed(tmp_path: Path):
    """Fails if the first step after a resume sums gradients of three processes in another order than later ones."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.dropout = nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Dropout(0.5)

        def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.dropout(self.norm(self.conv(pixel_values))).mean(dim=(2, 3))}

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(Net())
        before = {name: value.clone() for name, value in model.state_dict().items()}
        random_state = torch.get_rng_state()
        settle_gradient_layout(model, {"pixel_values": torch.zeros(1, 3, 4, 4)})
        assert torch.equal(torch.get_rng_state(), random_state)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
        model.train()
        for _ in range(2):  # the second pass reports what the first one did
            model(torch.zeros(2, 3, 4, 4))
        assert model._get_ddp_logging_data()["has_rebuilt_buckets"]
    finally:
        torch.distributed.destroy_process_group()
