"""Reads and writes recipes: YAML files of options, which command-line flags override."""

import argparse
import dataclasses
import enum
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, get_type_hints

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from ..argument_checks import ListsArguments, check_flags, nearest_option, unknown_options, without_tokens

RECIPES = Path(__file__).parents[1] / "recipes"  # shipped with this package
CHANGED = "changed at step"  # first words of the lines about changed options

# Options that are not written to a recipe: secrets, options of the machine, and options that delete or resume.
NOT_REPEATED = {"hub_token", "overwrite_output_dir", "resume_from_checkpoint", "dataloader_pin_memory", "local_rank"}
NOT_REPEATED |= {"allow_changes", "verbose"}
# Old names of transformers that mirror new ones, and an object that a YAML file cannot hold.
NOT_REPEATED |= {"gradient_checkpointing", "gradient_checkpointing_kwargs", "accelerator_config"}


def parse_recipe(dataclass_types: Sequence[type], arguments: Sequence[str], description: str | None = None) -> tuple:
    """Parses `[RECIPE.yaml] [--field value ...]`. A flag overrides the recipe, and the recipe overrides the default.

    Args:
        dataclass_types: classes of options; a recipe may have the fields of all of them.
        arguments: the command line without the program's name.
        description: text for `--help`.

    Returns:
        One instance of each class, in the same order.

    Raises:
        FileNotFoundError: the recipe does not exist.
        ValueError: the recipe is not a YAML mapping, an option is unknown, or a value is invalid.
    """
    parser = _Parser(list(dataclass_types), description=description, allow_abbrev=False)
    parser.add_argument("recipe", nargs="?", help="YAML file of options, before all flags; flags override it")
    known = {f.name for cls in dataclass_types for f in dataclasses.fields(cls) if f.init}
    check_flags(arguments, parser.flags)
    recipe = [argument for argument in arguments[:1] if not argument.startswith("-")]
    if recipe:
        _set_defaults(parser, read_recipe(recipe[0], known))
    parsed, rest = parser.parse_known_args(list(arguments))
    if rest:
        raise ValueError(f"no option takes {unknown_options(rest)}{nearest_option(rest[0], known)}")
    misplaced = parsed.recipe
    if misplaced is not None and not recipe:
        raise ValueError(f"`{misplaced}` comes after flags; name the recipe first")
    *groups, _ = parser.parse_args_into_dataclasses(args=list(arguments), look_for_args_file=False)
    return tuple(groups)


class _Parser(ListsArguments, HfArgumentParser):
    """Raises ValueError, where argparse would print the whole usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{without_tokens(message)}; see --help for all options")


def _set_defaults(parser: _Parser, recipe: dict[str, Any]) -> None:
    """Makes the recipe's values the defaults of the parser."""
    hints = {name: str(hint) for cls in parser.dataclass_types for name, hint in get_type_hints(cls).items()}
    for action in parser.arguments:
        if action.dest in recipe:
            action.required = False
            parser.set_defaults(**{action.dest: _as_default(action, recipe[action.dest], hints[action.dest])})


def _as_default(action: argparse.Action, value: Any, hint: str) -> Any:
    """Returns a recipe's value as a default. Numbers and words become strings, which argparse checks like a flag."""
    if value is False and "Strategy" in hint:
        return "no"  # as in `save_strategy: no`, which YAML reads as a boolean
    is_number = action.type in (int, float)
    refused: tuple[type, ...] = (list, dict) if is_number or action.choices or action.type is string_to_bool else ()
    refused += (bool,) if is_number else ()
    refused += (NoneType,) if action.default is not None else ()
    if isinstance(value, refused):
        raise ValueError(f"option `{action.dest}` of the recipe is {value!r}, but must be a single value of its type")
    return value if isinstance(value, (bool, list, dict, NoneType)) else str(value)


def read_recipe(path: str, known: set[str]) -> dict[str, Any]:
    """Reads the options of a recipe file.

    Args:
        path: of the file.
        known: names of all options.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a YAML mapping, has an unknown option, or holds a token.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no recipe at `{path}`; the recipes of this package are in {RECIPES}")
    try:
        recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe `{path}` is not valid YAML: {_problem(error)}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"recipe `{path}` holds a {type(recipe).__name__}, but must hold lines of `option: value`")
    for key in recipe:
        if key not in known:
            raise ValueError(f"recipe `{path}` has the unknown option `{key}`{nearest_option(str(key), known)}")
    if recipe.get("hub_token") is not None:
        raise ValueError(
            f"recipe `{path}` has `hub_token`, but recipes are meant to be shared; remove it, and log in with "
            "`hf auth login`, or set HF_TOKEN"
        )
    return recipe


def _problem(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """Returns the error and its line number, but not the text of the line, which can hold a token."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    line = "" if error.problem_mark is None else f" in line {error.problem_mark.line + 1}"
    return ", ".join(part for part in (error.context, error.problem) if part) + line


def write_recipe(
    path: str | Path, *options: Any, effective_recipe: Mapping[str, str] | None = None, repeats: bool = True
) -> None:
    """Writes the effective options as a recipe, with which the command repeats the run.

    The recipe has all options of this package, and those of transformers that differ from their defaults. Tokens are
    left out.

    Args:
        path: of the file.
        options: instances of the classes of options.
        effective_recipe: effective settings of this run (run_summary.py), written as comments.
        repeats: whether the options describe the whole run; False for a trainer created in Python.
    """
    recipe: dict[str, Any] = {}
    for group in options:
        recipe.update(effective_options(group))
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    head = [f"Repeat with: python scripts/train.py {path} --output_dir ANOTHER"]
    if not repeats:
        head = ["Options of a training in Python. Its model, data and other arguments are not included."]
    if any(name.startswith(CHANGED) for name in effective_recipe or ()):
        head = ["Options at the end of the run. They do not repeat it, because some options changed during the run."]
    if effective_recipe:
        head += ["Effective settings of the run:", *as_block(effective_recipe).splitlines()]
    comments = "".join(f"# {line}\n" for line in head)
    Path(path).write_text(f"{comments}{text}", encoding="utf-8")


def as_block(recipe: Mapping[str, str]) -> str:
    """Formats the effective settings for reading, one line per topic."""
    width = max(map(len, recipe))
    return "\n".join(f"{name:{width}}  {value}" for name, value in recipe.items())


def effective_options(group: Any) -> dict[str, Any]:
    """Returns all options of this package and the changed options of transformers, as YAML types."""
    values = {}
    for option in dataclasses.fields(group):
        value = _plain(getattr(group, option.name))
        default = option.default if option.default_factory is dataclasses.MISSING else option.default_factory()
        is_ours = not isinstance(group, TrainingArguments) or option.name in type(group).__annotations__
        derived = option.name == "learning_rate" and group.base_learning_rate is not None
        derived |= option.name == "use_cpu" and not torch.accelerator.is_available()  # the machine has only a CPU
        # transformers turns many None values into empty values with the same meaning
        differs = value != default and (value not in ([], {}, "", None) or bool(default))
        if option.name not in NOT_REPEATED and not derived and (is_ours or differs):
            values[option.name] = value
    return values


def _plain(value: Any) -> Any:
    """Converts a value to YAML types."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, float):
        return float(value)  # YAML cannot write a subclass
    return os.fspath(value) if isinstance(value, os.PathLike) else value
