"""SIGTERM and SIGINT: the first saves a checkpoint and exits with code 75, a second one exits at once."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.patience import PATIENCE

from deit_hf import DeiTForImageClassificationWithTeacher, DistillationArguments, DistillationTrainer
from deit_hf.reliability.checkpoints import last_complete_checkpoint
from deit_hf.reliability.stop_signals import EXIT_CODE, LeaveOnSignal, StopSignals, TrainingStopped

ROOT = Path(__file__).parents[2]
OPTIONS = {
    "per_device_train_batch_size": 8,
    "max_steps": 4,
    "save_strategy": "no",
    "learning_rate": 1e-3,
    "random_augment": "none",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}
RECIPE = """
variant: deit_tiny_distilled_patch16_224
image_size: 16
config_overrides: {patch_size: 8, hidden_size: 24, intermediate_size: 48, num_hidden_layers: 2}
dataset_name: digits
per_device_train_batch_size: 8
max_steps: 100000
warmup_epochs: 0
save_strategy: "no"
logging_steps: 1
dataloader_num_workers: 2
use_cpu: true
disable_tqdm: false
"""


def make_trainer(directory, tiny_config, toy_rows, signal_at: int = 0, **options) -> DistillationTrainer:
    """A trainer whose process receives SIGTERM in the forward pass of one step."""
    args = DistillationArguments(str(directory), **{**OPTIONS, **options})
    student = DeiTForImageClassificationWithTeacher(tiny_config)
    trainer = DistillationTrainer(student, args, train_dataset=toy_rows, eval_dataset=toy_rows)
    calls = iter(range(1, 1000))

    def send(*_: object) -> None:
        if next(calls) == signal_at:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer.model.register_forward_pre_hook(send)
    return trainer


def test_training_saves_one_checkpoint_and_raises_with_its_own_code(tmp_path, tiny_config, toy_rows, caplog):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingStopped, match="stopped after step 2; start the same command again") as stopped:
        make_trainer(tmp_path, tiny_config, toy_rows, signal_at=2).train()
    assert stopped.value.code == EXIT_CODE == 75
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["checkpoint-2"]
    assert last_complete_checkpoint(tmp_path) is not None
    assert signal.getsignal(signal.SIGTERM) == handler


def test_message_names_the_option_that_would_start_anew(tmp_path, tiny_config, toy_rows):
    with pytest.raises(TrainingStopped, match="the same command again without `overwrite_output_dir` to resume"):
        make_trainer(tmp_path, tiny_config, toy_rows, signal_at=1, overwrite_output_dir=True).train()


def test_stopped_trainer_can_train_again(tmp_path, tiny_config, toy_rows):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, signal_at=2)
    with pytest.raises(TrainingStopped):
        trainer.train()
    assert trainer.train(resume_from_checkpoint=True).global_step == 4


def test_signal_in_the_last_step_of_an_epoch_saves_after_the_evaluation(tmp_path, tiny_config, toy_rows):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, signal_at=5, max_steps=8, eval_strategy="epoch")
    with pytest.raises(TrainingStopped):
        trainer.train()
    assert "eval_loss" in (tmp_path / "checkpoint-5" / "trainer_state.json").read_text()


def test_training_in_another_thread_leaves_signals_alone(tmp_path, tiny_config, toy_rows):
    handler, seen = signal.getsignal(signal.SIGTERM), []

    def train() -> None:
        with StopSignals() as signals:
            seen.append(signal.getsignal(signal.SIGTERM))
            seen.append(signals.agreed())

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [handler, False]


class StopsWhenDeleted:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("goes_on_for", [0, PATIENCE], ids=["at the end", "after a second"])
def test_signal_in_a_destructor_is_not_lost(goes_on_for: float):
    """Python discards an exception there, and the run would train on."""
    handler, passed = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with LeaveOnSignal():
            stops = StopsWhenDeleted()
            del stops
            passed.append(True)
            end = time.monotonic() + goes_on_for
            while time.monotonic() < end:
                time.sleep(0.01)

    with pytest.raises(TrainingStopped):
        work()
    assert passed
    assert signal.getsignal(signal.SIGTERM) == handler


def started(folder: Path) -> subprocess.Popen:
    """Starts the script in a process group of its own, and returns after its first log of a loss."""
    (folder / "recipe.yaml").write_text(RECIPE)
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "recipe.yaml", "--output_dir", "run"]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "  loss " in line:
            return process
    raise AssertionError(f"the run ended with {process.wait()}")


@pytest.mark.slow
def test_ctrl_c_of_a_terminal_reaches_all_processes_and_the_run_is_saved(tmp_path: Path):
    process = started(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == EXIT_CODE
    assert output.count("SIGINT: saving a checkpoint after this step, then exiting; a second") == 1
    assert "start the same command again to resume" in output
    assert "Traceback" not in output
    assert last_complete_checkpoint(tmp_path / "run") is not None
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 1


@pytest.mark.slow
def test_group_wide_sigterm_of_a_scheduler_is_saved(tmp_path: Path):
    process = started(tmp_path)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == EXIT_CODE, output
    assert last_complete_checkpoint(tmp_path / "run") is not None


WITH_A_WORKER = """
import multiprocessing, os, signal, sys, time
from torch.utils.data import DataLoader
from deit_hf.reliability.stop_signals import leaves_signals_to_the_main_process

