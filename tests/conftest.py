"""What all tests share: no network, one thread a process, one seed a test, and a model small enough for any test."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before the imports below, which read it
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # also in the processes that tests start

import pytest
import torch
from torch import Tensor

from deit_hf import DeiTConfig, DeiTForImageClassificationWithTeacher

torch.set_num_threads(1)  # toy tensors gain nothing from more, and tests may run side by side


@pytest.fixture(autouse=True)
def _same_seed_for_every_test() -> None:
    torch.manual_seed(0)


@pytest.fixture
def tiny_config() -> DeiTConfig:
    """Distilled, 32 pixels, 4 x 4 patches, 5 classes."""
    return DeiTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=24,
        num_attention_heads=3,
        intermediate_size=40,
        num_hidden_layers=3,
        num_labels=5,
    )


@pytest.fixture
def tiny_student(tiny_config: DeiTConfig) -> DeiTForImageClassificationWithTeacher:
    """A freshly initialised student, in training mode."""
    return DeiTForImageClassificationWithTeacher(tiny_config)


@pytest.fixture
def toy_images() -> Tensor:
    """Four normalised images, (4, 3, 32, 32)."""
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
