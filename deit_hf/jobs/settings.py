"""The settings of a job's runs, chosen by the number of training images and by how a model starts."""

import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from ..training.optimizer import HEAD
from ..training.shipped_recipes import find_recipe
from .arguments import ALL

SMALL_DATA = 5_000  # training images; a fine-tuning on more of them uses the paper's augmentation
SCRATCH_VIEWS, FEWEST_EPOCHS, MOST_EPOCHS = 1_000_000, 30, 300
LARGEST_BATCH, STEPS_PER_EPOCH = 128, 10  # images of a process; fewer if an epoch would have fewer steps
PAPER_LEARNING_RATE, PAPER_BATCH = 1e-3, 1024  # table 9: 5e-4 per 512 images
NUM_WORKERS = 4
HEAD_LEARNING_RATE = 3e-3
DIGITS_TEACHER, DIGITS_STUDENT = "quickstart-teacher", "quickstart-distilled"

# Which epoch is kept, in every run of a job.
BEST_EPOCH = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "logging_strategy": "epoch",
}
_NAMES = ("model_name_or_path", "teacher_model_name_or_path", "output_dir", "variant", "dataset_name")
_AUGMENTATION = ("repeated_augmentation", "mixup_alpha", "random_erase_prob", "crop_min_scale")


class Settings(NamedTuple):
    """Options of a run, and in words why they were chosen."""

    reason: str
    options: dict[str, Any]


def scratch_settings(num_images: int, given: Mapping[str, Any]) -> Settings:
    """Returns the paper's settings for a student from random weights, with about a million views.

    Differs: the learning rate is the paper's at a global batch of 1024, and follows the square root of the batch, as
    fits Adam (arXiv:2205.10287). With the paper's linear rule, the small batches of few images would train too slowly
    (pinned by test_a_small_batch_from_scratch_has_a_useful_learning_rate).

    Args:
        num_images: training images.
        given: options of the user.
    """
    num_processes = int(os.environ.get("WORLD_SIZE") or 1)
    batch = LARGEST_BATCH
    while batch > 2 and num_images // (batch * num_processes) < STEPS_PER_EPOCH:
        batch //= 2
    steps = int(given.get("gradient_accumulation_steps", 1))
    global_batch = int(given.get("per_device_train_batch_size", batch)) * num_processes * steps
    epochs = min(max(round(SCRATCH_VIEWS / num_images), FEWEST_EPOCHS), MOST_EPOCHS)
    options: dict[str, Any] = {"num_train_epochs": epochs, "per_device_train_batch_size": batch}
    if "base_learning_rate" not in given:
        options["learning_rate"] = PAPER_LEARNING_RATE * math.sqrt(global_batch / PAPER_BATCH)
    return Settings(f"the paper's recipe from scratch, for {num_images:,} training images", {**options, **_common()})


def pretrained_settings(num_images: int, *, is_deit: bool) -> Settings:
    """Returns the settings for a student from pretrained weights.

    Args:
        num_images: training images.
        is_deit: whether it takes the options of a DeiT.
    """
    options = {**_small_data(is_deit=is_deit), **_common()}
    reason = f"recipe small-data, for a pretrained start and {num_images:,} training images"
    if num_images <= SMALL_DATA:
        return Settings(reason, {**options, "num_train_epochs": 30})
    options = {name: value for name, value in options.items() if name not in _AUGMENTATION}
    return Settings(f"{reason}; augmentation as in the paper", {**options, "num_train_epochs": 20})


def teacher_settings(num_epochs: float, train_only: str) -> Settings:
    """Returns the settings with which a teacher is fitted to the classes of the data.

    Args:
        num_epochs: epochs of the training.
        train_only: `head`, `all` or a regular expression.
    """
    options = {**_small_data(is_deit=False), **_common(), "num_train_epochs": num_epochs, "cutmix_alpha": 0}
    if train_only == ALL:
        return Settings("all its weights are trained", options)
    what = "only its classifier is" if train_only == HEAD else f"only its parameters that match {train_only!r} are"
    options |= {"train_only": train_only, "student_mode": "eval", "learning_rate": HEAD_LEARNING_RATE}
    return Settings(f"{what} trained", options)


def digits_settings(recipe: str) -> Settings:
    """Returns the settings of a run on the digits, with the model that it starts from."""
    options = {name: value for name, value in _recipe(recipe).items() if name not in ("output_dir", "dataset_name")}
    options.pop("teacher_model_name_or_path", None)
    return Settings(f"recipe {recipe}", {**options, **BEST_EPOCH})


def _small_data(*, is_deit: bool) -> dict[str, Any]:
    dropped: tuple[str, ...] = (*_NAMES, "distillation_type", "max_steps", "eval_steps", "save_steps", "logging_steps")
    dropped += () if is_deit else ("drop_path_rate",)
    return {name: value for name, value in _recipe("small-data").items() if name not in dropped}


def _recipe(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load(find_recipe(name).read_text(encoding="utf-8")))


def _common() -> dict[str, Any]:
    workers = min(NUM_WORKERS, max(1, os.cpu_count() or 1))
    return {**BEST_EPOCH, "dataloader_num_workers": workers, "dataloader_persistent_workers": True}
