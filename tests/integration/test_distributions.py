"""The wheel and the sdist contain all files that the package needs, and work without the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USE = """
import sys
from importlib.resources import files
import deit_hf

package = files("deit_hf")
print(package)
print(*sorted(path.name for path in (package / "recipes").iterdir()))
print((package / "hub" / "templates" / "model_card.md").is_file(), (package / "py.typed").is_file())
from deit_hf.hub.model_card import render_model_card
from deit_hf.hub.model_facts import ModelFacts
print("# tiny" in render_model_card(ModelFacts("tiny", (32, 32), 5, two_heads=True)))
"""


def run(*command: str, cwd: Path, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, built from a copy, so that files of an earlier build do not get into the wheel."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT / "deit_hf", source / "deit_hf", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run("-m", "build", "--no-isolation", "--outdir", str(built), cwd=source)
    return built


@pytest.mark.parametrize("kind", ["deit_hf-*.whl", pytest.param("deit_hf-*.tar.gz", marks=pytest.mark.slow)])
def test_an_installed_distribution_has_recipes_templates_and_types(kind: str, distributions: Path, tmp_path: Path):
    (file,) = distributions.glob(kind)
    target, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target))
    run("-m", "pip", "install", *options, str(file), cwd=empty)
    place, recipes, *facts = run("-c", USE, cwd=empty, PYTHONPATH=str(target)).splitlines()
    assert Path(place) == target / "deit_hf"
    assert recipes.split() == sorted(path.name for path in (ROOT / "deit_hf" / "recipes").iterdir())
    assert facts == ["True True", "True"]
    command = [target / "bin" / "deit-hf", "recipes", "small-data"]
    printed = subprocess.run(command, cwd=empty, capture_output=True, env={**os.environ, "PYTHONPATH": str(target)})
    assert printed.stdout == (ROOT / "deit_hf" / "recipes" / "small-data.yaml").read_bytes(), printed.stderr
