"""The files that a run leaves in its directory, and which of them are for others."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

# What a push uploads, beside the weights, where it is there.
OF_A_MODEL = ("config.json", "preprocessor_config.json")
OF_A_RUN = ("README.md", "recipe.yaml", "trainer_state.json", "training_curves.png", "all_results.json")
RESULTS = ("train_results.json", "eval_results.json", "test_results.json")
OF_AVERAGES = ("config.json", "preprocessor_config.json", "averaging.json")

# What no push uploads, also if asked: pickles run code when they are read.
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}
UNFINISHED = ("checkpoint-", ".unfinished-")

_MARK = "<!-- written by deit_hf from the run's files; once edited it is not overwritten. Checksum: "


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is none.

    Raises:
        ValueError: it is damaged; names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"`{path}` is damaged ({error}); copy it again, or delete it") from error


def require_files(directory: Path, names: Sequence[str]) -> None:
    """Raises FileNotFoundError that names all of the files that the directory of a run lacks."""
    if not directory.is_dir():
        raise FileNotFoundError(f"`{directory}` is no directory; name the `output_dir` of a finished run")
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"`{directory}` lacks {', '.join(missing)}; name the `output_dir` of a finished run, or save the model "
            "and its image processor there with `save_pretrained`"
        )


# ---- what is for others ----


def files_to_push(directory: Path, include: Sequence[str] = ()) -> list[str]:
    """Names of the files of a finished run that a push uploads: what a run writes, and nothing else.

    Args:
        directory: with config.json, preprocessor_config.json and weights as safetensors.
        include: further files by their names relative to `directory`.

    Raises:
        FileNotFoundError: the directory lacks a needed file, or one of `include`; names all that it lacks.
        ValueError: a needed file, or one of `include`, is a link that leads out of the directory, or one of `include`
            is a pickle or part of a checkpoint.
    """
    needed = [*OF_A_MODEL, *weight_files(directory)]
    require_files(directory, needed)
    folder = directory / "ema"
    averages = [f"ema/{name}" for name in (*OF_AVERAGES, *weight_files(folder))] if folder.is_dir() else []
    for name in include:
        _check_included(directory, name)
    for name in (*needed, *include):
        if not is_inside(directory, name):
            raise ValueError(f"`{name}` in `{directory}` is a link that leads out of it; put a copy there to push it")
    names = dict.fromkeys(
        [*needed, *OF_A_RUN, *RESULTS, *averages, *(PurePosixPath(name).as_posix() for name in include)]
    )
    return [name for name in names if (directory / name).is_file() and is_inside(directory, name)]


def files_to_leave(directory: Path, pushed: Sequence[str]) -> list[str]:
    """Names of what a push leaves in a directory, in order; a folder of which nothing goes stands for its files."""
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
    """The weights of a model, as transformers reads them: one file, or an index and the parts that it names.

    Raises:
        ValueError: the index is damaged, or names something else than parts beside it.
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
        raise ValueError(f"`{index}` is damaged, or names no parts of a model beside it; save the model again")
    return [index.name, *parts]


def is_inside(directory: Path, name: str) -> bool:
    """Whether a file is in the directory, or a link to one that is."""
    return (directory / name).resolve().is_relative_to(directory.resolve())


def _check_included(directory: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"`{name}` is not in `{directory}`; include files by their names relative to it")
    if (directory / name).is_dir():
        raise ValueError(f"`{name}` is a directory; include its files by name")
    if not (directory / name).is_file():
        raise FileNotFoundError(f"there is no `{name}` in `{directory}` to include")
    if any(part.startswith(UNFINISHED) for part in path.parts):
        raise ValueError(f"`{name}` is part of a checkpoint, which is never pushed; push a finished run")
    with open(directory / name, "rb") as file:
        starts_as_pickle = file.read(1) == b"\x80"
    if path.suffix.lower() in PICKLES or starts_as_pickle:
        raise ValueError(f"`{name}` is a pickle, which is never pushed: it can run code when it is read")


# ---- a card that nobody has edited ----


def sealed(card: str) -> str:
    """A card with its own checksum at the end, so that any edit shows."""
    return f"{card}\n{_MARK}{_checksum(card)} -->\n"


def unsealed(text: str) -> str | None:
    """The card in a sealed text; None if somebody edited it."""
    card = text.rpartition(f"\n{_MARK}")[0]
    return card if text == sealed(card) else None


def _checksum(card: str) -> str:
    return hashlib.sha256(card.encode()).hexdigest()[:16]
