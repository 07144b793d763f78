"""Private names of other libraries: the table in CONTRIBUTING.md lists all of them, and each still exists.

A name is private if it begins with one underscore. Fails with the name of the entry when a release moves it. A name
that the package defines itself somewhere counts as its own, unless it belongs to `Trainer` or a base class.
"""

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import transformers.trainer
from torch import nn
from transformers import PreTrainedConfig

import deit_hf

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "deit_hf"
MOST = 10
ROW = re.compile(r"^\| `(?P<owner>[\w.]+)\.(?P<name>_\w+)` \| (?P<why>[^|]+) \| (?P<where>[^|]+) \|$", re.MULTILINE)
TABLE = {row["name"]: row for row in ROW.finditer((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))}
# Made by the interpreter in every class, public members of a named tuple, and a documented function.
NOT_PRIVATE = {"_abc_impl", "_replace", "_asdict", "_fields", "_field_defaults", "_make", "_exit"}
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def is_private(name: str) -> bool:
    return re.match(r"_[A-Za-z]", name) is not None and name not in NOT_PRIVATE


def defined_here() -> set[str]:
    """Names of functions, classes, variables and attributes that the package itself assigns."""
    names = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names |= (
                    {node.attr} if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls") else set()
                )
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
    return names


def names_read(tree: ast.Module) -> set[str]:
    """Private names in attributes, imports, arguments of calls, parameters, and `getattr` with a string."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level):
            module = getattr(node, "module", None) or ""
            names |= {part for alias in node.names for part in f"{module}.{alias.name}".split(".")}
        elif isinstance(node, ast.keyword | ast.arg):
            names.add(node.arg or "")
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "setattr", "hasattr"):
            names |= {
                each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)
            }
    return {name for name in names if is_private(name)}


def names_overridden() -> set[str]:
    """Private members of classes here that a base class of another library has as well."""
    found = set()
    for info in pkgutil.walk_packages(deit_hf.__path__, "deit_hf."):
        if info.name.endswith("__main__"):
            continue
        for _, each in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):
            if not each.__module__.startswith("deit_hf"):
                continue
            foreign = [base for base in each.__mro__[1:] if not base.__module__.startswith("deit_hf")]
            found |= {name for name in vars(each) if is_private(name) and any(hasattr(base, name) for base in foreign)}
    return found


def names_used() -> set[str]:
    """All private names of other libraries that the package uses."""
    read = set().union(*map(names_read, TREES.values()))
    of_trainer = set(re.findall(r"self\.(_\w+)", inspect.getsource(transformers.trainer)))
    return (read - defined_here()) | (read & of_trainer) | names_overridden()


def test_the_table_lists_all_private_names_and_no_others():
    assert names_used() == set(TABLE)


def test_there_are_few_of_them():
    assert 0 < len(TABLE) <= MOST


@pytest.mark.parametrize("name", TABLE)
def test_the_library_still_has_the_name(name: str):
    module, _, owner = TABLE[name]["owner"].rpartition(".")
    found = getattr(importlib.import_module(module), owner)
    example = found() if found in (nn.Module, PreTrainedConfig) else found  # attributes of instances
    assert hasattr(example, name), f"{TABLE[name]['owner']} has no `{name}` any more"


@pytest.mark.parametrize("name", TABLE)
def test_the_table_names_the_files_that_use_it(name: str):
    told = set(re.findall(r"`([\w/.]+)`", TABLE[name]["where"]))
    found = {str(path.relative_to(PACKAGE)) for path, tree in TREES.items() if _mentions(tree, name)}
    assert told == found


def _mentions(tree: ast.Module, name: str) -> bool:
    return any(
        name in (getattr(node, "attr", None), getattr(node, "id", None), getattr(node, "name", None))
        for node in ast.walk(tree)
    )
