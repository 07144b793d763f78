"""scripts/quickstart.sh passes its options; signals and the exit code are those of the command."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from support.patience import PATIENCE

SCRIPT = Path(__file__).parents[2] / "scripts" / "quickstart.sh"


def checkout(root: Path, command: str) -> list[str]:
    """A copy of the script in a checkout whose `.venv` has a stand-in for `deit-hf`; returns its command line."""
    (root / "scripts").mkdir()
    shutil.copy(SCRIPT, root / "scripts")
    binaries = root / ".venv" / "bin"
    binaries.mkdir(parents=True)
    for name, body in (("python", ":"), ("deit-hf", command)):
        (binaries / name).write_text(f"#!/usr/bin/env bash\n{body}\n", encoding="utf-8")
        (binaries / name).chmod(0o755)
    return ["bash", str(root / "scripts" / "quickstart.sh")]


def test_options_and_exit_code(tmp_path: Path):
    words = checkout(tmp_path, 'echo "$@"; exit 7')
    done = subprocess.run([*words, "--compare", "--seed", "3"], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (7, "distill digits --compare --seed 3\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_script_reaches_the_command(tmp_path: Path, number: signal.Signals):
    words = checkout(tmp_path, f"trap 'exit 42' {number.value}; echo ready; while :; do sleep 0.05; done")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(PATIENCE) == 42
