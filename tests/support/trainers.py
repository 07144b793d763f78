"""Makes trainers of toy students, and compares parameters."""

from pathlib import Path

import datasets
import torch
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from deit_hf import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    DistillationArguments,
    DistillationTrainer,
)


def make_args(tmp_path: Path, **options) -> DistillationArguments:
    options = {
        "num_train_epochs": 1,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "warmup_epochs": 0,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        **options,
    }
    return DistillationArguments(str(tmp_path / "run"), **options)


def make_trainer(tmp_path: Path, config: DeiTConfig, rows: datasets.Dataset, teacher=None, **options):
    torch.manual_seed(0)
    config.drop_path_rate = 0.0
    student = DeiTForImageClassificationWithTeacher(config)
    return DistillationTrainer(student, make_args(tmp_path, **options), teacher=teacher, train_dataset=rows)


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether all parameters are equal bit for bit."""
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def make_resnet(num_labels: int = 5) -> ResNetForImageClassification:
    sizes = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(num_labels=num_labels, **sizes))
