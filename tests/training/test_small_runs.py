"""Small runs: the batch size for few images, the recipe for small data, and the warnings."""

import logging
import re
from pathlib import Path

import datasets
import pytest
from support.trainers import make_args, make_trainer

from deit_hf import DistillationArguments
from deit_hf.data.sampling import ViewSampler
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.model.arguments import ModelArguments
from deit_hf.training.recipe_file import parse_recipe
from deit_hf.training.schedule import num_warmup_steps
from deit_hf.training.shipped_recipes import RECIPES
from deit_hf.training.small_runs import fit_batch_to_data, warn_of_small_run

SMALL_DATA = RECIPES / "small-data.yaml"
TABLE_ROW = re.compile(r"^# +(\d+) +(\d+) +(\d+) +(\d+) +(\d+\.\d) +(\d+\.\d)$", flags=re.MULTILINE)


def sampler_of(args: DistillationArguments, num_images: int) -> ViewSampler:
    return ViewSampler(num_images, step_size=args.global_batch_size, num_repeats=args.repeated_augmentation, seed=0)


# ---- the batch ----


@pytest.mark.parametrize(
    ("options", "num_images", "batch", "accumulation"),
    [
        ({"min_steps_per_epoch": 10}, 640, 64, 1),
        ({"min_steps_per_epoch": 10}, 639, 32, 1),
        ({"min_steps_per_epoch": 10}, 100, 8, 1),
        ({"min_steps_per_epoch": 10, "gradient_accumulation_steps": 4}, 1300, 64, 2),
        ({"min_steps_per_epoch": 10, "gradient_accumulation_steps": 3}, 100, 8, 1),
        ({"min_steps_per_epoch": 10, "per_device_train_batch_size": 6}, 30, 2, 1),  # even, because pairs are mixed
        ({"min_steps_per_epoch": 10, "per_device_train_batch_size": 6, "mixup_alpha": 0, "cutmix_alpha": 0}, 19, 1, 1),
        ({"min_steps_per_epoch": 10}, 3, 2, 1),  # as far as possible
        ({}, 3, 64, 1),
    ],
)
def test_batch_is_halved_until_an_epoch_has_its_steps(tmp_path, options, num_images, batch, accumulation):
    args = make_args(tmp_path, **{"per_device_train_batch_size": 64, **options})
    fit_batch_to_data(args, range(num_images))
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (batch, accumulation)


def test_learning_rate_that_follows_from_the_batch_follows_the_fitted_one(tmp_path: Path, caplog):
    rates = {"learning_rate": None, "base_learning_rate": 1e-3}
    args = make_args(tmp_path, per_device_train_batch_size=64, min_steps_per_epoch=10, **rates)
    with caplog.at_level(logging.INFO, "deit_hf"):
        fit_batch_to_data(args, range(100))
    assert args.learning_rate == pytest.approx(1e-3 * 8 / 512)
    assert (
        "the global batch is 8 instead of 64, which gives 12 optimizer steps per epoch of 100 images "
        "(`min_steps_per_epoch` is 10)"
    ) in caplog.text


def test_training_takes_the_fitted_batch(tmp_path: Path, tiny_config, toy_rows: datasets.Dataset):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, per_device_train_batch_size=32, min_steps_per_epoch=10)
    trainer.train()
    assert trainer.effective_recipe["global batch"] == "4"
    assert trainer.effective_recipe["steps"] == "10 in 1 epoch of 10"
    assert trainer.state.global_step == 10


def small_data(num_images: int) -> tuple[DistillationArguments, ViewSampler]:
    """The recipe for small data, with `num_images` images."""
    flags = ["--dataset_name", "any", "--report_to", "none", "--output_dir", "any"]
    args = parse_recipe((ModelArguments, DataArguments, DistillationArguments), [str(SMALL_DATA), *flags])[-1]
    fit_batch_to_data(args, range(num_images))
    return args, sampler_of(args, num_images)


def test_recipe_for_small_data_gives_what_its_header_says():
    rows = TABLE_ROW.findall(SMALL_DATA.read_text(encoding="utf-8"))
    assert [int(row[0]) for row in rows] == [100, 500, 1000, 5000]
    for row in rows:
        num_images, batch, steps, shown, epochs, warmup_epochs = map(float, row)
        args, sampler = small_data(int(num_images))
        steps_in_epoch = len(sampler) // sampler.step_size
        warmup = num_warmup_steps(args, num_steps=args.max_steps, steps_in_epoch=steps_in_epoch)
        assert (args.global_batch_size, steps_in_epoch) == (batch, steps)
        assert len({key.sample for key in sampler}) == shown
        assert round(args.max_steps / steps_in_epoch, 1) == epochs
        assert round(warmup / steps_in_epoch, 1) == warmup_epochs


@pytest.mark.parametrize("num_images", [100, 120, 333, 701, 2_500, 5_000])
def test_recipe_for_small_data_shows_nine_of_ten_images_in_an_epoch(num_images: int, caplog):
    args, sampler = small_data(num_images)
    assert len({key.sample for key in sampler}) >= 0.9 * num_images
    assert len(sampler) // sampler.step_size >= 10
    warn_of_small_run(args, sampler, num_steps=1500, num_warmup_steps=150, rates=[0.0] * 150 + [1e-4] * 1351)
    assert caplog.text == ""


