"""The files of a finished run, and which of them are pushed to the Hub."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

# Files that a push uploads if they exist, in addition to the weights.
CONFIG = "config.json"
OF_A_MODEL = (CONFIG, "preprocessor_config.json")
CURVES, CONFUSION_MATRIX, CLASS_RESULTS = "training_curves.png", "confusion_matrix.png", "class_results.json"
OF_A_RUN = ("README.md", "recipe.yaml", "trainer_state.json", CURVES)
RESULTS = (  # of the last measurement; a run that starts over deletes those of the run before
    "all_results.json",
    "train_results.json",
    "eval_results.json",
    "test_results.json",
    CLASS_RESULTS,
    CONFUSION_MATRIX,
)
OF_AVERAGES = (*OF_A_MODEL, "averaging.json")

# Files that a push never uploads, not even on request: pickles can run code when they are loaded.
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}
UNFINISHED = ("checkpoint-", ".unfinished-")

_MARK = "<!-- written by deit_hf from the run's files; once edited it is not overwritten. Checksum: "


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file; returns {} if it does not exist.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"`{path}` is damaged ({error}); copy it again, or delete it") from error


def require_files(directory: Path, names: Sequence[str]) -> None:
    """Checks that the directory of a run has these files.

    Raises:
        FileNotFoundError: the directory or a file is missing; names all missing files.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"`{directory}` is not a directory; name the `output_dir` of a finished run")
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"`{directory}` lacks {', '.join(missing)}; name the `output_dir` of a finished run, or save the model "
            "and its image processor there with `save_pretrained`"
        )


# ---- files of a push ----


def files_to_push(directory: Path, include: Sequence[str] = ()) -> list[str]:
    """Returns the names of the files that a push uploads: only those that a run writes, and `include`.

    Args:
        directory: with config.json, preprocessor_config.json and weights as safetensors.
        include: more files, named relative to `directory`.

    Raises:
        FileNotFoundError: the directory lacks a required file, or one of `include`.
        ValueError: a required file, or one of `include`, is a link to a file outside the directory, or one of
            `include` is a pickle or part of a checkpoint.
    """
    needed = [*OF_A_MODEL, *weight_files(directory)]
    require_files(directory, needed)
    folder = directory / "ema"
    averages = [f"ema/{name}" for name in (*OF_AVERAGES, *weight_files(folder))] if folder.is_dir() else []
    for name in include:
        _check_included(directory, name)
    for name in (*needed, *include):
        if not is_inside(directory, name):
            raise ValueError(f"`{name}` in `{directory}` links to a file outside it; replace the link by a copy")
    names = dict.fromkeys(
        [*needed, *OF_A_RUN, *RESULTS, *averages, *(PurePosixPath(name).as_posix() for name in include)]
    )
    return [name for name in names if (directory / name).is_file() and is_inside(directory, name)]


def files_to_leave(directory: Path, pushed: Sequence[str]) -> list[str]:
    """Returns the names of the files that are not pushed, in order; a folder without pushed files is one name."""
    folders = {name.partition("/")[0] for name in pushed if "/" in name}
    names = []
    for path in sorted(directory.iterdir()):
        if path.is_dir() and path.name not in folders:
            names.append(f"{path.name}/")
        elif path.is_dir():
            names += [each.relative_to(directory).as_posix() for each in sorted(path.rglob("*")) if not each.is_dir()]
        else:
            names.append(path.name)
    return [name for name in names if name not in pushed]


def weight_files(directory: Path) -> list[str]:
    """Returns the weight files of a model in the format of transformers: one file, or an index and its shards.

    Raises:
        ValueError: the index is damaged, or names files other than shards in the same directory.
    """
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").is_file() or not index.is_file():
        return ["model.safetensors"]
    try:
        parts = sorted(set(read_json(index)["weight_map"].values()))
        is_good = all(PurePosixPath(part).name == part and part.endswith(".safetensors") for part in parts)
    except (ValueError, KeyError, TypeError, AttributeError):
        is_good = False
    if not is_good:
        raise ValueError(f"`{index}` is damaged, or does not name shards in its directory; save the model again")
    return [index.name, *parts]


def is_inside(directory: Path, name: str) -> bool:
    """Whether a file, or the target of a link, is in the directory."""
    return (directory / name).resolve().is_relative_to(directory.resolve())


def _check_included(directory: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"`{name}` is not in `{directory}`; name included files relative to that directory")
    if (directory / name).is_dir():
        raise ValueError(f"`{name}` is a directory; include its files by name")
    if not (directory / name).is_file():
        raise FileNotFoundError(f"`{name}` in `include` does not exist in `{directory}`")
    if any(part.startswith(UNFINISHED) for part in path.parts):
        raise ValueError(f"`{name}` is part of a checkpoint, which is never pushed; push a finished run")
    with open(directory / name, "rb") as file:
        starts_as_pickle = file.read(1) == b"\x80"
    if path.suffix.lower() in PICKLES or starts_as_pickle:
        raise ValueError(
            f"`{name}` is a pickle, which is never pushed because it can run code when it is loaded; save weights as "
            "safetensors, or leave it out of `include`"
        )


# ---- detecting edited cards ----


def sealed(card: str) -> str:
    """Returns the card with its checksum at the end, so that edits are detected."""
    return f"{card}\n{_MARK}{_checksum(card)} -->\n"


def unsealed(text: str) -> str | None:
    """Returns the card without its checksum, or None if the text was edited."""
    card = text.rpartition(f"\n{_MARK}")[0]
    return card if text == sealed(card) else None


def _checksum(card: str) -> str:
    return hashlib.sha256(card.encode()).hexdigest()[:16]
