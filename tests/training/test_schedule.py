"""Every schedule of transformers has a warm-up, ends at the minimum and fits its summary, or is refused by name."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from support.trainers import make_args, make_trainer, parameters_of
from torch import nn
from transformers import SchedulerType

from deit_hf import DeiTConfig, DeiTForImageClassificationWithTeacher, DistillationArguments, DistillationTrainer
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.model.arguments import ModelArguments
from deit_hf.training.recipe_file import parse_recipe, write_recipe
from deit_hf.training.schedule import create_schedule, learning_rates
from deit_hf.training.schedule_options import END_OPTIONS, FOLLOW_A_METRIC, WITHOUT_END

NUM_STEPS, NUM_WARMUP_STEPS, PEAK, FIRST, LAST = 110, 10, 1e-3, 1e-5, 1e-4
NUM_STEPS_AFTER = NUM_STEPS - NUM_WARMUP_STEPS


def args_of(tmp_path: Path, name: str, options: dict[str, Any] | None = None, **others: Any) -> DistillationArguments:
    warmup = {} if name in FOLLOW_A_METRIC else {"warmup_epochs": 1.0, "warmup_learning_rate": FIRST}
    end = {} if name in WITHOUT_END else {"min_learning_rate": LAST}
    metric = {"eval_strategy": "steps", "eval_steps": 2} if name in FOLLOW_A_METRIC else {}
    settings = {"learning_rate": PEAK, "warmup_epochs": None, **warmup, **end, **metric, **others}
    return make_args(tmp_path, lr_scheduler_type=name, lr_scheduler_kwargs=options, **settings)


def optimizer_of(*scales: float) -> torch.optim.Optimizer:
    groups = [
        {"params": [nn.Parameter(torch.zeros(1))], "lr": PEAK * scale, "learning_rate_scale": scale}
        for scale in scales
    ]
    return torch.optim.SGD(groups)


def walk(schedule: Any, num_steps: int) -> list[list[float]]:
    """Returns the learning rates of all groups at each step."""
    rates = []
    for _ in range(num_steps):
        rates.append([group["lr"] for group in schedule.optimizer.param_groups])
        schedule.optimizer.step()
        schedule.step()
    return rates


def schedule_of(args: DistillationArguments, *scales: float) -> Any:
    steps = {"num_steps": NUM_STEPS, "steps_in_epoch": NUM_WARMUP_STEPS}
    return create_schedule(optimizer_of(*(scales or (1.0,))), args, **steps)


def cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


# after the warm-up: 0 is the learning rate at the end, 1 the peak; written from the documentation of each schedule
SHAPES: dict[str, tuple[dict[str, Any] | None, Callable[[int], float]]] = {
    "cosine": (None, lambda step: cosine(step / NUM_STEPS_AFTER)),
    "cosine of three halves": ({"num_cycles": 1.5}, lambda step: cosine(3 * step / NUM_STEPS_AFTER)),
    "linear": (None, lambda step: 1 - step / NUM_STEPS_AFTER),
    "cosine_with_restarts": ({"num_cycles": 2}, lambda step: cosine(2 * step / NUM_STEPS_AFTER % 1)),
    "polynomial": ({"power": 2.0}, lambda step: (1 - step / NUM_STEPS_AFTER) ** 2),
    "cosine_with_min_lr": (None, lambda step: cosine(step / NUM_STEPS_AFTER)),
    "cosine_warmup_with_min_lr": (None, lambda step: cosine(step / NUM_STEPS_AFTER)),
    "warmup_stable_decay": (
        {"num_decay_steps": 20, "decay_type": "linear"},
        lambda step: min(1.0, (NUM_STEPS_AFTER - step) / 20),
    ),
    "constant": (None, lambda step: 1.0),
    "constant_with_warmup": (None, lambda step: 1.0),
    "inverse_sqrt": (None, lambda step: math.sqrt(NUM_WARMUP_STEPS / (NUM_WARMUP_STEPS + step))),
}


def test_every_schedule_of_transformers_is_known():
    """Fails if a release of transformers adds a schedule that is missing in schedule_options.py."""
    assert {choice.value for choice in SchedulerType} == {*END_OPTIONS, *WITHOUT_END}
    assert {choice.value for choice in SchedulerType} == {name.split()[0] for name in SHAPES} | set(FOLLOW_A_METRIC)


@pytest.mark.parametrize("case", SHAPES)
def test_every_schedule_warms_up_and_ends_at_the_minimum(tmp_path: Path, case: str):
    name, (options, shape) = case.split()[0], SHAPES[case]
    schedule = schedule_of(args_of(tmp_path, name, options), 1.0, 0.5)
    last = 0.0 if name in WITHOUT_END else LAST
    warmup = [FIRST + (PEAK - FIRST) * step / NUM_WARMUP_STEPS for step in range(NUM_WARMUP_STEPS)]
    expected = warmup + [last + (PEAK - last) * shape(step) for step in range(NUM_STEPS_AFTER)]
    rates = walk(schedule, NUM_STEPS)
    assert [high for high, _ in rates] == pytest.approx(expected, rel=1e-9)
    assert [low for _, low in rates] == pytest.approx([rate / 2 for rate in expected], rel=1e-9)
    assert learning_rates(schedule, NUM_STEPS)[:NUM_STEPS] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("case", SHAPES)
def test_rate_of_every_schedule_is_a_function_of_the_step(tmp_path: Path, case: str):
    name, (options, _) = case.split()[0], SHAPES[case]
    args = args_of(tmp_path, name, options)
    whole = walk(schedule_of(args), 40)
    stopped = schedule_of(args)
    walk(stopped, 17)
    resumed = schedule_of(args)
    resumed.load_state_dict(stopped.state_dict())
    resumed.optimizer.load_state_dict(stopped.optimizer.state_dict())
    assert walk(resumed, 23) == whole[17:]


@pytest.mark.parametrize("name", FOLLOW_A_METRIC)
def test_minimum_is_the_floor_of_a_schedule_that_follows_a_metric(tmp_path: Path, name: str):
    schedule = schedule_of(args_of(tmp_path, name, {"patience": 0, "factor": 0.1}), 1.0, 0.5)
    for metric in (1.0, 2.0, 3.0, 4.0, 5.0):
        schedule.step(metric)
    assert [group["lr"] for group in schedule.optimizer.param_groups] == pytest.approx([LAST, LAST / 2])


@pytest.mark.parametrize(
    ("name", "options", "last"),
    [
        ("polynomial", {"lr_end": 2e-4}, 2e-4),
        ("cosine_with_min_lr", {"min_lr": 2e-4}, 2e-4),
        ("cosine_with_min_lr", {"min_lr_rate": 0.3}, 3e-4),
        ("warmup_stable_decay", {"num_decay_steps": 20, "min_lr_ratio": 0.3}, 3e-4),
    ],
)
def test_end_in_the_options_of_the_schedule_is_taken_and_no_other_is_claimed(tmp_path, name, options, last):
    args = args_of(tmp_path, name, options, min_learning_rate=None)
    assert args.min_learning_rate is None
    rates = learning_rates(schedule_of(args), NUM_STEPS)
    assert (max(rates), rates[-1]) == pytest.approx((PEAK, last))


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 50), ({"warmup_epochs": 0.0}, 0), ({"warmup_steps": 0.1}, 11), ({"warmup_steps": 7}, 7)],
)
def test_warm_up_holds_as_it_was_given(tmp_path: Path, options: dict, expected: int):
    # 110 steps, ten per epoch; the default is five epochs of warm-up
    args = args_of(tmp_path, "linear", warmup_epochs=options.pop("warmup_epochs", None), **options)
    rates = learning_rates(schedule_of(args), NUM_STEPS)
    assert rates.index(max(rates)) == expected
    assert rates[0] == pytest.approx(FIRST if expected else PEAK)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("constant", {"min_learning_rate": 1e-5}, "`min_learning_rate` is 1e-05, but .* 'constant' has no end"),
        (
            "inverse_sqrt",
            {"min_learning_rate": 1e-4},
            "is 0.0001, but .* 'inverse_sqrt' has no end",
        ),
        (
            "polynomial",
            {"lr_scheduler_kwargs": {"lr_end": 1e-6}, "min_learning_rate": 1e-5},
            "`min_learning_rate` is 1e-05 and `lr_scheduler_kwargs` has `lr_end`; give only one",
        ),
        (
            "greedy",
            {"warmup_epochs": 2.0},
            "`warmup_epochs` is 2.0, but .* 'greedy' follows a metric",
        ),
        ("greedy", {"warmup_steps": 9}, "`warmup_steps` is 9, but `lr_scheduler_type` 'greedy' follows a metric"),
        (
            "reduce_lr_on_plateau",
            {"warmup_learning_rate": 0.0},
            "`warmup_learning_rate` is 0.0, .* no warm-up",
        ),
        (
            "warmup_stable_decay",
            {"lr_scheduler_kwargs": {"num_decay_steps": 3, "warmup_type": "cosine"}},
            "`lr_scheduler_kwargs` has `warmup_type`, but .* is always linear, from `warmup_learning_rate` over",
        ),
        (
            "cosine_warmup_with_min_lr",
            {"lr_scheduler_kwargs": {"warmup_lr_rate": 0.1}},
            "`lr_scheduler_kwargs` has `warmup_lr_rate`",
        ),
        (
            "linear",
            {"lr_scheduler_kwargs": {"power": 2}},
            "is {'power': 2}, which .* 'linear' cannot use",
        ),
        ("constant", {"lr_scheduler_kwargs": {"power": 2}}, "is {'power': 2}, but .* 'constant' has no options"),
        ("polynomial", {"lr_scheduler_kwargs": {"power": "a"}}, "is {'power': 'a'}, which .* 'polynomial' cannot use"),
        ("polynomial", {"lr_scheduler_kwargs": {"power": -1}}, "has `power` -1, but it must be in"),
        ("cosine_with_min_lr", {"lr_scheduler_kwargs": {"min_lr": 0.9}}, "has `min_lr` 0.9, but it must be in"),
        ("cosine_with_min_lr", {"lr_scheduler_kwargs": {"min_lr_rate": 3}}, "has `min_lr_rate` 3, but it must be in"),
        ("warmup_stable_decay", {}, "which .* 'warmup_stable_decay' cannot use: .* 'num_decay_steps'"),
    ],
)
def test_what_a_schedule_cannot_take_is_refused_at_construction(tmp_path, name: str, options: dict, message: str):
    settings = {"eval_strategy": "epoch", "warmup_epochs": None, **options}
    with pytest.raises(ValueError, match=message):
        make_args(tmp_path, lr_scheduler_type=name, **settings)


def test_decay_of_more_steps_than_follow_the_warm_up_is_refused(tmp_path: Path):
    args = args_of(tmp_path, "warmup_stable_decay", {"num_decay_steps": 101})
    with pytest.raises(ValueError, match="`num_decay_steps` 101, but only 100 steps follow the warm-up"):
        schedule_of(args)


@pytest.mark.parametrize("name", [choice.value for choice in SchedulerType])
def test_recipe_that_is_written_is_accepted_again_with_every_schedule(tmp_path: Path, name: str):
    """Fails if the recipe holds a default value that the schedule does not support."""
    options = {"num_decay_steps": 3} if name == "warmup_stable_decay" else None
    strategy = "steps" if name in FOLLOW_A_METRIC else "no"
    settings = {"eval_strategy": strategy, "eval_steps": 2, "lr_scheduler_kwargs": options, "report_to": "none"}
    args = DistillationArguments(str(tmp_path), lr_scheduler_type=name, **settings)
    model, data = ModelArguments(variant="deit_tiny_patch16_224"), DataArguments(dataset_name="no")
    write_recipe(tmp_path / "recipe.yaml", model, data, args)
    kinds = (ModelArguments, DataArguments, DistillationArguments)
    again = parse_recipe(kinds, [str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path)])[-1]
    names = ("lr_scheduler_type", "lr_scheduler_kwargs", "min_learning_rate", "warmup_epochs", "warmup_learning_rate")
    assert {name: getattr(again, name) for name in names} == {name: getattr(args, name) for name in names}


# ---- in a training ----


def logged_rates(trainer: DistillationTrainer) -> list[float]:
    return [log["learning_rate"] for log in trainer.state.log_history if "learning_rate" in log]


def test_training_moves_the_rate_as_its_summary_says_and_resumes_bit_equal(tmp_path, tiny_config, toy_rows):
    options = {"max_steps": 10, "warmup_epochs": 0.8, "lr_scheduler_type": "linear", "save_strategy": "steps"}
    options |= {"save_steps": 7, "layer_decay": 0.5}
    whole = make_trainer(tmp_path, tiny_config, toy_rows, **options)  # five steps per epoch
    whole.train()
    rates = logged_rates(whole)
    expected = [1e-6 + (1e-3 - 1e-6) * i / 4 for i in range(4)] + [
        1e-5 + (1e-3 - 1e-5) * (6 - i) / 6 for i in range(6)
    ]
    assert rates == pytest.approx(expected, rel=1e-9)
    assert whole.effective_recipe["warm-up"] == "4 steps from 1e-06"
    assert whole.effective_recipe["learning rate"] == (
        "0.001 at its peak; linear to 1e-05; 1e-06 in the first step, 0.000175 in the last, x 0.5 for each layer down"
    )
    resumed = make_trainer(tmp_path, tiny_config, toy_rows, **options)
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-7")
    assert logged_rates(resumed) == rates
    weights = parameters_of(whole.model)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in parameters_of(resumed.model).items())


def test_schedule_that_follows_a_metric_claims_no_warm_up(tmp_path: Path, tiny_config: DeiTConfig, toy_rows):
    student = DeiTForImageClassificationWithTeacher(tiny_config)
    settings = {"lr_scheduler_type": "reduce_lr_on_plateau", "warmup_epochs": None, "eval_strategy": "epoch"}
    args = make_args(tmp_path, max_steps=1, **settings)
    trainer = DistillationTrainer(student, args, train_dataset=toy_rows, eval_dataset=toy_rows)
    trainer.train()
    assert trainer.effective_recipe["warm-up"] == "none"
    assert trainer.effective_recipe["learning rate"] == (
        "0.001 at the start; reduce_lr_on_plateau, which follows a metric, at least 1e-05"
    )
    assert logged_rates(trainer)[0] == 1e-3


def test_rates_of_a_schedule_that_was_given_are_said(tmp_path: Path, tiny_student, toy_rows: datasets.Dataset):
    """Fails if the summary has the options although the trainer was given an optimizer and a schedule."""
    optimizer = torch.optim.SGD(tiny_student.parameters(), lr=0.25)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    args = make_args(tmp_path, max_steps=3, warmup_epochs=5)
    trainer = DistillationTrainer(tiny_student, args, train_dataset=toy_rows, optimizers=(optimizer, schedule))
    trainer.train()
    assert trainer.effective_recipe["warm-up"] == "set by the given schedule"
    said = trainer.effective_recipe["learning rate"]
    assert said.startswith("0.25 at its peak; a given schedule to 0.03125")
    assert said.endswith("0.25 in the first step, 0.0625 in the last")
