"""Removes local paths from the texts of a run before they are published; the local files are not changed."""

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import yaml

from .markdown import quoted
from .run_files import CONFIG, read_json, sealed, unsealed

# Options that always hold a local path; other options may hold one.
PATH_OPTIONS = ("train_dir", "validation_dir", "output_dir", "logging_dir", "label_file")

_REST = r"[^\s'\"`,;:()\[\]{}<>]*"  # rest of a path within a text
_PATH = re.compile(rf"(?:file://|(?<![\w.~:/-]))/{_REST}")  # not a URL: its slashes follow a colon


def is_path(text: str) -> bool:
    """Whether a text is a local path: an absolute one, or an existing relative one with a slash."""
    return (
        os.path.isabs(text) or text.startswith(("~", "./", "../", "file:")) or ("/" in text and os.path.exists(text))
    )


def shown(value: Any) -> Any:
    """Replaces local paths in a value by their last component, also within lists and mappings."""
    if isinstance(value, Mapping):
        return {name: shown(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [shown(part) for part in value]
    if not isinstance(value, str):
        return value
    name, _, file = value.partition("@")
    if name.startswith("timm:") and file:
        return f"{name}@{_last_name(file)}"
    return _last_name(value) if is_path(value) else value


def shown_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces local paths in options by their last component."""
    return {
        name: _last_name(value) if name in PATH_OPTIONS and isinstance(value, str) else shown(value)
        for name, value in options.items()
    }


def _last_name(path: str) -> str:
    return PurePath(path).name or path


def public_texts(directory: Path, repo_id: str) -> dict[str, str]:
    """Returns the texts of a run without paths, for files that contain some.

    These are recipe.yaml, trainer_state.json, README.md, and config.json of the model and of its averaged weights.

    Args:
        directory: of a run.
        repo_id: replaces the directory in the code of the card that loads the model.

    Raises:
        ValueError: recipe.yaml or a JSON file is damaged.
    """
    recipe, state, card = (directory / name for name in ("recipe.yaml", "trainer_state.json", "README.md"))
    values, logged = _parsed(recipe, yaml.safe_load), _parsed(state, json.loads)
    own = {str(directory), str(directory.resolve()), str(values.get("output_dir", directory))}
    paths = {*local_paths(values), *_paths_of(logged), *own}
    configs = {name: public_config(directory / name) for name in (CONFIG, f"ema/{CONFIG}")}
    texts = {name: text for name, text in configs.items() if text is not None}
    if (public := _mapped(logged, paths)) != logged:
        texts[state.name] = json.dumps(public, indent=2, sort_keys=True) + "\n"
    for file, rewrite in ((recipe, partial(_public_recipe, values)), (card, partial(_public_card, own, repo_id))):
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if (public_text := rewrite(paths, text)) != text:
            texts[file.name] = public_text
    return texts


def public_config(path: Path) -> str | None:
    """The text of a config.json without the directory that the model came from; None if it names none.

    transformers before version 5 wrote `_name_or_path`, also into nested configurations.

    Raises:
        ValueError: the file is damaged.
    """
    config = read_json(path)
    public = _without_origin(config)
    return None if public == config else json.dumps(public, indent=2) + "\n"


def _without_origin(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_origin(part) for name, part in value.items() if name != "_name_or_path"}
    return value


def _parsed(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        return dict(parse(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(
            f"`{path}` is damaged ({type(error).__name__}), so nothing is pushed; write it again"
        ) from error


def _public_recipe(values: dict[str, Any], paths: set[str], text: str) -> str:
    """Removes paths from a recipe; all its comments must be at the top, as in the file of a run."""
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    public, public_head = _mapped(shown_options(values), paths), without_paths(head, paths)
    if (public, public_head) == (values, head):
        return text
    return public_head + yaml.safe_dump(public, sort_keys=False, allow_unicode=True)


def _public_card(own: set[str], repo_id: str, paths: set[str], text: str) -> str:
    """Removes only known paths from a card, because its text may be hand-written."""
    card = unsealed(text)
    public = text if card is None else card
    for name in [*own, *(Path(each).name for each in own)]:
        for call in ("model=", "from_pretrained("):  # the code in the card that loads the model
            public = public.replace(f"{call}{quoted(name)}", f"{call}{quoted(repo_id)}")
    public = _without_known_paths(public, paths)
    return public if card is None else sealed(public)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def local_paths(options: Mapping[str, Any]) -> set[str]:
    """Finds the local paths in options, for `without_paths`; those of timm models without the name of the model."""
    named = [options.get(name) for name in PATH_OPTIONS]
    return {*_paths_of(dict(options)), *_paths_of(named, all_are=True)}


def _paths_of(value: Any, *, all_are: bool = False) -> Iterator[str]:
    """Finds the paths in the strings of a value, including the weight files of timm models."""
    for text in _strings(value):
        path = text.partition("@")[2] if text.startswith("timm:") else text
        if "/" in path and (all_are or path != text or is_path(path)):
            yield path


def _mapped(value: Any, paths: set[str]) -> Any:
    """Removes paths from all strings in a value."""
    if isinstance(value, str):
        return without_paths(value, paths)
    if isinstance(value, dict):
        return {name: _mapped(part, paths) for name, part in value.items()}
    return [_mapped(part, paths) for part in value] if isinstance(value, list) else value


def without_paths(text: str, paths: Collection[str] = ()) -> str:
    """Replaces absolute paths and the given `paths` in a text by their last component.

    Only given paths may be relative or contain spaces.
    """
    return _PATH.sub(_base_name, _without_known_paths(text, paths))


def _without_known_paths(text: str, paths: Collection[str]) -> str:
    """Replaces the given paths; unlike the pattern, they may contain spaces."""
    for path in sorted(paths, key=len, reverse=True):
        if path.strip("/"):
            text = re.sub(rf"(?<![\w/]){re.escape(path.rstrip('/'))}(?![\w.-])(?:/{_REST})?", _base_name, text)
    return text


def _base_name(match: re.Match[str]) -> str:
    return PurePath(match[0]).name
