"""Shared by all tests: no network, one thread per process, a fixed seed, and small models and data."""

import gc
import logging
import os
from collections.abc import Callable, Iterator

os.environ["HF_HUB_OFFLINE"] = "1"  # set before the imports below read it
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # also in the processes that tests start

import datasets
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from deit_hf import DeiTConfig, DeiTForImageClassificationWithTeacher, Teacher
from deit_hf.training.console import AboveBars

torch.set_num_threads(1)  # more do not help toy tensors, and tests may run in parallel


def pytest_collection_finish() -> None:
    """Excludes imported modules from garbage collection, which would take a second in each training."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_seed_and_logging_for_every_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.manual_seed(0)
    monkeypatch.setitem(os.environ, "PYTHONWARNINGS", "")
    yield
    logging.getLogger("deit_hf").setLevel(logging.NOTSET)  # commands that ran in this process changed these
    logging.captureWarnings(False)
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, AboveBars)]:
        root.removeHandler(handler)
        transformers_logging.enable_default_handler()
        transformers_logging.disable_propagation()
        transformers_logging.set_verbosity_warning()


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
def make_student(tiny_config: DeiTConfig) -> Callable[[], DeiTForImageClassificationWithTeacher]:
    """Returns a function that makes the same student each time, without stochastic depth."""
    tiny_config.drop_path_rate = 0.0

    def make() -> DeiTForImageClassificationWithTeacher:
        torch.manual_seed(0)
        return DeiTForImageClassificationWithTeacher(tiny_config)

    return make


@pytest.fixture
def toy_images() -> Tensor:
    """Four normalised images, (4, 3, 32, 32)."""
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class TinyConvNet(nn.Module):
    """A classifier with batch statistics and dropout, which show whether a teacher is in training mode."""

    def __init__(self, num_classes: int = 5):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, num_classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.dropout(self.norm(self.conv(pixel_values)).relu().mean(dim=(2, 3))))


@pytest.fixture
def tiny_teacher() -> Teacher:
    """A convnet of five classes with its own normalisation, at the image size of the student."""
    return Teacher(TinyConvNet(), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), image_size=32)


@pytest.fixture
def toy_rows() -> datasets.Dataset:
    """Forty random images of different sizes, eight of each of five classes."""
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 200, (20, 3), dtype=np.uint8)  # resizing averages the noise away, the colour stays
    images = [colours[i] + generator.integers(0, 56, (30 + i, 50 - i, 3), dtype=np.uint8) for i in range(20)] * 2
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("abcde"))})
    return datasets.Dataset.from_dict({"image": images, "label": [i % 5 for i in range(40)]}, features=features)
