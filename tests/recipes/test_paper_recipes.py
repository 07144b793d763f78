"""Recipes have the values of their sources: official main.py and README_deit.md at 7e160fe, and the sources below."""

import re
from pathlib import Path
from typing import Any

import pytest

from deit_hf import DistillationArguments
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.model.arguments import ModelArguments
from deit_hf.model.variants import VARIANTS
from deit_hf.training.recipe_file import parse_recipe

FOLDER = Path(__file__).parents[2] / "scripts" / "recipes"

# official main.py:30-180, for values that a command does not change; global_batch_size is from the command
OFFICIAL = {
    "num_train_epochs": 300,
    "base_learning_rate": 5e-4,
    "min_learning_rate": 1e-5,
    "warmup_learning_rate": 1e-6,
    "warmup_epochs": 5,
    "weight_decay": 0.05,
    "max_grad_norm": 0,
    "drop_path_rate": None,  # the default of the model, 0.1
    "mixup_alpha": 0.8,
    "cutmix_alpha": 1.0,
    "mixup_switch_prob": 0.5,
    "label_smoothing": 0.1,
    "random_augment": "rand-m9-mstd0.5-inc1",
    "random_erase_prob": 0.25,
    "crop_min_scale": 0.08,
    "crop_mode": "random_resized",
    "repeated_augmentation": 3,
    "ema_decay": 0.99996,
    "learning_rate_stepping": "official",
    "student_mode": "train",
    "label_loss": "cross_entropy",
    "timm_optimizer": None,
    "layer_decay": 1.0,
    "distillation_type": "none",
    "teacher_model_name_or_path": None,
    "global_batch_size": 1024,
}
REGNET = "timm:regnety_160@regnety_160-a5fe301d.pth"
HARD = {"distillation_type": "hard", "distillation_weight": 0.5, "teacher_model_name_or_path": REGNET}
SOFT = {"distillation_type": "soft", "distillation_weight": 0.1, "distillation_temperature": 3} | {
    "teacher_model_name_or_path": REGNET
}
AT_384 = {"num_train_epochs": 30, "base_learning_rate": 5e-6, "min_learning_rate": 5e-6, "weight_decay": 1e-8}
AT_384 |= {"image_size": 384, "student_mode": "eval", "global_batch_size": 512}
NO_EMA = {"ema_decay": 0.0, "learning_rate_stepping": "step"}
TRANSFER = {**NO_EMA, "global_batch_size": 768, "base_learning_rate": None}
SGD = {**TRANSFER, "timm_optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 1e-4, "num_train_epochs": 1000}
SGD |= {"random_erase_prob": 0, "drop_path_rate": 0}
INAT = {**TRANSFER, "learning_rate": 7.5e-5, "num_train_epochs": 360, "random_erase_prob": 0.1}

DIFFERENCES: dict[str, dict[str, Any]] = {
    **{f"pretrain-{size}": {"variant": f"deit_{size}_patch16_224"} for size in ("tiny", "small", "base")},
    **{
        f"distill-hard-{size}": {"variant": f"deit_{size}_distilled_patch16_224", **HARD}
        for size in ("tiny", "small", "base")
    },
    "distill-hard-base-1000ep": {"variant": "deit_base_distilled_patch16_224", **HARD, "num_train_epochs": 1000},
    "distill-soft-base": {"variant": "deit_base_distilled_patch16_224", **SOFT},
    "distill-usual-soft-base": {"variant": "deit_base_patch16_224", **SOFT},
    "distill-usual-hard-base": {"variant": "deit_base_patch16_224", **HARD},
    "finetune-384-base": {"model_name_or_path": "facebook/deit-base-patch16-224", **AT_384},
    "finetune-384-distilled-base": {
        "model_name_or_path": "facebook/deit-base-distilled-patch16-224",
        **AT_384,
        **HARD,
    },
    "transfer-cifar10": SGD,
    "transfer-cars": SGD,
    "transfer-flowers102": SGD,
    "transfer-cifar100": {**TRANSFER, "learning_rate": 5e-6, "min_learning_rate": 1e-6, "num_train_epochs": 1000},
    "transfer-inat18": INAT,
    "transfer-inat19": INAT,
    # open-mmlab/mmpretrain at ee7f2e88, configs/deit/deit-tiny_pt-4xb256_in1k.py and its bases
    "tiny-small-improved": {
        **NO_EMA,
        "variant": "deit_tiny_patch16_224",
        "drop_path_rate": 0,
        "repeated_augmentation": 1,
        "warmup_epochs": 20,
        "max_grad_norm": 5,
    },
    # facebookresearch/deit README_revenge.md, deit_small_patch16_LS on ImageNet-1k
    "deit3-pretrain-small": {
        "variant": "deit_small_patch16_224",
        "num_train_epochs": 800,
        "base_learning_rate": None,
        "learning_rate": 4e-3,
        "timm_optimizer": "lamb",
        "drop_path_rate": 0.05,
        "label_loss": "binary_cross_entropy",
        "label_smoothing": 0,
        "random_augment": "3-augment",
        "color_jitter": 0.3,
        "random_erase_prob": 0,
        "crop_ratio": 1.0,
        "global_batch_size": 2048,
    },
}


def num_processes(command: str) -> int:
    """Processes of all nodes that the command in a recipe's header starts."""
    counts = [re.search(rf"--{name} (\d+)", command) for name in ("nproc_per_node", "nnodes")]
    return int(counts[0][1] if counts[0] else 1) * int(counts[1][1] if counts[1] else 1)


@pytest.mark.parametrize("name", DIFFERENCES)
def test_recipe_holds_what_its_source_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    path = FOLDER / f"{name}.yaml"
    (command,) = re.findall(r"# Command: (.*)", path.read_text())
    source = [] if "dataset_name:" in path.read_text() else ["--dataset_name", "anywhere"]
    model, data, args = parse_recipe(
        (ModelArguments, DataArguments, DistillationArguments), [str(path), *source, "--report_to", "none"]
    )
    found = {**vars(data), **vars(model), **vars(args)}
    found["global_batch_size"] = args.global_batch_size * num_processes(command)
    expected = {**OFFICIAL, **DIFFERENCES[name]}
    assert {option: found[option] for option in expected} == expected
    assert model.variant is None or model.variant in VARIANTS


def test_no_recipe_of_a_source_is_left_untested():
    ours = {path.stem for path in FOLDER.glob("*.yaml")} - set(DIFFERENCES)
    assert ours == {
        *(f"quickstart-{part}" for part in ("teacher", "plain", "distilled")),
        *(f"flowers-{part}" for part in ("teacher", "plain", "distilled")),
        "small-data",
    }
