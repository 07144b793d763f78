"""A directory records its run: only the same run continues there, and a finished run is not changed."""

import json
import logging
import os
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from filelock import FileLock
from torch import nn

from deit_hf import DeiTForImageClassificationWithTeacher, DistillationArguments, DistillationTrainer, Teacher
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.model.arguments import ModelArguments
from deit_hf.reliability.run_identity import RUN_IDENTITY, read_identity
from deit_hf.reliability.run_lock import LOCK
from deit_hf.training.run import train
from deit_hf.training.same_run import teacher_fingerprint, weights_facts

SIZES = {"patch_size": 8, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 24}
OPTIONS = {
    "per_device_train_batch_size": 8,
    "max_steps": 4,
    "save_steps": 2,
    "logging_steps": 2,
    "learning_rate": 1e-3,
    "warmup_epochs": 0,
    "random_augment": "none",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


def write_images(folder: Path, names: list[str], number: int = 4) -> Path:
    generator = np.random.default_rng(0)
    for index, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(number):
            pixels = generator.integers(50 * index, 50 * index + 40, (40, 40, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def run(folder: Path, output_dir: str = "run", images: str = "images", model: dict | None = None, **options):
    """Trains in the same way as the script."""
    model_args = ModelArguments(
        **(model or {"variant": "deit_tiny_distilled_patch16_224", "image_size": 16, "config_overrides": SIZES})
    )
    args = DistillationArguments(str(folder / output_dir), **{**OPTIONS, **options})
    return train(model_args, DataArguments(train_dir=str(folder / images)), args)


def files_of(directory: Path) -> dict[Path, tuple[bytes, int]]:
    found = [path for path in directory.rglob("*") if path.is_file() and path.name != LOCK]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    write_images(folder / "images", ["cat", "dog", "emu", "fox"])
    run(folder)
    return folder


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    """A folder with images and a finished run of four steps."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    identity = (tmp_path / "run" / RUN_IDENTITY).read_text().replace(str(trained), str(tmp_path))
    (tmp_path / "run" / RUN_IDENTITY).write_text(identity)
    return tmp_path


@pytest.fixture
def stopped(finished: Path) -> Path:
    """The same folder, with a run that was killed after step 2."""
    shutil.rmtree(finished / "run" / "checkpoint-4")
    (finished / "run" / ".unfinished-run").touch()
    return finished


# ---- a finished run ----


def test_finished_run_stays_as_it_is_and_says_so(finished: Path, caplog):
    before = files_of(finished)
    caplog.clear()
    metrics = run(finished)
    assert f"already finished: {finished / 'run'}; nothing to do" in caplog.text
    assert files_of(finished) == before
    assert metrics == json.loads((finished / "run" / "train_results.json").read_text())


def test_finished_run_without_checkpoints_stays_and_cannot_be_continued(finished: Path):
    for step in (2, 4):
        shutil.rmtree(finished / "run" / f"checkpoint-{step}")
    before = files_of(finished)
    run(finished)
    with pytest.raises(ValueError, match="finished run without a checkpoint.*`max_steps` was 4 and is 6.*--overwrite"):
        run(finished, max_steps=6)
    assert files_of(finished) == before
    run(finished, overwrite_output_dir=True, seed=5)
    assert read_identity(finished / "run")["options"]["training"]["seed"] == 5


def test_finished_run_with_more_steps_continues_and_the_record_says_at_which_step(finished: Path, caplog):
    run(finished, max_steps=6)
    assert "changes: `max_steps` was 4 and is 6" in caplog.text
    state = json.loads((finished / "run" / "trainer_state.json").read_text())
    assert state["global_step"] == 6
    recipe = (finished / "run" / "recipe.yaml").read_text()
    assert "# changed at step 4  `max_steps` was 4 and is 6" in recipe
    assert "do not repeat it" in recipe.splitlines()[0]
    assert read_identity(finished / "run")["changes"] == [{"step": 4, "difference": ["max_steps", 4, 6]}]
    before = files_of(finished)
    run(finished, max_steps=6)  # now it is the finished run
    assert files_of(finished) == before


def test_time_of_a_resumed_run_is_said_to_be_that_of_its_last_part(finished: Path, capsys):
    assert json.loads((finished / "run" / "train_results.json").read_text())["train_runtime_since_step"] == 0
    capsys.readouterr()
    run(finished, max_steps=6)
    assert json.loads((finished / "run" / "train_results.json").read_text())["train_runtime_since_step"] == 4
    assert re.search(r"Finished: 6 steps; [\d.]+ s since the resume at step 4, ", capsys.readouterr().out)


def test_finished_run_is_pushed_if_asked_and_not_changed(finished: Path, monkeypatch, caplog):
    before = files_of(finished)
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    run(finished, push_to_hub=True, hub_model_id="user/model")
    assert f"`{finished / 'run'}` was not pushed to `user/model`" in caplog.text  # tests have no Hub
    assert files_of(finished) == before


def test_other_rate_of_a_finished_run_is_said_to_be_without_effect(finished: Path, caplog):
    run(finished, learning_rate=1e-4)
    assert "nothing to do (`learning_rate` was 0.001 and is 0.0001: no step is left to use it)" in caplog.text


def test_restart_after_the_last_step_reports_no_speed_of_steps_that_it_did_not_take(finished: Path):
    (finished / "run" / ".unfinished-run").touch()  # as if it was killed while it wrote its results
    run(finished)
    results = json.loads((finished / "run" / "train_results.json").read_text())
    assert not [name for name in results if "per_second" in name]
    assert results["train_loss"] > 0


def test_directory_in_use_is_refused_and_left_alone(stopped: Path, tiny_config, toy_rows):
    before = files_of(stopped)
    with FileLock(stopped / "run" / LOCK):
        with pytest.raises(ValueError, match=f"`output_dir` {stopped / 'run'} is in use by another run"):
            run(stopped)
        with pytest.raises(ValueError, match=f"`output_dir` {stopped / 'run'} is in use by another run"):
            make_trainer(stopped / "run", tiny_config, toy_rows).train()
    assert files_of(stopped) == before


# ---- another run ----


def test_all_differences_are_refused_in_one_message_and_nothing_is_touched(stopped: Path, tmp_path: Path):
    os.rename(stopped / "images" / "cat", stopped / "images" / "zebra")
    before = files_of(stopped)
    with pytest.raises(ValueError, match="holds another run") as refused:
        run(stopped, seed=7, per_device_train_batch_size=4, adam_beta1=0.8)
    text = str(refused.value)
    for part in (
        "checkpoint-2` holds another run: ",
        "`seed` was 42 and is 7",
        "`per_device_train_batch_size` was 8 and is 4",
        "`adam_beta1` was 0.9 and is 0.8",
        "`classes` were cat, dog, emu, fox and are dog, emu, fox, zebra",
        "`data` (",
        "or start a new run from its weights, `model_name_or_path` ",
        ": `classes` cannot change within a run",
    ):
        assert part in text
    assert files_of(stopped) == before


def test_checkpoint_of_another_directory_is_compared_too(stopped: Path):
    checkpoint = str(stopped / "run" / "checkpoint-2")
    with pytest.raises(ValueError, match=f"`{checkpoint}` holds another run: `seed` was 42 and is 7"):
        run(stopped, "other", resume_from_checkpoint=checkpoint, seed=7)
    assert not (stopped / "other").exists()
    run(stopped, "other", resume_from_checkpoint=checkpoint)
    weights = [(stopped / name / "model.safetensors").read_bytes() for name in ("run", "other")]
    assert weights[0] == weights[1]  # and `run` was not changed


def test_checkpoint_from_elsewhere_does_not_mix_with_another_run(stopped: Path):
    run(stopped, "other", seed=7)
    (stopped / "other" / ".unfinished-run").touch()
    before = files_of(stopped / "other")
    with pytest.raises(ValueError, match="`seed` was 7 and is 42"):
        run(stopped, "other", resume_from_checkpoint=str(stopped / "run" / "checkpoint-2"))
    assert files_of(stopped / "other") == before


def test_harmless_differences_are_said_in_one_line_and_change_no_bit(stopped: Path, trained: Path, caplog):
    shutil.move(stopped / "images", stopped / "moved")
    caplog.clear()
    run(stopped, images="moved", save_steps=1, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    line = next(text for text in caplog.messages if text.startswith("other settings"))
    assert f"`train_dir` was {trained / 'images'} and is {stopped / 'moved'}" in line
    assert "`save_steps` was 2 and is 1" in line
    assert "`per_device_train_batch_size` was 8 and is 4" in line
    assert (stopped / "run" / "checkpoint-3").is_dir()  # the new value of `save_steps` is used
    assert "changed at step" not in (stopped / "run" / "recipe.yaml").read_text()


def test_learning_rate_may_change_and_is_recorded(stopped: Path, caplog):
    run(stopped, learning_rate=1e-4)
    assert "the peak learning rate is 0.0001 from here on; it was 0.001" in caplog.text
    assert "# changed at step 2  `learning_rate` was 0.001 and is 0.0001" in (stopped / "run/recipe.yaml").read_text()


def test_checkpoint_without_a_record_continues_and_says_so(stopped: Path, caplog):
    checkpoint = stopped / "run" / "checkpoint-2"
    (checkpoint / RUN_IDENTITY).unlink()
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    for part in manifest.values():
        if isinstance(part, dict):
            part.pop(RUN_IDENTITY, None)
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    caplog.clear()
    run(stopped, adam_beta1=0.8)
    assert caplog.text.count("has no record of its run, so nothing is compared") == 1
    assert "`betas` of the optimizer is (0.8, 0.999) from here on; it was (0.9, 0.999)" in caplog.text


def test_run_that_stopped_before_its_first_checkpoint_may_be_another(stopped: Path):
    shutil.rmtree(stopped / "run" / "checkpoint-2")
    run(stopped, seed=7)
    assert read_identity(stopped / "run")["options"]["training"]["seed"] == 7


# ---- options that a checkpoint would override ----


class OptionsInSteps(logging.Handler):
    """Records the options of the optimizer at each step."""

    def __init__(self, trainer: DistillationTrainer):
        super().__init__()
        self.seen: list[list[tuple]] = []
        step = trainer.training_step

        def noted(*args, **kwargs):
            groups = trainer.optimizer.param_groups
            self.seen.append([(group["weight_decay"], group["betas"], group["eps"]) for group in groups])
            return step(*args, **kwargs)

        trainer.training_step = noted


def make_trainer(directory: Path, tiny_config, toy_rows, *, model=None, optimizers=(None, None), **options):
    torch.manual_seed(1)
    student = DeiTForImageClassificationWithTeacher(tiny_config) if model is None else model
    teacher = options.pop("teacher", None)
    args = DistillationArguments(str(directory), **{**OPTIONS, **options})
    return DistillationTrainer(student, args, teacher=teacher, train_dataset=toy_rows, optimizers=optimizers)


def test_options_of_the_optimizer_are_refused_or_used(tmp_path: Path, tiny_config, toy_rows):
    make_trainer(tmp_path, tiny_config, toy_rows, max_steps=2).train()
    changed = {"weight_decay": 0.5, "adam_beta1": 0.8, "adam_beta2": 0.99, "adam_epsilon": 1e-6}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, **changed)
    with pytest.raises(ValueError, match="`weight_decay` was 0.05 and is 0.5; `adam_beta1` was 0.9 and is 0.8"):
        trainer.train(resume_from_checkpoint=True)
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, allow_changes=[*changed], **changed)
    steps = OptionsInSteps(trainer)
    trainer.train(resume_from_checkpoint=True)
    assert steps.seen == [[(0.5, (0.8, 0.99), 1e-6), (0.0, (0.8, 0.99), 1e-6)]] * 2
    assert "weight decay 0.5" in trainer.effective_recipe["optimizer"]
    assert "`weight_decay` was 0.05 and is 0.5" in trainer.effective_recipe["changed at step 2"]


def test_momentum_of_a_given_optimizer_is_that_of_this_run(tmp_path: Path, tiny_config, toy_rows):
    def trainer(momentum: float) -> DistillationTrainer:
        model = DeiTForImageClassificationWithTeacher(tiny_config)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=momentum)
        return make_trainer(tmp_path, tiny_config, toy_rows, model=model, optimizers=(optimizer, None))

    trainer(0.9).train()
    resumed = trainer(0.5)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.optimizer.param_groups[0]["momentum"] == 0.5


def test_peak_of_a_given_schedule_that_is_a_function_of_the_step_is_that_of_this_run(
    tmp_path: Path, tiny_config, toy_rows, caplog
):
    def trainer(learning_rate: float) -> DistillationTrainer:
        model = DeiTForImageClassificationWithTeacher(tiny_config)
        optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
        return make_trainer(
            tmp_path, tiny_config, toy_rows, model=model, optimizers=(optimizer, schedule), logging_steps=1
        )

    trainer(0.4).train()
    resumed = trainer(0.04)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    rates = [entry["learning_rate"] for entry in resumed.state.log_history if entry["step"] > 2 and "loss" in entry]
    assert rates == pytest.approx([0.04 * 0.5**step for step in range(2, 2 + len(rates))])
    assert "the peak learning rate is 0.04 from here on; it was 0.4" in caplog.text


@pytest.mark.parametrize("options", [{"optim": "sgd"}, {"timm_optimizer": "lamb"}, {"layer_decay": 0.5}])
def test_another_optimizer_is_refused_before_its_state_is_read(tmp_path: Path, tiny_config, toy_rows, options):
    make_trainer(tmp_path, tiny_config, toy_rows, max_steps=2).train()
    name = next(iter(options))
    with pytest.raises(ValueError, match=f"start a new run from its weights.*: `{name}` cannot change within a run"):
        make_trainer(tmp_path, tiny_config, toy_rows, **options).train(resume_from_checkpoint=True)
    model = DeiTForImageClassificationWithTeacher(tiny_config)
    given = torch.optim.Adagrad(model.parameters())
    with pytest.raises(ValueError, match="`optimizer` was None and is Adagrad.*cannot change within a run"):
        make_trainer(tmp_path, tiny_config, toy_rows, model=model, optimizers=(given, None)).train(
            resume_from_checkpoint=True
        )


def test_state_of_another_optimizer_is_refused_without_a_record_too(
    tmp_path: Path, tiny_config, toy_rows, monkeypatch
):
    make_trainer(tmp_path, tiny_config, toy_rows, max_steps=2).train()
    monkeypatch.setattr("deit_hf.training.same_run.read_identity", lambda place: None)
    with pytest.raises(ValueError, match="state of another optimizer than this run's: it lacks dampening, momentum"):
        make_trainer(tmp_path, tiny_config, toy_rows, optim="sgd").train(resume_from_checkpoint=True)


def test_logging_steps_of_this_run_are_used(tmp_path: Path, tiny_config, toy_rows):
    make_trainer(tmp_path, tiny_config, toy_rows, max_steps=2).train()
    resumed = make_trainer(tmp_path, tiny_config, toy_rows, logging_steps=1)
    resumed.train(resume_from_checkpoint=True)
    assert [entry["step"] for entry in resumed.state.log_history if "loss" in entry] == [2, 3, 4]


def test_checkpoint_beyond_the_last_step_is_refused(tmp_path: Path, tiny_config, toy_rows):
    make_trainer(tmp_path, tiny_config, toy_rows).train()
    shorter = make_trainer(tmp_path, tiny_config, toy_rows, max_steps=3, allow_changes=["max_steps"])
    with pytest.raises(ValueError, match="checkpoint-4` is at step 4, but the training has only 3 steps; raise"):
        shorter.train(resume_from_checkpoint=True)


# ---- in Python ----


class Convnet(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, width, 3, stride=2), nn.BatchNorm2d(width), nn.Linear(width, 5)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(pixel_values)).mean(dim=(2, 3)))


def make_teacher(*, seed: int = 0, mean: float = 0.5, name: str = "teacher") -> Teacher:
    torch.manual_seed(seed)
    return Teacher(Convnet(), mean=(mean,) * 3, std=(0.5,) * 3, image_size=32, name=name)


def test_teacher_data_and_classes_are_compared_in_python_too(tmp_path: Path, tiny_config, toy_rows):
    options = {"distillation_type": "hard"}
    make_trainer(tmp_path, tiny_config, toy_rows, teacher=make_teacher(), max_steps=2, **options).train()
    tiny_config.id2label = dict(enumerate(["a", "b", "c", "d", "zz"]))
    toy_rows = toy_rows.cast_column("label", datasets.ClassLabel(names=["a", "b", "c", "d", "zz"]))
    others = {"teacher": make_teacher(seed=3), **options}
    with pytest.raises(ValueError, match="holds another run") as refused:
        make_trainer(tmp_path, tiny_config, toy_rows.select(range(36)), **others).train(resume_from_checkpoint=True)
    assert "`teacher` (weights " in str(refused.value)
    assert "`data` (rows 40, now 36; labels " in str(refused.value)
    assert "`classes` were a, b, c, d, e and are a, b, c, d, zz" in str(refused.value)
    allowed = ["teacher", "data", "classes"]
    resumed = make_trainer(tmp_path, tiny_config, toy_rows.select(range(36)), allow_changes=allowed, **others)
    resumed.train(resume_from_checkpoint=True)
    changes = read_identity(tmp_path / "checkpoint-4")["changes"]
    assert [(change["step"], change["difference"][0]) for change in changes] == [
        *((2, "max_steps"), (2, "classes"), (2, "data"), (2, "teacher"))
    ]


def test_changes_stay_in_the_record_when_the_run_is_continued_again(tmp_path: Path, tiny_config, toy_rows):
    make_trainer(tmp_path, tiny_config, toy_rows, max_steps=2).train()
    make_trainer(tmp_path, tiny_config, toy_rows, max_steps=4).train(resume_from_checkpoint=True)
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, max_steps=6)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.effective_recipe["changed at step 2"] == "`max_steps` was 2 and is 4"
    assert trainer.effective_recipe["changed at step 4"] == "`max_steps` was 4 and is 6"


def test_each_training_of_a_trainer_is_compared(tmp_path: Path, tiny_config, toy_rows):
    make_trainer(tmp_path, tiny_config, toy_rows, max_steps=2).train()
    trainer = make_trainer(tmp_path, tiny_config, toy_rows)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    trainer.args.mixup_alpha = 0.3
    with pytest.raises(ValueError, match="`mixup_alpha` was 0.8 and is 0.3"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_comparing_draws_no_random_numbers(tmp_path: Path, tiny_config, toy_rows):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, teacher=make_teacher(), distillation_type="hard")
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    trainer.same_run.settle()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


@pytest.mark.parametrize("change", [{"seed": 1}, {"mean": 0.4}])
def test_teacher_is_known_by_its_weights_and_normalisation_and_not_by_its_name(change: dict):
    assert teacher_fingerprint(make_teacher(name="elsewhere")) == teacher_fingerprint(make_teacher())
    assert teacher_fingerprint(make_teacher(**change)) != teacher_fingerprint(make_teacher())


def test_batch_statistics_of_a_teacher_count():
    teacher = make_teacher()
    before = teacher_fingerprint(teacher)
    teacher.module.norm.running_mean += 1
    assert teacher_fingerprint(teacher) != before


def test_starting_weights_are_known_by_content(tmp_path: Path):
    for name, content in (("a", b"1" * 100), ("copy", b"1" * 100), ("b", b"2" * 100)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
    starts = {name: weights_facts(str(tmp_path / name)) for name in ("a", "copy", "b")}
    assert starts["a"] == starts["copy"] != starts["b"]
    files = {name: f"timm:resnet18@{tmp_path / name / 'model.safetensors'}" for name in ("a", "copy", "b")}
    starts = {name: weights_facts(files[name]) for name in files}
    assert starts["a"] == starts["copy"] != starts["b"]
    assert weights_facts(None) is None
    assert weights_facts("user/model") == {"source": "user/model"}
