"""Infinite losses and gradients: a training stops, or skips the step, and never saves infinite weights."""

import json
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from support.patience import PATIENCE
from support.processes import RECIPE
from support.trainers import make_args, make_resnet, make_trainer, parameters_of
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from deit_hf import DistillationTrainer, Teacher
from deit_hf.model.image_processing_deit import make_processor
from deit_hf.reliability.numerical_faults import NonFiniteLossError, _ranges

ROOT = Path(__file__).parents[2]
WAITS = {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero"}  # each makes the host wait for a device


class Fault:
    """Makes the logits, or only the gradient, of chosen backward passes not finite; passes are counted from 1."""

    def __init__(self, trainer: DistillationTrainer, passes: set[int], *, value: float = math.nan, what: str = "loss"):
        self.passes, self.value, self.what, self.count = passes, value, what, 0
        trainer.model.register_forward_hook(self)

    def __call__(self, model: nn.Module, args: tuple, outputs) -> None:
        if not model.training:
            return
        self.count += 1
        if self.count not in self.passes:
            return
        if self.what == "loss":
            outputs.cls_logits = outputs.cls_logits * self.value
        else:
            outputs.cls_logits.register_hook(lambda gradient: gradient * self.value)


def checkpoints(trainer: DistillationTrainer) -> set[str]:
    return {path.name for path in Path(trainer.args.output_dir).glob("checkpoint-*")}


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_training_stops_at_the_next_report_and_keeps_the_last_good_checkpoint(
    tmp_path, tiny_config, toy_rows, what: str, value: float
):
    options = {"num_train_epochs": 3, "logging_steps": 5, "save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, **options)  # five steps an epoch
    Fault(trainer, {7}, value=value, what=what)
    with pytest.raises(NonFiniteLossError, match=rf"{what} at steps 7") as error:
        trainer.train()
    assert trainer.state.global_step == 8  # the save at 8 comes before the report at 10
    assert checkpoints(trainer) == {"checkpoint-2", "checkpoint-4", "checkpoint-6"}
    for advice in ("checkpoint-6", "`learning_rate` (now 0.001)", "bf16", "`max_bad_steps`"):
        assert advice in str(error.value)
    assert all(math.isfinite(log.get("loss", 0)) for log in trainer.state.log_history)


@pytest.mark.parametrize(
    ("options", "stops_at"),
    [
        ({"logging_steps": 4}, 8),
        ({"logging_strategy": "epoch", "logging_steps": 4}, 9),  # the first epoch ended at 5
        ({"logging_strategy": "no", "logging_steps": 100}, 15),  # the end
        ({"logging_steps": 4, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}, 4),
    ],
)
def test_fault_is_found_within_logging_steps(tmp_path, tiny_config, toy_rows, options: dict, stops_at: int):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, **{"num_train_epochs": 3, **options})
    Fault(trainer, {7})  # with two passes per step, the fourth step
    with pytest.raises(NonFiniteLossError):
        trainer.train()
    assert trainer.state.global_step == stops_at


def test_rate_that_is_far_too_high_leaves_no_infinite_checkpoint(tmp_path, tiny_config, toy_rows):
    options = {"learning_rate": 1e38, "num_train_epochs": 3, "optim": "sgd", "logging_steps": 100}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, **options, save_strategy="steps", save_steps=1)
    with pytest.raises(NonFiniteLossError, match="loss at steps|weights after step"):
        trainer.train()
    for checkpoint in Path(trainer.args.output_dir).glob("checkpoint-*"):
        saved = type(trainer.model).from_pretrained(checkpoint)
        assert all(tensor.isfinite().all() for tensor in saved.state_dict().values())


def test_infinite_weights_after_the_last_step_are_not_saved(tmp_path, tiny_config, toy_rows):
    # loss and gradient of that step are finite, and no later step follows that would detect it
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, max_steps=3, save_strategy="steps", save_steps=3)

    def leap_in_the_last_step(*_: object) -> None:
        if trainer.state.global_step == 2:
            trainer.optimizer.param_groups[0]["lr"] = 1e39

    trainer.model.register_forward_pre_hook(leap_in_the_last_step)
    with pytest.raises(NonFiniteLossError, match="weights after step 3; there is no checkpoint"):
        trainer.train()
    assert checkpoints(trainer) == set()


class BrokenTeacher(nn.Module):
    """Returns the same number for every class."""

    def __init__(self, value: float):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.value.expand(len(pixel_values), 5)


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_teacher_without_an_answer_stops_the_training(tmp_path, tiny_config, toy_rows, kind: str, value: float):
    # the argmax of NaNs is a class like any other: hard distillation would continue to learn it
    teacher = Teacher(BrokenTeacher(value), mean=(0.5,) * 3, std=(0.5,) * 3, image_size=32)
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, teacher, distillation_type=kind)
    with pytest.raises(NonFiniteLossError, match="loss at steps 1"):
        trainer.train()