class Processes:
    def __len__(self):
        return 100

    def __getitem__(self, index):
        return os.getpid()


def train():
    loader = DataLoader(
        Processes(),
        num_workers=1,
        worker_init_fn=leaves_signals_to_the_main_process(),
        multiprocessing_context=sys.argv[1],
    )
    batches = iter(loader)
    worker = next(batches).item()
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(worker, number)
        time.sleep(0.2)
    assert set(map(int, batches)) == {worker}
    train.batches = iter(loader)  # its worker still waits for requests when Python exits
    print(next(train.batches).item(), flush=True)

if __name__ == "__main__":
    train()
    if sys.argv[2:] == ["launched"]:  # like notebook_launcher
        process = multiprocessing.get_context("fork").Process(target=train)
        process.start()
        process.join()
"""


@pytest.mark.parametrize(
    "options", [["fork", "launched"], pytest.param(["spawn"], marks=pytest.mark.slow)], ids=lambda value: value[0]
)
def test_workers_outlive_signals_of_others_and_end_with_the_main_process(tmp_path: Path, options: list[str]):
    """Fails, after a long time, if multiprocessing waits at the exit for a worker that ignores its signal."""
    program = tmp_path / "program.py"
    program.write_text(WITH_A_WORKER)
    command = [sys.executable, str(program), *options]
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=path)
    assert result.returncode == 0, result.stderr
    workers = result.stdout.split()
    assert len(workers) == len(options)
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(int(worker), 0)


def test_second_signal_leaves_at_once(tmp_path, tiny_config, toy_rows):
    code = f"""
import os, signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
from deit_hf.reliability.stop_signals import StopSignals
with StopSignals() as signals:
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.agreed()
    print("noted", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep({PATIENCE})
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert result.stdout == "noted\n"
    assert result.returncode == -signal.SIGTERM


def test_signal_before_anything_is_trained_leaves_with_the_same_code(tmp_path: Path):
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from deit_hf.reliability.stop_signals import LeaveOnSignal
with LeaveOnSignal():
    os.kill(os.getpid(), signal.SIGINT)
    print("not reached")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (result.returncode, result.stdout) == (EXIT_CODE, "")
    assert "SIGINT: nothing to save; start the same command again to continue" in result.stderr


# ---- notebooks and prompts, which must not exit ----


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets `sys.ps1`, as Jupyter, IPython and Python's prompt do."""
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)


@pytest.mark.usefixtures("notebook")
def test_first_ctrl_c_in_a_notebook_saves_and_raises_what_python_raises(tmp_path, tiny_config, toy_rows):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows)
    trainer.model.register_forward_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGINT), prepend=True)
    interrupted = None
    try:
        trainer.train()
    except KeyboardInterrupt as error:
        interrupted = error
    assert str(interrupted) == "stopped after step 1; continue with `train(resume_from_checkpoint=True)`"
    assert last_complete_checkpoint(tmp_path) is not None


@pytest.mark.usefixtures("notebook")
def test_second_ctrl_c_in_a_notebook_raises_at_once_and_ends_no_process():
    raised = False
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == "SIGINT"
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raised = True
    assert raised


@pytest.mark.usefixtures("notebook")
def test_sigterm_of_a_notebook_is_still_an_end(tmp_path, tiny_config, toy_rows):
    with pytest.raises(TrainingStopped):
        make_trainer(tmp_path, tiny_config, toy_rows, signal_at=2).train()


@pytest.mark.usefixtures("notebook")
def test_ctrl_c_outside_the_steps_of_a_notebook_is_a_keyboard_interrupt():
    raised = False
    try:
        with LeaveOnSignal():
            os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raised = True
    assert raised
