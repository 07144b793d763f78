"""Training options: the paper's defaults, values derived from them, and helpful errors for invalid ones."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import HfArgumentParser

from deit_hf import DistillationArguments
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.evaluation.arguments import EvaluationArguments
from deit_hf.model.arguments import ModelArguments
from deit_hf.training.refused_arguments import REFUSED

# arXiv:2012.12877 table 9 and section 5; official main.py for what the paper does not give
PAPER = {
    "num_train_epochs": 300.0,
    "weight_decay": 0.05,
    "max_grad_norm": 0.0,
    "lr_scheduler_type": "cosine",
    "base_learning_rate": 5e-4,
    "min_learning_rate": 1e-5,
    "warmup_learning_rate": 1e-6,
    "warmup_epochs": 5.0,
    "label_smoothing": 0.1,
    "repeated_augmentation": 3,
    "random_augment": "rand-m9-mstd0.5-inc1",
    "color_jitter": 0.3,
    "mixup_alpha": 0.8,
    "cutmix_alpha": 1.0,
    "mixup_switch_prob": 0.5,
    "random_erase_prob": 0.25,
    "crop_mode": "random_resized",
    "crop_min_scale": 0.08,
    "label_loss": "cross_entropy",
    "horizontal_flip_prob": 0.5,
    "distillation_type": "none",
    "distillation_weight": 0.5,
    "distillation_temperature": 3.0,
    "distillation_reduction": "batchmean",
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "label_smoothing_factor": 0.0,
    "learning_rate_stepping": "step",
    "layer_decay": 1.0,
    "timm_optimizer": None,
    "student_mode": "train",
    "fusion": "logit_mean",
}


def make_args(tmp_path: Path, **options: Any) -> DistillationArguments:
    return DistillationArguments(str(tmp_path), report_to="none", **options)


def parse(*arguments: str) -> Any:
    return HfArgumentParser(DistillationArguments).parse_args_into_dataclasses(list(arguments))[0]


def test_defaults_are_the_papers(tmp_path: Path):
    args = make_args(tmp_path)
    assert {name: getattr(args, name) for name in PAPER} == PAPER
    assert args.optim.value == "adamw_torch_fused"
    assert args.mixes


def test_parsed_defaults_are_those_of_the_constructor(tmp_path: Path):
    parsed = parse("--output_dir", str(tmp_path))
    assert {name: getattr(parsed, name) for name in PAPER} == PAPER


def test_flags_become_numbers_and_choices(tmp_path: Path):
    args = parse(
        *("--output_dir", str(tmp_path), "--distillation_type", "hard", "--learning_rate", "5e-6"),
        *("--min_learning_rate", "5e-6", "--warmup_epochs", "2.5", "--repeated_augmentation", "1"),
    )
    assert (args.distillation_type, args.learning_rate, args.min_learning_rate) == ("hard", 5e-6, 5e-6)
    assert (args.warmup_epochs, args.repeated_augmentation) == (2.5, 1)


@pytest.mark.parametrize("options_class", [DistillationArguments, ModelArguments, DataArguments, EvaluationArguments])
def test_help_text_renders(options_class: type):
    # argparse formats help texts with %, so a single % in a text breaks --help
    text = HfArgumentParser(options_class).format_help()
    own_options = [name for name in inspect.get_annotations(options_class) if name != "args"]
    assert own_options
    assert all(f"--{name}" in text for name in own_options)


# ---- learning rate and warm-up ----


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"per_device_train_batch_size": 64}, 5e-4 * 64 / 512),
        ({"per_device_train_batch_size": 64, "gradient_accumulation_steps": 16}, 1e-3),
        ({"per_device_train_batch_size": 64, "base_learning_rate": 1e-4}, 1e-4 * 64 / 512),
        ({"per_device_train_batch_size": 64, "learning_rate": 5e-6}, 5e-6),
        ({"per_device_train_batch_size": 512, "learning_rate": 1e-4, "base_learning_rate": 1e-4}, 1e-4),
        ({"base_learning_rate": 0.0}, 0.0),
    ],
)
def test_learning_rate_follows_from_the_global_batch_unless_it_is_given(tmp_path, options: dict, expected: float):
    # fails if the learning rate ignores the accumulation steps, or if an absolute learning rate is scaled
    args = make_args(tmp_path, **options)
    batch_size = options.get("per_device_train_batch_size", 8) * options.get("gradient_accumulation_steps", 1)
    assert args.global_batch_size == batch_size
    assert args.learning_rate == pytest.approx(expected, rel=1e-12)


def test_an_absolute_learning_rate_leaves_no_base_rate(tmp_path: Path):
    assert make_args(tmp_path, learning_rate=1e-4).base_learning_rate is None


def test_two_learning_rates_that_disagree_are_refused(tmp_path: Path):
    message = r"`learning_rate` is 0.001, but `base_learning_rate` 0.001 gives 1.5625e-05 for a global batch of 8"
    with pytest.raises(ValueError, match=message):
        make_args(tmp_path, learning_rate=1e-3, base_learning_rate=1e-3)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 5.0),
        ({"warmup_steps": 100}, 0.0),
        ({"warmup_epochs": 0.0}, 0.0),
        ({"warmup_epochs": 0.0, "warmup_steps": 100}, 0.0),
    ],
)
def test_warm_up_is_five_epochs_unless_it_is_given(tmp_path: Path, options: dict, expected: float):
    assert make_args(tmp_path, **options).warmup_epochs == expected


def test_warm_up_in_epochs_and_in_steps_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="`warmup_epochs` is 5 and `warmup_steps` 10; give only one"):
        make_args(tmp_path, warmup_epochs=5, warmup_steps=10)


# ---- refused values ----


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("distillation_type", "sof", "is 'sof', but must be one of none, soft, hard"),
        ("distillation_reduction", "mean", "is 'mean', but must be one of batchmean, numel"),
        ("label_loss", "bce", "is 'bce', but must be one of cross_entropy, binary_cross_entropy"),
        ("crop_mode", "src", "is 'src', but must be one of random_resized, simple"),
        ("distillation_temperature", 0.0, "is 0.0, but must be greater than 0"),
        ("distillation_weight", 1.1, r"is 1.1, but must be in \[0, 1\]"),
        ("distillation_weight", float("nan"), r"is nan, but must be in \[0, 1\]"),
        ("mixup_switch_prob", -0.1, r"is -0.1, but must be in \[0, 1\]"),
        ("random_erase_prob", 2, r"is 2, but must be in \[0, 1\]"),
        ("horizontal_flip_prob", -1, r"is -1, but must be in \[0, 1\]"),
        ("mixup_alpha", -1, "is -1, but must be 0 or more"),
        ("cutmix_alpha", -1, "is -1, but must be 0 or more"),
        ("color_jitter", -1, "is -1, but must be 0 or more"),
        ("learning_rate", -1, "is -1, but must be 0 or more"),
        ("base_learning_rate", -1, "is -1, but must be 0 or more"),
        ("min_learning_rate", -1, "is -1, but must be 0 or more"),
        ("warmup_learning_rate", -1, "is -1, but must be 0 or more"),
        ("warmup_epochs", -1, "is -1, but must be 0 or more"),
        ("weight_decay", -0.1, "is -0.1, but must be 0 or more"),
        ("max_grad_norm", -1.0, "is -1.0, but must be 0 or more"),
        ("adam_beta1", 1.0, r"is 1.0, but must be in \[0, 1\)"),
        ("adam_beta2", -0.1, r"is -0.1, but must be in \[0, 1\)"),
        ("layer_decay", 0.0, r"is 0.0, but must be in \(0, 1\]"),
        ("layer_decay", 1.5, r"is 1.5, but must be in \(0, 1\]"),
        ("learning_rate_stepping", "epoch", "is 'epoch', but must be one of step, official"),
        ("student_mode", "evl", "is 'evl', but must be one of train, eval"),
        ("timm_optimizer", "lamp", "is 'lamp', which is not an optimizer of timm .*; did you mean lamb"),
        ("label_smoothing", 1.0, r"is 1.0, but must be in \[0, 1\)"),
        ("crop_min_scale", 0, r"is 0, but must be in \(0, 1\]"),
        ("repeated_augmentation", 0, r"is 0, but must be 1 or more \(1 turns it off\)"),
    ],
)
def test_value_out_of_range_is_refused_at_construction(tmp_path: Path, name: str, value: Any, message: str):
    with pytest.raises(ValueError, match=f"`{name}` {message}"):
        make_args(tmp_path, **{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"overwrite_output_dir": True, "resume_from_checkpoint": "x/checkpoint-3"},
            "`overwrite_output_dir` is true.* `resume_from_checkpoint` is 'x/checkpoint-3'; set only one",
        ),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` is 0.1, but must be 0, .* use `label_smoothing`"),
        ({"remove_unused_columns": True}, "`remove_unused_columns` is True, but must be False"),
        ({"batch_eval_metrics": False}, "`batch_eval_metrics` is False, but must be True; leave it out"),
        ({"train_sampling_strategy": "group_by_length"}, "'group_by_length', but must be 'random'"),
    ],
)
def test_options_of_transformers_that_cannot_work_here_are_refused(tmp_path: Path, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        make_args(tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"label_loss": "binary_cross_entropy"},
            "`label_smoothing` is 0.1, with which every class would count .*; set `label_smoothing` to 0",
        ),
        (
            {"crop_mode": "simple", "crop_min_scale": 0.5},
            "`crop_mode` is 'simple' and `crop_min_scale` 0.5, .* set `crop_mode` to 'random_resized'",
        ),
        (
            {"timm_optimizer": "sgd", "optim": "adafactor"},
            "`optim` is 'adafactor' and `timm_optimizer` is 'sgd'; set only",
        ),
        (
            {"layer_decay": 0.7, "optim": "adafactor"},
            "`layer_decay` is 0.7, but `optim` 'adafactor' does not support it",
        ),
        (
            {"learning_rate_stepping": "official", "lr_scheduler_type": "linear"},
            "`learning_rate_stepping` is 'official', which is a cosine; leave out `lr_scheduler_type`",
        ),
        (
            {"learning_rate_stepping": "official", "lr_scheduler_kwargs": {"num_cycles": 2}},
            "is a cosine; leave out .* `lr_scheduler_kwargs`",
        ),
        ({"student_mode": "eval", "gradient_checkpointing": True}, "`student_mode` is 'eval', but `gradient_checkp"),
    ],
)
def test_options_that_contradict_each_other_are_refused(tmp_path: Path, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        make_args(tmp_path, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"timm_optimizer": "sgd", "optim": "adamw_torch_fused"},  # the default, set explicitly, is not a contradiction
        {"timm_optimizer": "lamb", "layer_decay": 0.7},
        {"layer_decay": 0.7, "optim": "sgd"},
        {"learning_rate_stepping": "official", "lr_scheduler_type": "cosine"},
    ],
)
def test_options_that_go_together_are_taken(tmp_path: Path, options: dict):
    args = make_args(tmp_path, **options)
    assert {name: getattr(args, name) for name in options} == options


def test_recipe_of_deit_iii_is_taken(tmp_path: Path):
    options = {"label_loss": "binary_cross_entropy", "label_smoothing": 0.0, "crop_mode": "simple"}
    args = make_args(tmp_path, random_augment="3-augment", random_erase_prob=0.0, **options)
    assert (args.label_loss, args.crop_mode, args.color_jitter) == ("binary_cross_entropy", "simple", 0.3)


@pytest.mark.parametrize(
    "policy", ["none", "3-augment", "rand-m9-mstd0.5-inc1", "rand", "rand-m7-n3-p0.3-mmax12-tweights"]
)
def test_rand_augment_policies_of_timm_are_taken(tmp_path: Path, policy: str):
    assert make_args(tmp_path, random_augment=policy).random_augment == policy


@pytest.mark.parametrize(
    "policy", ["", "autoaugment", "original", "randy", "rand-mx", "rand-m9-inc", "rand-q3", "rand-m9.5"]
)
def test_policy_that_timm_would_misread_is_refused(tmp_path: Path, policy: str):
    # timm silently skips parts without a number: `rand-m9-inc` would have no `inc`
    with pytest.raises(ValueError, match=f"`random_augment` is '{policy}', which is not a RandAugment policy"):
        make_args(tmp_path, random_augment=policy)


def test_odd_batch_is_refused_only_when_images_are_mixed(tmp_path: Path):
    with pytest.raises(ValueError, match="`per_device_train_batch_size` is 7, but must be even"):
        make_args(tmp_path, per_device_train_batch_size=7)
    args = make_args(tmp_path, per_device_train_batch_size=7, mixup_alpha=0, cutmix_alpha=0)
    assert not args.mixes


def test_memory_is_only_pinned_for_a_device(tmp_path: Path):
    assert make_args(tmp_path).dataloader_pin_memory == torch.accelerator.is_available()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label_names", ["labels"]),
        ("length_column_name", "width"),
        ("include_num_input_tokens_seen", "all"),
        ("neftune_noise_alpha", 5.0),
        ("use_liger_kernel", True),
        ("liger_kernel_config", {"rope": True}),
        ("dataloader_drop_last", True),
        ("ignore_data_skip", True),
        ("eval_accumulation_steps", 2),
        ("hub_always_push", True),
        ("auto_find_batch_size", True),
        ("logging_nan_inf_filter", True),
        ("do_predict", True),
        ("hub_strategy", "checkpoint"),
        ("hub_strategy", "all_checkpoints"),
        ("hub_strategy", "every_save"),
    ],
)
def test_option_of_transformers_without_use_for_pictures_is_refused_by_name(tmp_path: Path, name: str, value: Any):
    with pytest.raises(ValueError, match=rf"`{name}` is .*, but .*; leave it out"):
        make_args(tmp_path, **{name: value})


def test_every_refused_option_has_a_case_above():
    cases = {case[0] for mark in _cases_of_refused_options() for case in mark}
    assert cases == {*REFUSED}


def _cases_of_refused_options() -> list:
    marks = test_option_of_transformers_without_use_for_pictures_is_refused_by_name.pytestmark
    return [mark.args[1] for mark in marks if mark.name == "parametrize"]


def test_defaults_and_the_push_of_a_finished_run_are_no_refused_options(tmp_path: Path):
    args = make_args(tmp_path, hub_strategy="end", dataloader_drop_last=False, include_num_input_tokens_seen="no")
    args.settle()
    assert args.hub_strategy == "end"


RANGES = {
    **dict.fromkeys(("distillation_weight", "mixup_switch_prob", "random_erase_prob", "horizontal_flip_prob"), (0, 1)),
    **dict.fromkeys(
        ("mixup_alpha", "cutmix_alpha", "color_jitter", "warmup_learning_rate", "weight_decay"), (0, None)
    ),
    **dict.fromkeys(("max_grad_norm", "learning_rate", "min_learning_rate", "warmup_epochs"), (0, None)),
    **dict.fromkeys(("max_bad_steps", "min_steps_per_epoch", "label_smoothing", "ema_decay"), (0, None)),
    **dict.fromkeys(("repeated_augmentation", "num_streams", "shuffle_buffer_size", "num_train_samples"), (1, None)),
    **dict.fromkeys(("gradient_accumulation_steps", "layer_decay", "crop_min_scale"), (1, None)),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), (0, None)),
}


@pytest.mark.parametrize("name", RANGES)
def test_ends_of_a_range_are_allowed(tmp_path: Path, name: str):
    """Fails if a range excludes its end; that values beyond it are refused is tested above."""
    for value in RANGES[name]:
        if value is not None:
            assert getattr(make_args(tmp_path, **{name: value}), name) == value


@pytest.mark.parametrize("name", ["reduce_lr_on_plateau", "greedy", "polynomial"])
def test_unknown_option_of_a_schedule_is_refused_with_its_name(tmp_path: Path, name: str):
    """Fails if the error comes only at the first step, after data and models are loaded."""
    with pytest.raises(ValueError, match=f"`lr_scheduler_kwargs` is .*'nonsense': 1.*`lr_scheduler_type` '{name}'"):
        make_args(tmp_path, lr_scheduler_type=name, lr_scheduler_kwargs={"nonsense": 1}, eval_strategy="epoch")