class Waits(TorchDispatchMode):
    """Counts the operators that make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.name().partition(".")[0] in WAITS
        return func(*args, **(kwargs or {}))


def test_steps_between_two_reports_do_not_wait_for_the_device(tmp_path, tiny_config, tiny_teacher, toy_rows):
    # as many waits in twenty steps as in ten
    counts = []
    for num_steps in (10, 20):
        options = {"max_steps": num_steps, "logging_steps": 100, "distillation_type": "hard", "ema_decay": 0.9}
        options["per_device_train_batch_size"] = 2  # one epoch, because each epoch begins by reading a seed
        options["dataloader_num_workers"] = 1  # the worker draws the views, so only the steps are counted here
        trainer = make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher, **options)
        # the optimizer reads its step count, which is on the CPU: this is not a wait for a device
        trainer.create_optimizer()
        trainer.optimizer.step = lambda closure=None: None
        with Waits() as waits:
            trainer.train()
        counts.append(waits.count)
    assert counts[0] == counts[1] > 0


# ---- skipped steps ----


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("optimizer", [{}, {"optim": "sgd"}, {"timm_optimizer": "lamb"}])
def test_skipped_step_changes_no_weight_no_moment_and_no_average(tmp_path, tiny_config, toy_rows, what, optimizer):
    options = {"max_steps": 4, "max_bad_steps": 1, "ema_decay": 0.9, "max_grad_norm": 1.0, **optimizer}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, **options)
    Fault(trainer, {3}, what=what)
    states = []

    def look(model: nn.Module, *_) -> None:  # at the start of each step
        moments = {
            (i, k): torch.as_tensor(v).clone()
            for i, s in enumerate(trainer.optimizer.state.values())
            for k, v in s.items()
        }
        states.append((parameters_of(model), moments, parameters_of(trainer.ema.model), trainer.ema.num_updates))

    trainer.model.register_forward_pre_hook(look)
    result = trainer.train()
    (_, _, before, after) = states
    for kind in range(3):
        assert all(torch.equal(tensor, after[kind][name]) for name, tensor in before[kind].items())
    assert before[3] == after[3] == 2
    assert not torch.equal(states[1][0]["cls_classifier.weight"], before[0]["cls_classifier.weight"])
    assert not torch.equal(trainer.model.cls_classifier.weight, after[0]["cls_classifier.weight"])  # next step
    assert trainer.state.global_step == 4
    assert result.metrics["train_bad_steps"] == 1
    assert trainer.step_outcome.skipped_steps == [3]


def test_finite_gradient_whose_norm_overflows_is_found_before_it_is_clipped(tmp_path, tiny_config, toy_rows):
    # clipping divides it by its infinite norm: the optimizer would step with a gradient of zeros
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, max_steps=3, max_bad_steps=1, max_grad_norm=1.0)
    Fault(trainer, {2}, value=1e35, what="gradient")
    assert trainer.train().metrics["train_bad_steps"] == 1
    assert trainer.step_outcome.skipped_steps == [2]


def test_skipped_step_moves_no_batch_statistics(tmp_path, toy_rows):
    student = make_resnet()
    args = make_args(tmp_path, max_steps=1, max_bad_steps=1)
    trainer = DistillationTrainer(student, args, train_dataset=toy_rows, processing_class=make_processor(32))
    student.classifier.register_forward_hook(lambda module, _, logits: logits * math.nan)
    before = parameters_of(student)
    trainer.train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in parameters_of(student).items())


def test_log_of_skipped_steps_is_the_mean_of_the_others(tmp_path, tiny_config, toy_rows):
    options = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 0.0}
    options |= {"warmup_learning_rate": 0.0, "min_learning_rate": 0.0, "max_steps": 5}
    clean = make_trainer(tmp_path, tiny_config, toy_rows, logging_steps=1, **options)
    clean.train()
    losses = [log["loss"] for log in clean.state.log_history if "loss" in log]
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, logging_steps=5, max_bad_steps=2, **options)
    Fault(trainer, {5, 9})  # one of two passes of steps 3 and 5
    result = trainer.train()
    report = next(log for log in trainer.state.log_history if "loss" in log)
    assert report["loss"] == pytest.approx((losses[0] + losses[1] + losses[3]) / 3, abs=1e-6)
    assert "grad_norm" not in report  # it would be that of the last step, which was skipped
    assert result.metrics["train_loss"] == pytest.approx(report["loss"], abs=1e-6)


def test_one_bad_step_above_the_allowed_ones_ends_the_training(tmp_path, tiny_config, toy_rows, caplog):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, num_train_epochs=3, max_bad_steps=2, logging_steps=100)
    before = []
    Fault(trainer, {2, 3, 6})
    trainer.model.register_forward_pre_hook(lambda model, _: before.append(parameters_of(model)))
    message = r"loss at steps 6, gradient at steps 6 \(steps 2-3 were skipped before\).*`max_bad_steps` \(now 2\)"
    with pytest.raises(NonFiniteLossError, match=message):
        trainer.train()
    assert "skipped (2 of at most 2)" in caplog.text
    assert all(torch.equal(tensor, before[-1][name]) for name, tensor in parameters_of(trainer.model).items())


@pytest.mark.parametrize("restore", [False, True])
def test_resumed_training_remembers_the_steps_that_were_skipped(tmp_path, tiny_config, toy_rows, restore: bool):
    options = {"num_train_epochs": 2, "max_bad_steps": 2, "save_strategy": "steps", "save_steps": 4, "ema_decay": 0.9}
    options["restore_callback_states_from_checkpoint"] = restore
    whole = make_trainer(tmp_path, tiny_config, toy_rows, **options)
    Fault(whole, {2, 6})
    whole.train()
    resumed = make_trainer(tmp_path, tiny_config, toy_rows, **options)
    Fault(resumed, {2})  # step 6
    result = resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-4")
    expected = parameters_of(whole.model)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in parameters_of(resumed.model).items())
    assert resumed.step_outcome.skipped_steps == [2, 6]
    assert result.metrics["train_bad_steps"] == 2

    third = make_trainer(tmp_path, tiny_config, toy_rows, **options)
    Fault(third, {2, 3})  # steps 6 and 7: one more than allowed
    with pytest.raises(NonFiniteLossError, match=r"loss at steps 7.*\(steps 2, 6 were skipped before\)"):
        third.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-4")


def test_resumed_training_takes_a_lower_rate(tmp_path, tiny_config, toy_rows, caplog):
    # the error advises a lower learning rate; `Trainer` would silently use the one of the checkpoint
    options = {"num_train_epochs": 2, "warmup_epochs": 1, "save_strategy": "steps", "save_steps": 4}
    make_trainer(tmp_path, tiny_config, toy_rows, **options).train()
    rates = []
    for resume in (f"{tmp_path}/run/checkpoint-4", None):  # the second run overwrites the checkpoint
        trainer = make_trainer(tmp_path, tiny_config, toy_rows, **options | {"learning_rate": 1e-4})
        trainer.train(resume_from_checkpoint=resume)
        rates.append([log["learning_rate"] for log in trainer.state.log_history if "learning_rate" in log])
    assert rates[0][4:] == pytest.approx(rates[1][4:], rel=1e-9)
    assert caplog.text.count("the peak learning rate is 0.0001 from here on; it was 0.001") == 1


def test_number_of_bad_steps_must_not_be_negative(tmp_path):
    with pytest.raises(ValueError, match="`max_bad_steps` is -1, but must be 0 or more"):
        make_args(tmp_path, max_bad_steps=-1)


def test_steps_are_named_in_ranges():
    assert _ranges([3, 5, 6, 7, 9]) == "3, 5-7, 9"


# ---- the script, and several processes ----

DIVERGES = {**RECIPE, "learning_rate": "1e30", "optim": "sgd", "per_device_train_batch_size": 16, "logging_steps": 4}


def test_script_says_one_line_and_exits_with_its_own_code(tmp_path, monkeypatch, capsys):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(DIVERGES))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "recipe.yaml", "--output_dir", "run"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / "scripts" / "train.py"), run_name="__main__")
    assert left.value.code == 4
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "error: NaN or infinite: loss at steps" in errors[0]
    assert not (tmp_path / "run" / "model.safetensors").exists()


WORKER = """
import json, math, os, sys
import torch
from deit_hf import DistillationArguments, DistillationTrainer
from deit_hf.training import run as command
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.model.arguments import ModelArguments
from deit_hf.reliability.numerical_faults import NonFiniteLossError
from deit_hf.training.recipe_file import parse_recipe

