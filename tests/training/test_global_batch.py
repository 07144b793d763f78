"""The global batch includes all processes and accumulation steps, wherever it is used."""

from pathlib import Path

import pytest
from support.trainers import make_args

from deit_hf import DeiTForImageClassificationWithTeacher, DistillationArguments, DistillationTrainer
from deit_hf.data.mixing import MAX_BLOCK_SIZE


@pytest.fixture
def three_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the options see three processes."""
    monkeypatch.setattr(DistillationArguments, "world_size", property(lambda self: 3))


@pytest.mark.usefixtures("three_processes")
@pytest.mark.parametrize(("batch_size", "accumulation", "expected"), [(4, 2, 24), (2, 5, 30), (6, 1, 18)])
def test_learning_rate_order_and_mixing_follow_from_the_global_batch(
    tmp_path: Path, tiny_config, toy_rows, batch_size: int, accumulation: int, expected: int
):
    sizes = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
    args = make_args(tmp_path, **sizes, learning_rate=None, base_learning_rate=1.0)
    assert args.global_batch_size == expected
    assert args.learning_rate == expected / 512
    student = DeiTForImageClassificationWithTeacher(tiny_config)
    trainer = DistillationTrainer(student, args, train_dataset=toy_rows)
    assert trainer.make_view_sampler().step_size == expected
    assert trainer._steps_in_epoch() == 40 // expected
    assert trainer.data_collator.mixing.block_size == min(expected, MAX_BLOCK_SIZE)


def test_one_step_takes_the_global_batch_and_the_summary_says_so(tmp_path: Path, tiny_config, toy_rows):
    sizes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "num_train_epochs": 2}
    student = DeiTForImageClassificationWithTeacher(tiny_config)
    trainer = DistillationTrainer(student, make_args(tmp_path, **sizes), train_dataset=toy_rows)
    seen = []
    trainer.model.register_forward_hook(lambda model, args, outputs: seen.append(len(outputs.logits)))
    assert trainer.train().global_step == 2 * 3  # 40 images give 3 steps of 12 per epoch
    assert seen == [4] * 3 * 6
    recipe = trainer.effective_recipe
    assert recipe["global batch"] == "12 = 4 x 3 accumulation steps"
    assert recipe["steps"] == "6 in 2 epochs of 3"
