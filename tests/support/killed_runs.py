"""Kills trainings at random moments and restarts them: python tests/support/killed_runs.py SPECIFICATION.json

Prints as JSON how often a run was killed, at which kinds of moments, and all differences from an uninterrupted run.
Runs are forked from a process that has imported all libraries, so that a restart is fast. A kill ends a whole process,
and a restart gets only the command.

A specification has `folder`, `recipe` (options of scripts/train.py), `trials`, `seed`, and optionally `processes` (1),
`killed_rank` (0) and `signal` (SIGKILL).
"""

import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.optim
import transformers.modeling_utils
import yaml

from deit_hf.commands.errors import one_line_errors
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.model.arguments import ModelArguments
from deit_hf.training.arguments import DistillationArguments
from deit_hf.training.ema import AveragedWeights
from deit_hf.training.recipe_file import parse_recipe
from deit_hf.training.run import train
from deit_hf.training.trainer import DistillationTrainer

STOPPED = 75
FILE_EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"}


class Moments:
    """Counts the moments of a process, and sends it a signal at one of them; a kill may leave a half-written file."""

    def __init__(self, output_dir: str, number: int | None, sent: signal.Signals, notes: Path):
        self.output_dir, self.number, self.sent, self.notes = output_dir, number, sent, notes
        self.pid, self.count = os.getpid(), 0

    def pass_by(self, kind: str, before_the_kill: Callable[[], None] | None = None) -> None:
        if os.getpid() != self.pid:
            return  # a data worker
        self.count += 1
        if self.count == self.number:
            if before_the_kill is not None and self.sent == signal.SIGKILL:  # other signals let the file be completed
                before_the_kill()
            self.notes.write_text(kind)
            os.kill(self.pid, self.sent)

    def watch(self) -> None:
        self._around(DistillationTrainer, "training_step")
        self._around(DistillationTrainer, "prediction_step")
        self._around(torch.optim.AdamW, "step")
        self._around(AveragedWeights, "update")
        self._around_writing(torch, "save", place=1)
        self._around_writing(transformers.modeling_utils, "safe_save_file", place=1)
        sys.addaudithook(self._on_event)

    def _on_event(self, event: str, args: tuple) -> None:
        is_file = event in FILE_EVENTS and isinstance(args[0], (str, os.PathLike))
        only_reads = event == "open" and "w" not in str(args[1])
        if is_file and self.output_dir in os.fspath(args[0]) and not only_reads:
            self.pass_by(event)

    def _around(self, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            self.pass_by(f"before {name}")
            result = original(*args, **kwargs)
            self.pass_by(f"after {name}")
            return result

        setattr(owner, name, watched)

    def _around_writing(self, owner: Any, name: str, place: int) -> None:
        original = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if isinstance(args[place], (str, os.PathLike)):
                path = Path(args[place])
                self.pass_by(f"half of {name}", lambda: os.truncate(path, path.stat().st_size // 2))
            return result

        setattr(owner, name, watched)


def start(folder: Path, options: list[str], number: int | None, spec: dict, rank: int, port: int) -> int:
    """Forks a process of a run, which writes the number of its moments to `folder`/count-RANK."""
    pid = os.fork()
    if pid:
        return pid
    processes = spec.get("processes", 1)
    if processes > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        os.environ |= {name: str(value) for name, value in names.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    log = os.open(folder / f"log-{rank}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sent = signal.Signals[spec.get("signal", "SIGKILL")]
    moments = Moments(
        str(folder / "run"), number if rank == spec.get("killed_rank", 0) else None, sent, folder / "kind"
    )
    code = 1
    try:
        moments.watch()
        with one_line_errors():
            train(*parse_recipe((ModelArguments, DataArguments, DistillationArguments), options, ""))
        code = 0
    except SystemExit as leave:
        code = int(leave.code or 0)
    finally:
        (folder / f"count-{rank}").write_text(str(moments.count))
        sys.stdout.flush()
        os._exit(code)


def run(
    folder: Path, options: list[str], number: int | None, spec: dict, kill_after: float | None = None
) -> list[int]:
    """Returns the exit codes of all processes, negative for a signal. If one is killed, the others are killed, too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pids = [start(folder, options, number, spec, rank, port) for rank in range(spec.get("processes", 1))]
    codes: dict[int, int] = {}
    deadline = time.monotonic() + 900  # as PATIENCE of the tests
    began = time.monotonic()
    while len(codes) < len(pids):
        for pid in pids:
            if pid not in codes:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    codes[pid] = os.waitstatus_to_exitcode(status)
        is_late = kill_after is not None and time.monotonic() - began > kill_after
        if any(code < 0 for code in codes.values()) or is_late or time.monotonic() > deadline:
            for pid in set(pids) - set(codes):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return [codes[pid] for pid in pids]


def tensors_of(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in tensors_of(part, f"{name}/{key}").items()}
    if isinstance(value, list):
        return {k: v for i, part in enumerate(value) for k, v in tensors_of(part, f"{name}/{i}").items()}
    return {name: value}


def results(output_dir: Path, *, with_optimizer: bool) -> dict[str, Any]:
    """Everything that must be equal bit for bit; leaves out times."""
    found: dict[str, Any] = {
        str(path.relative_to(output_dir)): path.read_bytes()
        for path in output_dir.rglob("*.safetensors")
        if "checkpoint" not in str(path.relative_to(output_dir))
    }
    state = json.loads((output_dir / "trainer_state.json").read_text())
    measured = ("runtime", "since_step", "per_second", "preparation_time", "data_wait")
    for i, entry in enumerate(state["log_history"]):
        found[f"log {i}"] = {k: v for k, v in entry.items() if not k.endswith(measured)}
    found["eval"] = {
        k: v for k, v in json.loads((output_dir / "eval_results.json").read_text()).items() if not k.endswith(measured)
    }
    last = output_dir / f"checkpoint-{state['max_steps']}"
    for name in ("optimizer.pt", "scheduler.pt") if with_optimizer else ():
        for key, value in tensors_of(torch.load(last / name, weights_only=True)).items():
            found[f"{name}{key}"] = value.numpy().tobytes() if isinstance(value, torch.Tensor) else value
    return found


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def campaign(spec: dict) -> dict[str, Any]:
    random.seed(spec["seed"])
    folder = Path(spec["folder"])
    (folder / "recipe.yaml").write_text(yaml.safe_dump(spec["recipe"]))
    options = [str(folder / "recipe.yaml"), "--output_dir", str(folder / "run")]
    began = time.monotonic()
    if (codes := run(folder, options, None, spec)) != [0] * spec.get("processes", 1):
        raise SystemExit(f"the run failed with {codes}: {(folder / 'log-0').read_text()[-3000:]}")
    duration = time.monotonic() - began
    last_step = json.loads((folder / "run" / "trainer_state.json").read_text())["global_step"]
    # without one here, a run that got a signal may still have one
    with_optimizer = (folder / "run" / f"checkpoint-{last_step}").is_dir()
    expected = results(folder / "run", with_optimizer=with_optimizer)
    num_moments = int((folder / f"count-{spec.get('killed_rank', 0)}").read_text())
    kinds: Counter[str] = Counter()
    report: dict[str, Any] = {"moments": num_moments, "differences": {}, "files": len(expected)}
    for trial in range(spec["trials"]):
        shutil.rmtree(folder / "run")
        places = [random.randint(1, num_moments), random.randint(1, num_moments)]  # the second for the restarted run
        for place in places:
            (folder / "kind").unlink(missing_ok=True)
            at_a_time = spec.get("signal", "SIGKILL") == "SIGKILL" and random.random() < 0.3
            after = random.uniform(0.2, 1.0) * duration if at_a_time else None
            codes = run(folder, options, None if at_a_time else place, spec, after)
            if any(code < 0 or code == STOPPED for code in codes):
                kinds["at a time" if at_a_time else (folder / "kind").read_text()] += 1
            elif any(codes):
                report["differences"][f"trial {trial}"] = [f"codes {codes} at {place}"]
        codes = run(folder, options, None, spec)
        if any(codes):
            report["differences"][f"trial {trial}"] = [
                f"restart gave {codes}: {(folder / 'log-0').read_text()[-2000:]}"
            ]
        elif differing := differences(expected, results(folder / "run", with_optimizer=with_optimizer)):
            report["differences"][f"trial {trial} {places}"] = differing
    return {**report, "kills": kinds.total(), "kinds": dict(kinds)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(campaign(json.loads(Path(sys.argv[1]).read_text())), indent=1))
