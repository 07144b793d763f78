"""Reading checkpoints without running what is in them; and what cannot be read, said so that a user can mend it.

Directories and Hub ids are loaded by transformers (modeling_deit.py). What the names in other files mean is in
conversion.py.
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

# Official checkpoints carry their arguments, a path among them (run_with_submitit.py); a pure path touches no file.
_HARMLESS: list[Any] = [argparse.Namespace, *((PurePosixPath, f"pathlib.{part}PosixPath") for part in ("", "_local."))]
# what only trained weights may fill: a head or a token may start at random, a layer of the encoder may not
_ENCODER_LAYER = re.compile(r"(^|\.)encoder\.layer\.\d+\.")


def check_model_source(source: str | os.PathLike) -> None:
    """Refuses a name that can only be a directory, but is none, and one of a file or of a model of timm.

    Raises:
        FileNotFoundError: names it.
        ValueError: it is a file, or a name of timm; says what to do with it.
    """
    source = os.fspath(source)
    if not source.strip():
        raise ValueError("the name of a model is empty; name a directory or a Hub id")
    if os.path.isfile(source):
        raise ValueError(
            f"`{source}` is a file, but a saved model is a directory or a Hub id; make one of the weights of a DeiT: "
            f"python scripts/convert_checkpoint.py {source} DIR"
        )
    if source.startswith("timm:"):
        raise ValueError(
            f"`{source}` names a model of timm, which can be trained or be a teacher, but is not a saved model; name "
            "a directory or a Hub id, or make one of the weights of a DeiT: python scripts/convert_checkpoint.py FILE "
            "DIR"
        )
    if (source.startswith(("/", ".", "~")) or source.count("/") > 1) and not os.path.isdir(source):
        raise FileNotFoundError(f"no directory `{source}`; name a saved model, or a Hub id such as user/name")


def read_weight_file(path: Path) -> Any:
    """What a `.safetensors` or `.pth` file holds, read without running anything in it.

    Raises:
        ValueError: it is damaged, or holds more than tensors, plain values and `argparse.Namespace`.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:  # the disk's fault, or a missing permission
        raise
    except Exception as error:  # bytes of any kind come here: a damaged pickle fails in a dozen ways
        raise damaged_file(error, path) from error


def check_recorded_weights(source: str | os.PathLike) -> None:
    """Refuses weights in a checkpoint of a run that are not those that the run wrote.

    Raises:
        ValueError: names the file.
    """
    changed = changed_weights(Path(source))
    if changed is not None:
        raise ValueError(
            f"`{source}` is not used: {changed}; name another checkpoint, or delete {MANIFEST} there if you changed "
            "the weights yourself"
        )


@contextlib.contextmanager
def named_errors(source: Any) -> Iterator[None]:
    """Gives what goes wrong while a directory or Hub id is read the name of the file or id.

    Raises:
        FileNotFoundError: `source` can only be a directory, but is none.
        OSError: a file is missing, or the Hub was not reached.
        ValueError: a file is damaged, or holds something that could run code, or the model brings code of its own.
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
            f"`{source}` brings code of its own, which is never run here; if you trust it, load the model yourself "
            "and pass it to `DistillationTrainer`, or as a teacher to `deit_hf.Teacher`"
        ) from error
    except OSError as error:
        if "image processor" in str(error) and os.path.isdir(str(source)):
            raise FileNotFoundError(
                f"`{source}` has no image processor (preprocessor_config.json); save one there with `deit_hf.model."
                "image_processing_deit.make_processor(image_size).save_pretrained(directory)`"
            ) from error
        if str(source) in str(error):
            raise
        nowhere = "" if os.path.isdir(str(source)) else "is no directory here and "
        raise OSError(f"`{source}` {nowhere}was not loaded: {' '.join(str(error).split())}") from error


def damaged_file(error: Exception, name: Any) -> ValueError:
    """What to raise for a file of weights that cannot be read."""
    if refused := re.search(r"GLOBAL (\S+)", str(error)):
        return ValueError(
            f"`{name}` holds `{refused[1]}`, which is no weight and could run code, so it was not opened; ask for "
            "a file of weights alone, as `save_pretrained` or `torch.save(model.state_dict(), path)` writes it"
        )
    return ValueError(f"`{name}` is damaged, or no checkpoint ({type(error).__name__}); copy or download it again")


def _damaged_part(source: Any) -> Any:
    """The file of a directory that does not open; what else there is goes by the name it was asked for."""
    for path in sorted(Path(source).glob("*.safetensors")) if os.path.isdir(source) else []:
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError:
            return path
    return source


def check_all_layers_loaded(source: Any, info: Mapping[str, Any]) -> None:
    """Refuses a model whose layers are not those of its weights, so that none is left at random or left out.

    Args:
        source: where the model comes from.
        info: transformers' loading info.

    Raises:
        ValueError: names a layer's tensor that is missing in the weights, or not used by the model.
    """
    for problem, names in (("lack", info["missing_keys"]), ("hold unused", info["unexpected_keys"])):
        layers = sorted(name for name in names if _ENCODER_LAYER.search(name))
        if layers:
            raise ValueError(
                f"the weights of `{source}` do not fit its config.json: they {problem} `{layers[0]}` and "
                f"{len(layers) - 1} more tensors of layers; mend `num_hidden_layers` and `qkv_bias` there, or name "
                "the weights that belong to it"
            )


def check_sizes(source: Any, info: Mapping[str, Any]) -> None:
    """Refuses weights of other sizes than the configuration's.

    Raises:
        ValueError: names a tensor, both shapes, and what helps.
    """
    mismatched = sorted(info["mismatched_keys"])
    if mismatched:
        name, stored, expected = mismatched[0]
        raise ValueError(
            f"the weights of `{source}` do not fit the configuration: `{name}` is {tuple(stored)} in the file but "
            f"{tuple(expected)} in the model ({len(mismatched)} such tensors); mend config.json, or for a new head "
            "on other classes pass `ignore_mismatched_sizes=True`"
        )
