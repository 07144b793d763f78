"""Public names are imported on first use, and are the same for Python, editors and type checkers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import deit_hf

ROOT = Path(__file__).parents[1]
PUBLIC = {
    "DeiTConfig",
    "DeiTForImageClassification",
    "DeiTForImageClassificationWithTeacher",
    "DeiTModel",
    "DistillationArguments",
    "DistillationTrainer",
    "Teacher",
    "convert_checkpoint",
    "distill",
    "hard_distillation_loss",
    "soft_distillation_loss",
}
LIGHT = ("deit_hf", "deit_hf.commands.compare", "deit_hf.commands.push", "deit_hf.argument_checks")


def test_the_public_names_are_those_of_the_design():
    assert set(deit_hf.__all__) == PUBLIC
    assert set(dir(deit_hf)) >= PUBLIC | {"__version__"}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_is_the_object_of_its_module(name: str):
    value = getattr(deit_hf, name)
    assert value.__name__ == name
    assert getattr(sys.modules[value.__module__], name) is value


def test_type_checkers_are_told_the_modules_that_python_loads_from():
    tree = ast.parse((ROOT / "deit_hf" / "__init__.py").read_text(encoding="utf-8"))
    told = {
        alias.name: f"deit_hf.{node.module}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
    }
    assert told == {name: getattr(deit_hf, name).__module__ for name in PUBLIC}


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'deit_hf' has no attribute 'Student'"):
        _ = deit_hf.Student


@pytest.mark.parametrize("module", LIGHT)
def test_what_needs_no_torch_does_not_import_it(module: str):
    heavy = "{'torch', 'transformers', 'timm', 'torchvision', 'accelerate'}"
    code = f"import sys, {module}; print(*sorted({heavy} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stdout + result.stderr
