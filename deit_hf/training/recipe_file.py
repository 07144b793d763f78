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
from ..atomic_files import write_text
from .shipped_recipes import YAML, find_recipe

SHORT_FLAGS = {"--output_dir": "-o"}  # others are `aliases` in the metadata of a field
CHANGED = "changed at step"  # first words of the lines about changed options

# Options that are not written to a recipe: secrets, options of the machine, and options that delete or resume.
NOT_REPEATED = {"hub_token", "overwrite_output_dir", "resume_from_checkpoint", "dataloader_pin_memory", "local_rank"}
NOT_REPEATED |= {"allow_changes", "verbose"}
# Old names of transformers that mirror new ones, and an object that a YAML file cannot hold.
NOT_REPEATED |= {"gradient_checkpointing", "gradient_checkpointing_kwargs", "accelerator_config"}


def parse_recipe(
    dataclass_types: Sequence[type],
    arguments: Sequence[str],
    description: str | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
    positionals: Mapping[str, str] | None = None,
) -> tuple:
    """Parses `[RECIPE] [--field value ...]`. A flag overrides the recipe, and the recipe overrides the default.

    Args:
        dataclass_types: classes of options; a recipe may have the fields of all of them.
        arguments: the command line without the program's name.
        description: text for `--help` and `--help-all`.
        defaults: values of options that replace the defaults of the classes; recipe and flags override them.
        positionals: option that each name on the command line stands for, in order, such as {"MODEL":
            "model_name_or_path"}. A recipe, which then must end in .yaml or .yml, comes before them. A single name
            that ends in three dots, such as MODEL..., stands for a list.

    Returns:
        One instance of each class, in the same order.

    Raises:
        FileNotFoundError: the recipe does not exist.
        ValueError: the recipe is not a YAML mapping, an option is unknown or given twice, or a value is invalid.
    """
    parser = _Parser(list(dataclass_types), usage=argparse.SUPPRESS, description=description, allow_abbrev=False)
    parser.add_argument("--help-all", action="help", help="print the help of all options")
    check_flags(arguments, parser.flags)
    parser.check_once(arguments)
    recipe, named = _names(parser, arguments, positionals or {})
    values = dict(defaults or {})
    if recipe is not None:
        values |= read_recipe(recipe, parser.names)
    _set_defaults(parser, values | named)
    for name, option in (positionals or {}).items():
        if parser.by_name(option).required and parser.given(option, arguments) is None:
            raise ValueError(f"{name} is missing; name {' and '.join(positionals or {})} first, or see --help")
    *groups, _ = parser.parse_args_into_dataclasses(
        args=list(arguments), return_remaining_strings=True, look_for_args_file=False
    )
    return tuple(groups)


