"""Recipes: YAML files of options, overridden by flags; read and written."""

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

RECIPES = Path(__file__).parents[1] / "recipes"  # of this package
CHANGED = "changed at step"  # starts the lines of a run whose options changed

# Options that a repeated run must not take over: secrets, what depends on the machine, and what deletes or resumes.
NOT_REPEATED = {"hub_token", "overwrite_output_dir", "resume_from_checkpoint", "dataloader_pin_memory", "local_rank"}
NOT_REPEATED |= {"allow_changes"}
# Old names of transformers that only mirror new ones, and an object that is no option of a file.
NOT_REPEATED |= {"gradient_checkpointing", "gradient_checkpointing_kwargs", "accelerator_config"}


def parse_recipe(dataclass_types: Sequence[type], arguments: Sequence[str], description: str | None = None) -> tuple:
    """Options from `[RECIPE.yaml] [--field value ...]`; a flag wins over the recipe, the recipe over the default.

    Args:
        dataclass_types: classes of options; together their fields are what a recipe may hold.
        arguments: the command line without the program's name.
        description: for `--help`.

    Returns:
        One instance of each class, in the same order.

    Raises:
        FileNotFoundError: there is no such recipe.
        ValueError: the recipe is no YAML mapping or has an unknown key, or what the classes raise.
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
    """Raises what argparse would say below pages of usage."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{without_tokens(message)}; see --help for all options")


def _set_defaults(parser: _Parser, recipe: dict[str, Any]) -> None:
    """Makes the recipe's values the defaults."""
    hints = {name: str(hint) for cls in parser.dataclass_types for name, hint in get_type_hints(cls).items()}
    for action in parser.arguments:
        if action.dest in recipe:
            action.required = False
            parser.set_defaults(**{action.dest: _as_default(action, recipe[action.dest], hints[action.dest])})


def _as_default(action: argparse.Action, value: Any, hint: str) -> Any:
    """A recipe's value; numbers and words as text, which argparse then reads and checks as it does for a flag."""
    if value is False and "Strategy" in hint:
        return "no"  # as in `save_strategy: no`; YAML reads the word as a boolean
    is_number = action.type in (int, float)
    refused: tuple[type, ...] = (list, dict) if is_number or action.choices or action.type is string_to_bool else ()
    refused += (bool,) if is_number else ()
    refused += (NoneType,) if action.default is not None else ()
    if isinstance(value, refused):
        raise ValueError(f"option `{action.dest}` of the recipe is {value!r}, but must be a single value of its type")
    return value if isinstance(value, (bool, list, dict, NoneType)) else str(value)


def read_recipe(path: str, known: set[str]) -> dict[str, Any]:
    """The options in a recipe file, all of them among the `known` names."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no recipe at `{path}`; the ones of this package are in {RECIPES}")
    try:
        recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe `{path}` is no YAML: {_problem(error)}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"recipe `{path}` holds a {type(recipe).__name__}, but must hold lines of `option: value`")
    for key in recipe:
        if key not in known:
            raise ValueError(f"recipe `{path}` has the unknown option `{key}`{nearest_option(str(key), known)}")
    if recipe.get("hub_token") is not None:
        raise ValueError(
            f"recipe `{path}` has `hub_token`, but recipes are for sharing; take it out, and log in with `hf auth "
            "login`, or set HF_TOKEN"
        )
    return recipe


def _problem(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """What is wrong and where, without the line itself, which may hold a token."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    line = "" if error.problem_mark is None else f" in line {error.problem_mark.line + 1}"
    return ", ".join(part for part in (error.context, error.problem) if part) + line


def write_recipe(
    path: str | Path, *options: Any, effective_recipe: Mapping[str, str] | None = None, repeats: bool = True
) -> None:
    """Writes what is in force as a recipe: each option of ours, and of transformers' what differs from its default.

    The command that reads it repeats the run. Tokens are left out.

    Args:
        path: of the file.
        options: instances of the classes of options.
        effective_recipe: what followed from them in this run (run_summary.py), as comments.
        repeats: whether the options are all that the run was made of.
    """
    recipe: dict[str, Any] = {}
    for group in options:
        recipe.update(effective_options(group))
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    head = [f"Repeat with: python scripts/train.py {path} --output_dir ANOTHER"]
    if not repeats:
        head = ["The options of a training in Python. Its model, data and other arguments are not among them."]
    if any(name.startswith(CHANGED) for name in effective_recipe or ()):
        head = ["The options at the end of the run, which does not repeat with them: some changed on the way."]
    if effective_recipe:
        head += ["Effective settings, with what followed from the options:", *as_block(effective_recipe).splitlines()]
    comments = "".join(f"# {line}\n" for line in head)
    Path(path).write_text(f"{comments}{text}", encoding="utf-8")


def as_block(recipe: Mapping[str, str]) -> str:
    """What is in force as text for people, a line for each matter."""
    width = max(map(len, recipe))
    return "\n".join(f"{name:{width}}  {value}" for name, value in recipe.items())


def effective_options(group: Any) -> dict[str, Any]:
    """Each option of ours, and of transformers' what differs from its default, as YAML's own types."""
    values = {}
    for option in dataclasses.fields(group):
        value = _plain(getattr(group, option.name))
        default = option.default if option.default_factory is dataclasses.MISSING else option.default_factory()
        is_ours = not isinstance(group, TrainingArguments) or option.name in type(group).__annotations__
        derived = option.name == "learning_rate" and group.base_learning_rate is not None
        derived |= option.name == "use_cpu" and not torch.accelerator.is_available()  # the machine has nothing else
        # transformers resolves many of its None into an empty value, which says no more
        differs = value != default and (value not in ([], {}, "", None) or bool(default))
        if option.name not in NOT_REPEATED and not derived and (is_ours or differs):
            values[option.name] = value
    return values


def _plain(value: Any) -> Any:
    """The value as YAML's own types."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, float):
        return float(value)  # YAML knows no subclass
    return os.fspath(value) if isinstance(value, os.PathLike) else value
