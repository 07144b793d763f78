"""The `deit-hf` command finds its sub-commands, and helps with a mistyped one."""

import contextlib
import inspect
import os
import signal
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

import deit_hf
from deit_hf.atomic_files import written_aside
from deit_hf.commands.main import COMMANDS, help_text, main

ROOT = Path(__file__).parents[2]
THERE = [name for name in COMMANDS if find_spec(f"deit_hf.commands.{name}")]


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code and output of `python -m deit_hf` in a new process."""
    process = subprocess.run([sys.executable, "-m", "deit_hf", *arguments], cwd=ROOT, capture_output=True, text=True)
    return process.returncode, process.stdout, process.stderr


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_has_two_lines_of_usage_a_line_for_each_command_and_three_examples(arguments: list[str], capsys):
    main(arguments)
    text = capsys.readouterr().out
    assert text == help_text()
    usage, commands, examples = text.split("\n\n")
    assert len(usage.splitlines()) == 2
    assert [line.split()[0] for line in commands.splitlines()[1:]] == list(COMMANDS)
    assert len(examples.splitlines()) == 4
    assert max(map(len, text.splitlines())) <= 110


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"deit-hf {deit_hf.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian", "x.yaml"], "unknown command trian; did you mean `train`?"),
        (["evalute"], "unknown command evalute; did you mean `evaluate`?"),
        (["zzz"], "unknown command zzz; see deit-hf --help for all"),
        (["--verson"], "unknown option --verson; did you mean `version`?"),
        (["hf_SECRETSECRETSECRETSECRETSECRETSE"], "unknown command <token>; see deit-hf --help for all"),
    ],
)
def test_unknown_command_names_the_nearest_in_one_line(arguments: list[str], message: str, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        main(arguments)
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize("name", THERE)
def test_every_command_takes_its_arguments(name: str):
    signature = inspect.signature(import_module(f"deit_hf.commands.{name}").main)
    assert list(signature.parameters) == ["arguments"]
    assert signature.parameters["arguments"].default is None


def test_module_runs_the_command_and_hands_out_its_exit_code():
    code, printed, error = run("compare", "--nme")
    assert (code, printed) == (2, "")
    assert error.startswith("error: unknown option --nme")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_command_after_its_temporary_files_are_deleted(tmp_path, monkeypatch, number: signal.Signals):
    def write(arguments: list[str]) -> None:
        with written_aside(tmp_path / "report") as aside:
            (aside / "report.html").write_text("half of the p")
            signal.raise_signal(number)

    monkeypatch.setattr("deit_hf.commands.main.import_module", lambda *_: SimpleNamespace(main=write))
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        main(["report"])
    assert stopped.value.code == 128 + number
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) is before


def test_signal_to_a_forked_worker_ends_only_the_worker(monkeypatch):
    codes = []

    def fork(arguments: list[str]) -> None:
        worker = os.fork()
        if worker == 0:
            with contextlib.suppress(SystemExit):  # which would run what is left of this test twice
                signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))

    monkeypatch.setattr("deit_hf.commands.main.import_module", lambda *_: SimpleNamespace(main=fork))
    main(["report"])
    assert codes == [128 + signal.SIGTERM]
