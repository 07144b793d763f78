"""Pre-commit and CI run the same four checks."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
CHECKS = {"ruff check .", "ruff format --check .", "mypy", "pytest -n 2 --dist loadfile"}


def test_ci_and_pre_commit_run_the_same_four_checks():
    script = (ROOT / "scripts" / "test.sh").read_text()
    script = script.replace('"${TEST_PROCESSES:-2}"', "2").replace(' "$@"', "")
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert set(re.findall(r"^\.venv/bin/(?!python)(.+)$", script, re.MULTILINE)) == CHECKS
    assert {hook["entry"] for hook in hooks} == CHECKS
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "exec bash scripts/test.sh"
