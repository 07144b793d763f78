"""The recipes that this package ships, by name; imports no torch, because the list should be printed at once."""

import difflib
import os
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "recipes"
YAML = (".yaml", ".yml")  # endings of recipe files


def recipe_names() -> list[str]:
    """Names of the shipped recipes, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def find_recipe(name: str) -> Path:
    """Returns the file of a recipe.

    Args:
        name: of a shipped recipe, such as `distill-hard-tiny`, or the path of a YAML file. Only an argument that ends
            in .yaml or .yml, or has a directory, is a path.

    Raises:
        FileNotFoundError: there is no such recipe or file; names the nearest recipes.
    """
    is_path = name.endswith(YAML) or any(separator in name for separator in (os.sep, os.altsep) if separator)
    path = Path(name) if is_path else RECIPES / f"{name}.yaml"
    if name and path.is_file():
        return path
    close = difflib.get_close_matches(Path(name).stem if is_path else name, recipe_names(), n=3)
    hint = f"did you mean {' or '.join(f'`{each}`' for each in close)}?" if close else "see deit-hf recipes for all"
    if not is_path and Path(name).is_file():
        hint = f"`{name}` here is a file, but the name of a file must end in .yaml"
    elif is_path and not close:
        hint = f"the recipes of this package (see deit-hf recipes) are in {RECIPES}"
    raise FileNotFoundError(f"no recipe {'at ' if is_path else ''}`{name}`; {hint}")


def summary(name: str) -> str:
    """The first line of the header of a shipped recipe, which describes it."""
    first, _, _ = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")
    return first.removeprefix("# ").rstrip(".")