class OneInfiniteLoss(DistillationTrainer):
    # a loss that is infinite on the second process only, and whose gradient is finite
    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        return loss + math.inf if self.state.global_step == 4 and self.args.process_index == 1 else loss

command.DistillationTrainer = OneInfiniteLoss
options = parse_recipe((ModelArguments, DataArguments, DistillationArguments), sys.argv[1:])
try:
    command.train(*options)
    outcome = "done"
except NonFiniteLossError as error:
    outcome = str(error)
torch.distributed.destroy_process_group()
open(f"rank-{os.environ['RANK']}.txt", "w").write(outcome)
"""


def run_two(folder: Path, *options: str) -> list[str]:
    (folder / "worker.py").write_text(WORKER)
    recipe = {**RECIPE, "max_train_samples": 32, "max_eval_samples": 8, "max_steps": 8, "logging_steps": 8}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "per_device_train_batch_size": 4}))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["worker.py", "recipe.yaml", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, env=environment)
    assert result.returncode == 0, result.stderr
    return [(folder / f"rank-{rank}.txt").read_text() for rank in (0, 1)]


@pytest.mark.slow
def test_processes_stop_together_at_a_fault_that_one_of_them_saw(tmp_path: Path):
    outcomes = run_two(tmp_path, "--output_dir", "run", "--save_strategy", "steps", "--save_steps", "3")
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].startswith("NaN or infinite: loss at steps 5;")
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == {"checkpoint-3"}


@pytest.mark.slow
def test_processes_skip_the_same_step(tmp_path: Path):
    assert run_two(tmp_path, "--output_dir", "run", "--max_bad_steps", "1") == ["done", "done"]
    results = json.loads((tmp_path / "run" / "train_results.json").read_text())
    assert results["train_bad_steps"] == 1
    assert math.isfinite(results["train_loss"])
