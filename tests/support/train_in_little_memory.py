"""Runs scripts/train.py, with the same arguments, as if memory were enough for only four training images."""

import runpy
import sys
from pathlib import Path
from typing import Any

import torch

from deit_hf import DeiTForImageClassificationWithTeacher

forward = DeiTForImageClassificationWithTeacher.forward


def forward_in_little_memory(self: Any, pixel_values: torch.Tensor, **options: Any) -> Any:
    if self.training and len(pixel_values) > 4:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
    return forward(self, pixel_values, **options)


DeiTForImageClassificationWithTeacher.forward = forward_in_little_memory
script = Path(__file__).parents[2] / "scripts" / "train.py"
sys.argv[0] = str(script)
runpy.run_path(str(script), run_name="__main__")