# ---- warnings ----


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.endswith("small_runs")]


def test_warm_up_longer_than_the_run_is_said_with_the_rate_that_it_reaches(tmp_path, tiny_config, toy_rows, caplog):
    options = {"num_train_epochs": 2, "warmup_epochs": 5, "learning_rate": 1e-3}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, **options)  # five steps an epoch
    trainer.train()
    highest = 1e-6 + (1e-3 - 1e-6) * 9 / 25
    assert max(log.get("learning_rate", 0) for log in trainer.state.log_history) == pytest.approx(highest)
    assert warnings_of(caplog) == [
        "the run ends during its warm-up: it has 10 steps, but the warm-up has 25, so the learning rate only reaches "
        f"{highest:.3g} instead of 0.001; lower `warmup_epochs` (5; the run has 2 epochs), or train for longer"
    ]
    assert trainer.effective_recipe["learning rate"] == (
        f"{highest:g} at its peak; the warm-up takes all steps, so no cosine schedule follows; "
        f"1e-06 in the first step, {highest:.3g} in the last"
    )


def warnings_for(args: DistillationArguments, sampler: ViewSampler, caplog, *, num_steps=100, warmup=0, rates=None):
    warn_of_small_run(args, sampler, num_steps=num_steps, num_warmup_steps=warmup, rates=rates)
    return warnings_of(caplog)


def test_peak_below_the_rates_at_start_and_end_is_said_with_the_numbers(tmp_path: Path, caplog):
    """Fails if a small batch silently trains at another learning rate than `min_learning_rate`."""
    options = {"learning_rate": 1e-6, "min_learning_rate": 1e-5, "warmup_learning_rate": 1e-4}
    args = make_args(tmp_path, **options)
    (warning,) = warnings_for(args, sampler_of(args, 80), caplog)
    assert warning.startswith(
        "`min_learning_rate` is 1e-05, but the peak learning rate is only 1e-06, so 1e-06 is used instead"
    )
    caplog.clear()
    both = warnings_for(args, sampler_of(args, 80), caplog, warmup=2, rates=[1e-6] * 101)
    assert [text.partition(" is ")[0] for text in both] == ["`min_learning_rate`", "`warmup_learning_rate`"]
    caplog.clear()
    assert warnings_for(make_args(tmp_path), sampler_of(args, 80), caplog, warmup=2, rates=[1e-6, 1e-3, 1e-5]) == []


def test_warm_up_in_steps_is_named_as_it_was_given(tmp_path: Path, caplog):
    args = make_args(tmp_path, warmup_epochs=None, warmup_steps=30, learning_rate=1e-3)
    rates = [1e-3 * step / 30 for step in range(12)]
    (warning,) = warnings_for(args, sampler_of(args, 80), caplog, num_steps=11, warmup=30, rates=rates)
    assert warning.endswith("reaches 0.000333 instead of 0.001; lower `warmup_steps` (30), or train for longer")


@pytest.mark.parametrize("rates", [[0.0, 5e-4, 1e-3, 1e-3], [1e-3] * 4])
def test_run_that_reaches_its_peak_is_not_warned_of(tmp_path: Path, caplog, rates: list[float]):
    args = make_args(tmp_path, learning_rate=1e-3)
    assert warnings_for(args, sampler_of(args, 80), caplog, num_steps=3, warmup=2, rates=rates) == []


def test_epoch_that_leaves_out_many_images_is_said_with_the_numbers(tmp_path: Path, caplog):
    args = make_args(tmp_path, per_device_train_batch_size=64, repeated_augmentation=1)
    assert warnings_for(args, sampler_of(args, 120), caplog) == [
        "an epoch has 64 views for 120 images (53.3 %), because it consists of whole optimizer steps of 64 views; the "
        "other images are left for later epochs; lower `per_device_train_batch_size` or "
        "`gradient_accumulation_steps`, or set `min_steps_per_epoch` to 10"
    ]
    caplog.clear()
    assert warnings_for(args, sampler_of(args, 128), caplog) == []
    assert warnings_for(args, sampler_of(args, 700), caplog) == []  # 91 %


def test_step_of_more_views_than_there_are_images_is_said(tmp_path: Path, caplog):
    args = make_args(tmp_path, per_device_train_batch_size=64, min_steps_per_epoch=2)
    assert warnings_for(args, sampler_of(args, 20), caplog) == [
        "an optimizer step takes 64 views, but there are only 20 images, so each is shown 3.2 times in every step; "
        "lower `per_device_train_batch_size` or `gradient_accumulation_steps`"
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"max_steps": 30, "num_train_epochs": 50},
            ["the run ends after 3 epochs because `max_steps` is 30, "],
        ),
        ({"max_steps": 30, "num_train_epochs": 3}, []),
        ({"max_steps": 30, "num_train_epochs": 300}, []),  # the default, not set by the user
        ({"num_train_epochs": 50}, []),
    ],
)
def test_epochs_that_max_steps_overrides_are_said(tmp_path: Path, caplog, options: dict, expected: list[str]):
    args = make_args(tmp_path, **options)
    found = warnings_for(args, sampler_of(args, 80), caplog, num_steps=30)
    assert [message[: len(expected[0])] for message in found] == expected
