"""Loads weights without executing code, and explains why a load failed.

transformers loads directories and Hub ids (modeling_deit.py). conversion.py converts the names in other files.
"""

import argparse
import contextlib
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ..atomic_files import MANIFEST, changed_weights
from .local_sources import is_unreachable, unreachable_hub

# Official checkpoints contain their arguments, including a path (run_with_submitit.py); a pure path opens no file.
_HARMLESS: list[Any] = [argparse.Namespace, *((PurePosixPath, f"pathlib.{part}PosixPath") for part in ("", "_local."))]
# weights that must be in the file: a head or a token may be initialised at random, an encoder layer may not
_ENCODER_LAYER = re.compile(r"(^|\.)encoder\.layer\.\d+\.")


def check_model_source(source: str | os.PathLike) -> None:
    """Refuses the name of a missing directory, of a file, or of a timm model.

    Raises:
        FileNotFoundError: the name is a path, but not an existing directory.
        ValueError: the name is empty, a file, or the name of a timm model.
    """
    source = os.fspath(source)
    if not source.strip():
        raise ValueError("the name of a model is empty; name a directory or a Hub id")
    if os.path.isfile(source):
        raise ValueError(
            f"`{source}` is a file, but a saved model is a directory or a Hub id; convert the weights of a DeiT with "
            f"deit-hf convert {source} DIR"
        )
    if source.startswith("timm:"):
        raise ValueError(
            f"`{source}` names a model of timm, which can be trained or be a teacher, but is not a saved model; name "
            "a directory or a Hub id, or convert the weights of a DeiT with deit-hf convert FILE "
            "DIR"
        )
    if (source.startswith(("/", ".", "~")) or source.count("/") > 1 or "\\" in source) and not os.path.isdir(source):
        raise FileNotFoundError(f"no directory `{source}`; name a saved model, or a Hub id such as user/name")


def read_weight_file(path: Path) -> Any:
    """Reads a `.safetensors` or `.pth` file without executing code in it.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is damaged, or holds more than tensors, plain values and `argparse.Namespace`.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:  # a fault of the disk, or a missing permission
        raise
    except Exception as error:  # a damaged pickle can raise almost any exception
        raise damaged_file(error, path) from error


def check_recorded_weights(source: str | os.PathLike) -> None:
    """Refuses a checkpoint of a run whose weights changed since the run wrote them.

    Raises:
        ValueError: a file of weights changed; names it.
    """
    changed = changed_weights(Path(source))
    if changed is not None:
        raise ValueError(
            f"`{source}` is not used: {changed}; name another checkpoint, or delete {MANIFEST} there if you changed "
            "the weights yourself"
        )


@contextlib.contextmanager
def named_errors(source: Any) -> Iterator[None]:
    """Adds the name of the file or Hub id to errors while a model is loaded.

    Raises:
        FileNotFoundError: `source` is a path, but not an existing directory.
        OSError: a file is missing, or the Hub was not reached.
        ValueError: a file is damaged, or holds something that could run code, or the model has its own code.
    """
    if isinstance(source, str | os.PathLike):
        check_model_source(source)
    try:
        yield
    except (SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise damaged_file(error, _damaged_part(source)) from error
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"`{source}` has its own code, which deit_hf never runs; if you trust it, load the model yourself and "
            "pass it to `DistillationTrainer`, or as a teacher to `deit_hf.Teacher`"
        ) from error
    except OSError as error:
        if "image processor" in str(error) and os.path.isdir(str(source)):
            raise FileNotFoundError(
                f"`{source}` has no image processor (preprocessor_config.json); save one there with `deit_hf.model."
                "image_processing_deit.make_processor(image_size).save_pretrained(directory)`"
            ) from error
        if not os.path.isdir(str(source)) and is_unreachable(error):
            raise unreachable_hub(str(source)) from error
        if str(source) in str(error):
            raise
        nowhere = "" if os.path.isdir(str(source)) else "is not a directory and "
        raise OSError(f"`{source}` {nowhere}was not loaded: {' '.join(str(error).split())}") from error


def damaged_file(error: Exception, name: Any) -> ValueError:
    """Returns the error to raise for a file of weights that cannot be read."""
    if refused := re.search(r"GLOBAL (\S+)", str(error)):
        return ValueError(
            f"`{name}` holds `{refused[1]}`, which is not a weight and could run code, so it was not opened; ask for "
            "a file of weights only, as written by `save_pretrained` or `torch.save(model.state_dict(), path)`"
        )
    return ValueError(f"`{name}` is damaged, or not a checkpoint ({type(error).__name__}); copy or download it again")


def _damaged_part(source: Any) -> Any:
    """Returns the first file of a directory that cannot be opened, or else `source`."""
    for path in sorted(Path(source).glob("*.safetensors")) if os.path.isdir(source) else []:
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError:
            return path
    return source


def check_all_layers_loaded(source: Any, info: Mapping[str, Any]) -> None:
    """Refuses weights whose layers differ from the model's: missing ones would stay random, others would be unused.

    Args:
        source: directory or Hub id, for the message.
        info: transformers' loading info.

    Raises:
        ValueError: a tensor of a layer is missing in the weights, or not used by the model.
    """
    for problem, names in (("lack", info["missing_keys"]), ("hold unused", info["unexpected_keys"])):
        layers = sorted(name for name in names if _ENCODER_LAYER.search(name))
        if layers:
            raise ValueError(
                f"the weights of `{source}` do not fit its config.json: they {problem} `{layers[0]}` and "
                f"{len(layers) - 1} more tensors of layers; fix `num_hidden_layers` and `qkv_bias` in config.json, or "
                "use the weights that belong to it"
            )


def check_complete(source: Any, info: Mapping[str, Any]) -> None:
    """Refuses weights that are not a whole classifier: a missing classifier would answer at random.

    Args:
        source: directory or Hub id, for the message.
        info: transformers' loading info.

    Raises:
        ValueError: the model has a tensor that is not in the weights; names some of them.
    """
    missing = sorted(info["missing_keys"])
    if missing:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        raise ValueError(
            f"`{source}` is not a trained classifier: it has no weights for {', '.join(missing[:4])}{more}; train it "
            f"first (deit-hf train ... --model_name_or_path {source}), or name another model"
        )


def check_sizes(source: Any, info: Mapping[str, Any]) -> None:
    """Refuses weights whose shapes differ from those of the configuration.

    Raises:
        ValueError: a shape differs; names the tensor and both shapes.
    """
    mismatched = sorted(info["mismatched_keys"])
    if mismatched:
        name, stored, expected = mismatched[0]
        raise ValueError(
            f"the weights of `{source}` do not fit the configuration: `{name}` is {tuple(stored)} in the file but "
            f"{tuple(expected)} in the model ({len(mismatched)} such tensors); fix config.json, or pass "
            "`ignore_mismatched_sizes=True` for a new head on other classes"
        )
