"""Only one run at a time uses a directory; a run whose process has ended does not block it."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate import PartialState
from filelock import FileLock
from support.patience import PATIENCE

from deit_hf.reliability.run_lock import HOLDER, LOCK, run_lock

# a process that trains here, with a data worker that lives two seconds longer, as torch's workers can
HOLDER_PROCESS = f"""
import os, sys, time
from accelerate import PartialState
from deit_hf.reliability.run_lock import run_lock
with run_lock(sys.argv[1], PartialState(cpu=True)):
    trainer = os.getpid()
    if os.fork() == 0:
        while os.getppid() == trainer:
            time.sleep(0.05)
        time.sleep(2)
        os._exit(0)
    print("held", flush=True)
    time.sleep({PATIENCE})
"""


@pytest.fixture
def state() -> PartialState:
    return PartialState(cpu=True)


def start_holder(directory: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER_PROCESS, str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_second_run_is_refused_with_its_holder_and_gets_the_directory_once_that_is_killed(tmp_path: Path, state):
    process = start_holder(tmp_path)
    message = rf"`output_dir` {tmp_path} is in use by another run: process {process.pid} on \S+, since 20\d\d-.*; wait"
    with pytest.raises(ValueError, match=message), run_lock(tmp_path, state):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / HOLDER).is_file()  # the killed process could not delete it
    with run_lock(tmp_path, state):
        assert json.loads((tmp_path / HOLDER).read_text())["pid"] == os.getpid()


def test_a_process_may_take_it_twice_and_gives_it_back_at_the_end(tmp_path: Path, state):
    with run_lock(tmp_path, state):
        with run_lock(tmp_path, state):
            pass
        assert (tmp_path / HOLDER).is_file()  # still held
    assert {path.name for path in tmp_path.iterdir()} == {LOCK}
    with run_lock(tmp_path, state):
        pass


def test_a_refused_run_leaves_no_new_directory(tmp_path: Path, state):
    with pytest.raises(ValueError, match="does not fit"), run_lock(tmp_path / "new" / "run", state):
        raise ValueError("does not fit")
    assert not (tmp_path / "new").exists()


def test_what_a_run_has_written_stays(tmp_path: Path, state):
    with run_lock(tmp_path / "run", state):
        (tmp_path / "run" / "model").touch()
    assert (tmp_path / "run" / "model").exists()


# the second process must not wait for the first, which is refused
RANK = """
import sys, time
from accelerate import PartialState
from deit_hf.reliability.run_lock import decided_by_first, run_lock
state = PartialState(cpu=True)
print("shared", decided_by_first(lambda: f"by {state.process_index}", state))
try:
    with run_lock(sys.argv[1], state):
        print("took it")
except ValueError as error:
    print(state.process_index, error)
"""


def test_all_processes_of_a_run_learn_of_a_refusal(tmp_path: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with FileLock(tmp_path / LOCK):
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", RANK, str(tmp_path)],
                env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in "01"
        ]
        outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    for rank, output in enumerate(outputs):
        assert output.startswith("shared by 0\n")
        assert f"{rank} `output_dir` {tmp_path} is in use by another run: a process that has just started" in output