def given_options(
    dataclass_types: Sequence[type],
    arguments: Sequence[str],
    description: str | None = None,
    *,
    positionals: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Returns the options of a command line without defaults, by name: `{"learning_rate": 0.001}`.

    Args:
        dataclass_types: classes of options.
        arguments: the command line without the program's name.
        description: text for `--help-all`.
        positionals: see `parse_recipe`; no recipe may come before them.

    Raises:
        ValueError: an option is unknown or given twice, or a value is invalid.
    """
    parser = _Parser(list(dataclass_types), usage=argparse.SUPPRESS, description=description, allow_abbrev=False)
    parser.add_argument("--help-all", action="help", help="print the help of all options")
    check_flags(arguments, parser.flags)
    parser.check_once(arguments)
    _, named = _names(parser, arguments, positionals or {})
    for action in parser.arguments:
        action.default, action.required = argparse.SUPPRESS, False
    given, _ = parser.parse_known_args(list(arguments))
    return {**named, **vars(given)}


class _Parser(ListsArguments, HfArgumentParser):
    """Raises ValueError, where argparse would print the whole usage and exit."""

    def add_argument(self, *args: Any, **options: Any) -> argparse.Action:
        """Adds the short flag of an option to its long one."""
        return super().add_argument(*args, *(SHORT_FLAGS[flag] for flag in args if flag in SHORT_FLAGS), **options)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{without_tokens(message)}; see --help for all options")

    @property
    def names(self) -> dict[str, str]:
        """The option that each name in a recipe sets: its own name, or a short one such as `teacher`."""
        options = [each for cls in self.dataclass_types for each in dataclasses.fields(cls) if each.init]
        short = {name.lstrip("-"): each.name for each in options for name in each.metadata.get("aliases", ())}
        return {**{each.name: each.name for each in options}, **short}

    def by_name(self, option: str) -> argparse.Action:
        """The first argument that sets an option."""
        return next(each for each in self.arguments if each.dest == option)

    def flags_of(self, option: str) -> list[str]:
        """All flags that set an option."""
        return [flag for each in self.arguments if each.dest == option for flag in each.option_strings]

    def given(self, option: str, arguments: Sequence[str]) -> str | None:
        """The first flag of an option on a command line, or None."""
        flags = (argument.partition("=")[0] for argument in arguments)
        return next((flag for flag in flags if flag in self.flags_of(option)), None)

    def check_once(self, arguments: Sequence[str]) -> None:
        """Refuses two different flags of one option, such as `--teacher` and `--teacher_model_name_or_path`."""
        given = dict.fromkeys(argument.partition("=")[0] for argument in arguments)
        for option in {each.dest for each in self.arguments}:
            both = [flag for flag in given if flag in self.flags_of(option)]
            if len(both) > 1:
                raise ValueError(f"{both[0]} and {both[1]} are both given, but set the same option; give one of them")


def _names(parser: _Parser, arguments: Sequence[str], positionals: Mapping[str, str]) -> tuple[str | None, dict]:
    """The recipe on a command line, and the values of the options that its other names stand for."""
    required = [each for each in parser.arguments if each.required]
    for action in required:
        action.required = False  # a recipe can give them
    rest: list[Any] = [each for each in parser.parse_known_args(list(arguments))[1] if each != "--"]
    for action in required:
        action.required = True
    recipe = rest.pop(0) if rest and (not positionals or rest[0].endswith(YAML)) else None
    values: dict[str, Any] = {}
    if [name[-3:] for name in positionals] == ["..."] and rest:
        rest = [rest]
    if len(rest) > len(positionals):
        only = f", and only {' and '.join(positionals)} can be given without one" if positionals else ""
        unused = unknown_options(rest[len(positionals) :])
        raise ValueError(f"no option takes {unused}{only}; see --help for all")
    for name, value in zip(positionals, rest, strict=False):
        option = positionals[name]
        flag = parser.given(option, arguments)
        if flag is not None:
            raise ValueError(f"{name} `{value}` and {flag} are both given, but set the same option; give one of them")
        values[option] = value
    return recipe, values


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


def read_recipe(path: str, known: Mapping[str, str]) -> dict[str, Any]:
    """Reads the options of a recipe.

    Args:
        path: of the file, or the name of a shipped recipe.
        known: the option that each name sets.

    Raises:
        FileNotFoundError: the recipe does not exist.
        ValueError: the file is not a YAML mapping, has an unknown option or one twice, or holds a token.
    """
    file = find_recipe(path)
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe `{path}` is not valid YAML: {_problem(error)}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"recipe `{path}` holds a {type(recipe).__name__}, but must hold lines of `option: value`")
    for key in recipe:
        if key not in known:
            raise ValueError(f"recipe `{path}` has the unknown option `{key}`{nearest_option(str(key), known)}")
        if known[key] != key and known[key] in recipe:
            raise ValueError(f"recipe `{path}` has both `{key}` and `{known[key]}`, which mean the same; give one")
    if recipe.get("hub_token") is not None:
        raise ValueError(
            f"recipe `{path}` has `hub_token`, but recipes are meant to be shared; remove it, and log in with "
            "`hf auth login`, or set HF_TOKEN"
        )
    return {known[key]: value for key, value in recipe.items()}


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
    head = [f"Repeat with: deit-hf train {path} --output_dir ANOTHER"]
    if not repeats:
        head = ["Options of a training in Python. Its model, data and other arguments are not included."]
    if any(name.startswith(CHANGED) for name in effective_recipe or ()):
        head = ["Options at the end of the run. They do not repeat it, because some options changed during the run."]
    if effective_recipe:
        head += ["Effective settings of the run:", *as_block(effective_recipe).splitlines()]
    comments = "".join(f"# {line}\n" for line in head)
    write_text(path, f"{comments}{text}")


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
