"""`auto_find_batch_size`: the run that fits is the one that would have started with its local batch."""

import gc
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from deit_hf import DeiTForImageClassificationWithTeacher, DistillationArguments, DistillationTrainer
from deit_hf.reliability.batch_fitting import local_batches, names_batch_size
from deit_hf.training.recipe_file import write_recipe


@pytest.fixture(autouse=True)
def _quick_garbage_collection() -> Iterator[None]:
    """Each attempt collects garbage; what was imported before need not be looked through."""
    gc.freeze()
    yield
    gc.unfreeze()


class TooLittleMemory(DeiTForImageClassificationWithTeacher):
    """Takes `fits` images at once in training; more are too many from the given call on."""

    fits, from_call, calls = 4, 0, 0

    def forward(self, pixel_values, **options):
        if self.training:
            self.calls += 1
            if len(pixel_values) > self.fits and self.calls > self.from_call:
                torch.rand(7)  # what a failed attempt draws
                random.random()
                np.random.rand()
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return super().forward(pixel_values, **options)


class Events(TrainerCallback):
    def __init__(self) -> None:
        self.steps, self.learning_rates = [], []

    def on_step_end(self, args, state, control, lr_scheduler=None, **kwargs):
        self.steps.append(state.global_step)
        self.learning_rates.append(lr_scheduler.get_last_lr()[0])


def make_trainer(tmp_path, config, rows, teacher, *, batch_size, accumulation, fits=64, from_call=0, **options):
    torch.manual_seed(3)
    config.drop_path_rate = 0.3  # masks come from the random stream
    student = TooLittleMemory(config)
    student.fits, student.from_call = fits, from_call
    args = DistillationArguments(
        str(tmp_path / "run"),
        **{
            "per_device_train_batch_size": batch_size,
            "gradient_accumulation_steps": accumulation,
            "distillation_type": "soft",
            "ema_decay": 0.9,
            "max_steps": 5,
            "random_augment": "none",
            "base_learning_rate": 1e-2,
            "warmup_steps": 2,
            "logging_steps": 1,
            "overwrite_output_dir": True,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            **options,
        },
    )
    return DistillationTrainer(student, args, teacher=teacher, train_dataset=rows, eval_dataset=rows.select(range(5)))


def outcome(trainer, **train_options) -> dict:
    events = Events()
    trainer.add_callback(events)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    trainer.train(**train_options)
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {
        "log": log,
        "weights": {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()},
        "averages": {name: tensor.clone() for name, tensor in trainer.ema.model.state_dict().items()},
        "num_updates": trainer.ema.num_updates,
        "step_size": trainer.view_sampler.step_size,
        "steps": events.steps[-5:],
        "learning_rates": events.learning_rates[-5:],
        "flos": trainer.state.total_flos,
        "recipe": trainer.effective_recipe["global batch"],
        "stream": (random.random(), np.random.rand(), torch.rand(1).item()),
    }


def assert_same(one: dict, other: dict) -> None:
    for kind in ("weights", "averages"):
        assert all(torch.equal(tensor, other[kind][name]) for name, tensor in one[kind].items()), kind
    for name in one.keys() - {"weights", "averages"}:
        assert one[name] == other[name], name


# the first attempt may end at once, in the midst of an accumulation, or after optimizer steps
@pytest.mark.parametrize("from_call", [0, 1, 4])
def test_run_that_ran_out_of_memory_is_bit_for_bit_the_one_with_the_smaller_batch(
    tmp_path, tiny_config, tiny_teacher, toy_rows, from_call: int
):
    small = make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher, batch_size=4, accumulation=6)
    expected = outcome(small)
    options = {"batch_size": 12, "accumulation": 2, "fits": 4, "from_call": from_call, "auto_find_batch_size": True}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher, **options)
    assert trainer.args.learning_rate == small.args.learning_rate
    found = outcome(trainer)
    assert_same(expected, found)
    assert expected["step_size"] == 24
    assert found["steps"] == [1, 2, 3, 4, 5]
    assert len(found["log"]) == 5
    args = trainer.args
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps, args.global_batch_size) == (4, 6, 24)
    write_recipe(tmp_path / "recipe.yaml", args)  # repeats what fitted
    text = (tmp_path / "recipe.yaml").read_text()
    assert "per_device_train_batch_size: 4\n" in text
    assert "gradient_accumulation_steps: 6\n" in text


def test_run_with_enough_memory_is_that_without_the_search(tmp_path, tiny_config, tiny_teacher, toy_rows):
    results = []
    for search in (False, True):
        options = {"batch_size": 12, "accumulation": 2, "auto_find_batch_size": search}
        results.append(outcome(make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher, **options)))
    assert_same(*results)


