"""The recipes of this package: deit-hf recipes [NAME] [--copy FILE]

Without a name, lists them with one line each. NAME prints a recipe: its header names the row of the paper, the
command, the machine and the expected top-1. --copy writes the recipe to a file, to change and train with it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from ..argument_checks import check_files
from ..training.shipped_recipes import RECIPES, YAML, find_recipe, recipe_names, summary
from .errors import one_line_errors
from .parser import CommandParser


def main(arguments: Sequence[str] | None = None) -> None:
    """Lists the recipes, or prints or copies one."""
    parser = CommandParser(prog="deit-hf recipes", description=__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="recipe to print")
    parser.add_argument("--copy", metavar="FILE", type=Path, help="YAML file to write it to; must not exist")
    options = parser.parse_args(arguments)
    with one_line_errors():
        if options.name is None:
            if options.copy is not None:
                raise ValueError(f"`copy` is {options.copy}, but no recipe is named; name one of {_listed()}")
            sys.stdout.write(table())
            return
        path = find_recipe(options.name)
        if path.parent != RECIPES:
            raise ValueError(f"`{options.name}` is a file of your own; name a recipe of this package: {_listed()}")
        if options.copy is None:
            sys.stdout.write(path.read_text(encoding="utf-8"))
        else:
            _copy(path, options.copy)


def table() -> str:
    """The names of all recipes, with one line each."""
    width = max(map(len, recipe_names()))
    return "".join(f"{name:{width}}  {summary(name)}\n" for name in recipe_names())


def _listed() -> str:
    return ", ".join(recipe_names())


def _copy(recipe: Path, file: Path) -> None:
    """Writes a recipe to a new file."""
    if file.suffix not in YAML:
        raise ValueError(f"`copy` is {file}, but must end in .yaml, so that deit-hf train finds it as a file")
    check_files({"copy": file})
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(recipe.read_text(encoding="utf-8"))
    except FileExistsError:
        raise FileExistsError(f"`{file}` already exists; name another file, or delete it") from None
    print(f"wrote {file}; train with: deit-hf train {file}")
