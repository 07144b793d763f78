"""Checks whether the files of a checkpoint can be read, and gives all processes the same answer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from accelerate.utils import gather_object
from safetensors import safe_open
from transformers import TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME, safe_globals

# Files of a checkpoint that `Trainer` and this package read when they resume from it.
JSON_FILES = ("config.json", "trainer_state.json", "running_state_*.json", "ema/averaging.json")
WEIGHT_FILES = ("*.safetensors", "ema/*.safetensors")
TENSOR_FILES = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state*.pth")


T = TypeVar("T")


def agreed(args: TrainingArguments, look: Callable[[], T | None]) -> T | None:
    """Calls `look` only in the process that writes to this disk (`args.should_save`); all get its answer."""
    found = gather_object([look() if args.should_save else None])
    return next((answer for answer in found if answer is not None), None)


def unreadable_file(checkpoint: Path) -> str | None:
    """Names the first file that cannot be read, or not without running code in it, and why; None if all can be read.

    Hashes detect more damage, but only in files that the run itself wrote. This check also covers a checkpoint from
    elsewhere.
    """
    for patterns, read in ((JSON_FILES, _read_json), (WEIGHT_FILES, _read_header), (TENSOR_FILES, _read_tensors)):
        for file in (file for pattern in patterns for file in sorted(checkpoint.glob(pattern))):
            try:
                read(file)
            except OSError as error:
                return f"{file.relative_to(checkpoint)} cannot be read ({error.strerror or error})"
            except Exception as error:  # a damaged pickle can raise many kinds of errors
                code = "could run code" if "GLOBAL" in str(error) else "is damaged"
                return f"{file.relative_to(checkpoint)} {code} ({type(error).__name__}), so it was not opened"
    return None


def _read_json(file: Path) -> None:
    if file.name == TRAINER_STATE_NAME:
        TrainerState.load_from_json(str(file))
    elif not isinstance(json.loads(file.read_text(encoding="utf-8")), dict):
        raise ValueError("it is not a JSON object")


def _read_header(file: Path) -> None:
    with safe_open(file, framework="pt"):
        pass


def _read_tensors(file: Path) -> None:
    with safe_globals():  # the random states are NumPy arrays
        torch.load(file, map_location="cpu", mmap=True, weights_only=True)