def test_resumed_run_goes_on_with_the_batch_that_fitted(tmp_path, tiny_config, tiny_teacher, toy_rows):
    options = {"batch_size": 12, "accumulation": 2, "fits": 4, "auto_find_batch_size": True}
    options |= {"save_strategy": "steps", "save_steps": 3}
    whole = make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher, **options)
    expected = outcome(whole)
    resumed = make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher, **options)
    found = outcome(resumed, resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    for kind in ("weights", "averages"):
        assert all(torch.equal(tensor, found[kind][name]) for name, tensor in expected[kind].items())
    assert found["log"] == expected["log"]
    assert resumed.model.calls == 2 * 6  # no attempt with more images


def test_optimizer_of_the_user_starts_anew_too(tmp_path, tiny_config, tiny_teacher, toy_rows):
    results = []
    for batch_size, accumulation, search in ((4, 3, False), (12, 1, True)):
        trainer = make_trainer(
            tmp_path,
            tiny_config,
            toy_rows,
            tiny_teacher,
            batch_size=batch_size,
            accumulation=accumulation,
            fits=4,
            from_call=2,
            auto_find_batch_size=search,
        )
        optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1, momentum=0.9)
        trainer.optimizer = optimizer
        results.append(outcome(trainer))
        assert trainer.optimizer.optimizer is optimizer
    assert_same(*results)


@pytest.mark.parametrize(("mixes", "sizes"), [(True, "6, 2"), (False, "6, 3, 2, 1")])
def test_batch_that_never_fits_ends_with_the_sizes_that_were_tried(
    tmp_path, tiny_config, tiny_teacher, toy_rows, mixes: bool, sizes: str
):
    options = {} if mixes else {"mixup_alpha": 0, "cutmix_alpha": 0}
    options |= {"batch_size": 6, "accumulation": 1, "fits": 0, "auto_find_batch_size": True}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher, **options)
    message = f"no local batch fits in memory, of {sizes}; it must divide the 6 views of a process in a step"
    with pytest.raises(ValueError, match=message) as error:
        trainer.train()
    assert ("an even number" in str(error.value)) == mixes
    assert trainer.model.calls == len(sizes.split(", "))


def test_other_errors_are_not_taken_for_too_little_memory(tmp_path, tiny_config, tiny_teacher, toy_rows):
    options = {"batch_size": 6, "accumulation": 1, "auto_find_batch_size": True}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, tiny_teacher, **options)
    trainer.model.cls_classifier = nn.Linear(7, 5)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        trainer.train()
    assert trainer.model.calls == 1


@pytest.mark.parametrize(
    ("in_one_step", "at_most", "even", "sizes"),
    [
        (32, 32, True, [32, 16, 8, 4, 2]),
        (24, 12, True, [12, 8, 6, 4, 2]),
        (10, 10, True, [10, 2]),
        (10, 10, False, [10, 5, 2, 1]),
        (24, 16, True, [12, 8, 6, 4, 2]),  # a checkpoint of another local batch
        (6, 64, False, [6, 3, 2, 1]),
        (7, 7, True, []),
    ],
)
def test_local_batches_divide_a_step_and_are_even_where_pairs_are_mixed(in_one_step, at_most, even, sizes):
    assert list(local_batches(in_one_step, at_most=at_most, even=even)) == sizes


# ---- without the search ----


def args_of(tmp_path, batch_size: int, accumulation: int, **options) -> DistillationArguments:
    options = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation, **options}
    return DistillationArguments(str(tmp_path), report_to="none", **options)


@pytest.mark.parametrize(
    ("sizes", "mixes", "advice"),
    [
        ((64, 1), True, "use 32 and 2, which keep the global batch of 64, or `--auto_find_batch_size true`"),
        ((6, 2), True, "use 2 and 6, which keep the global batch of 12"),  # 3 images are no pairs
        ((6, 2), False, "use 3 and 4, which keep the global batch of 12"),
        ((2, 3), True, "which cannot be less; take a smaller model or image"),
    ],
)
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_out_of_memory_in_training_names_both_sizes_and_a_pair_of_the_same_product(
    tmp_path, sizes: tuple[int, int], mixes: bool, advice: str, error: RuntimeError
):
    args = args_of(tmp_path, *sizes, **({} if mixes else {"mixup_alpha": 0, "cutmix_alpha": 0}))
    found = f"`per_device_train_batch_size` is {sizes[0]} and `gradient_accumulation_steps` {sizes[1]}"
    with (
        pytest.raises(torch.OutOfMemoryError, match=f"^out of memory: {found}[,;] {advice}.*memory") as raised,
        names_batch_size(args, training=True),
    ):
        raise error
    assert raised.value.exit_code == 2


def test_out_of_memory_in_evaluation_names_its_own_size(tmp_path):
    args = args_of(tmp_path, 2, 1, per_device_eval_batch_size=64)
    message = r"`per_device_eval_batch_size` \(.*\) is 64; use 32"
    with (
        pytest.raises(torch.OutOfMemoryError, match=message),
        names_batch_size(args, training=True),  # an evaluation within a training
        names_batch_size(args, training=False),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried")


def test_other_errors_pass_through(tmp_path):
    with (
        pytest.raises(RuntimeError, match="^shapes differ$"),
        names_batch_size(args_of(tmp_path, 2, 1), training=True),
    ):
        raise RuntimeError("shapes differ")


def test_training_and_evaluation_that_do_not_fit_say_so(tmp_path, tiny_config, toy_rows):
    trainer = make_trainer(
        tmp_path, tiny_config, toy_rows, None, batch_size=8, accumulation=1, fits=4, distillation_type="none"
    )
    with pytest.raises(torch.OutOfMemoryError, match="`per_device_train_batch_size` is 8 and .*; use 4 and 2"):
        trainer.train()
    trainer.model.forward = lambda **inputs: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. X"))
    with pytest.raises(torch.OutOfMemoryError, match="`per_device_eval_batch_size` .* is 8; use 4"):
        trainer.evaluate(toy_rows)
