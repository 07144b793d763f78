"""A data worker that dies is reported in one line with likely causes."""

import os
import signal
from pathlib import Path

import datasets
import numpy as np
import pytest
from torch.multiprocessing.reductions import rebuild_storage_fd

from deit_hf import DeiTForImageClassificationWithTeacher, DistillationArguments, DistillationTrainer
from deit_hf.commands.errors import one_line_errors
from deit_hf.data import worker_crashes
from deit_hf.data.dataset import TrainingViews
from deit_hf.data.sampling import ViewKey
from deit_hf.data.worker_crashes import named_crashes

DEADLY_ROW = 13
REPORT = r"^a data worker died \(.*\)\. If it was killed .* memory .*/dev/shm.*: lower `dataloader_num_workers` or "


class DeadlyView:
    """Kills its process at the image of one row."""

    def __init__(self, view, end):
        self.view, self.end = view, end

    def __call__(self, image):
        if np.asarray(image)[0, 0, 0] == 5 * DEADLY_ROW:
            if self.end == "exit 1":
                os._exit(1)
            os.kill(os.getpid(), self.end)
        return self.view(image)


def make_trainer(tmp_path: Path, config, **options) -> DistillationTrainer:
    for i in range(40):  # each row has its own grey value, by which the view recognises the row
        path = tmp_path / f"{i}.png"
        path.write_bytes(datasets.Image().encode_example(np.full((20, 20, 3), 5 * i, np.uint8))["bytes"])
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    sources = [str(tmp_path / f"{i}.png") for i in range(40)]
    rows = datasets.Dataset.from_dict({"image": sources, "label": [i % 5 for i in range(40)]}, features=features)
    args = DistillationArguments(
        str(tmp_path / "run"),
        num_train_epochs=1,
        per_device_train_batch_size=8,
        repeated_augmentation=1,
        learning_rate=1e-3,
        warmup_epochs=0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    student = DeiTForImageClassificationWithTeacher(config)
    return DistillationTrainer(student, args, train_dataset=rows, eval_dataset=rows)


@pytest.mark.parametrize(
    ("end", "num_workers", "persistent"),
    [(signal.SIGKILL, 2, False), (signal.SIGSEGV, 1, True), ("exit 1", 2, True)],
)
def test_worker_that_dies_in_training_is_reported(tmp_path, tiny_config, end, num_workers, persistent):
    options = {"dataloader_num_workers": num_workers, "dataloader_persistent_workers": persistent}
    trainer = make_trainer(tmp_path, tiny_config, **options)
    trainer.train_dataset.view = DeadlyView(trainer.train_dataset.view, end)
    with pytest.raises(ChildProcessError, match=REPORT):
        trainer.train()


@pytest.mark.parametrize("handed_over", [False, True])
def test_worker_that_dies_in_evaluation_is_reported_too(tmp_path, tiny_config, handed_over: bool):
    trainer = make_trainer(tmp_path, tiny_config, dataloader_num_workers=1)
    views = trainer.eval_dataset
    views.view = DeadlyView(views.view, signal.SIGKILL)
    with pytest.raises(ChildProcessError, match=REPORT):
        trainer.evaluate(views if handed_over else None)


@pytest.mark.slow
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_workers_that_are_not_forked_are_reported_too(tmp_path, tiny_config, context: str):
    options = {"dataloader_num_workers": 1, "dataloader_multiprocessing_context": context}
    trainer = make_trainer(tmp_path, tiny_config, **options)
    trainer.eval_dataset.view = DeadlyView(trainer.eval_dataset.view, signal.SIGKILL)
    trainer.train()
    with pytest.raises(ChildProcessError, match=REPORT):
        trainer.evaluate()


class LostWorker:
    """Handle of a tensor whose worker died before it sent the tensor."""

    def __init__(self, error: Exception):
        self.error = error

    def detach(self):
        raise self.error


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), EOFError(), FileNotFoundError("socket")])
def test_connection_that_breaks_before_torch_reports_the_death_is_reported_too(error: Exception, monkeypatch):
    monkeypatch.setattr("deit_hf.data.worker_crashes.SECONDS_FOR_THE_SIGNAL", 0.0)
    with pytest.raises(ChildProcessError, match="died .the connection to it broke.. If it was"), named_crashes():
        rebuild_storage_fd(None, LostWorker(error), 4)


def test_a_report_that_comes_after_the_connection_broke_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    """Red when torch's signal raises in the code that prints the error."""

    def interrupted(seconds: float) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation fault. ")

    monkeypatch.setattr("time.sleep", interrupted)
    message = r"died .DataLoader worker \(pid 7\) is killed by signal: Segmentation fault.. If it was"
    with pytest.raises(ChildProcessError, match=message), named_crashes():
        rebuild_storage_fd(None, LostWorker(EOFError()), 4)


def test_a_report_that_comes_while_the_first_error_is_handled_is_translated(monkeypatch: pytest.MonkeyPatch):
    calls = []

    def interrupted(error: Exception) -> bool:
        calls.append(error)
        if len(calls) == 1:
            raise RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 1. ")
        return is_crash(error)

    is_crash = worker_crashes._is_crash
    monkeypatch.setattr(worker_crashes, "_is_crash", interrupted)
    with pytest.raises(ChildProcessError, match=r"died .DataLoader worker .pid 7. exited"), named_crashes():
        raise EOFError


@pytest.mark.parametrize(
    "error", [RuntimeError("other"), ConnectionResetError("the Hub's"), FileNotFoundError("a.png")]
)
def test_errors_of_others_pass_unchanged(error: Exception):
    with pytest.raises(type(error)) as caught, named_crashes():
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("message", "reported"),
    [
        ("(pid 9) is killed by signal: Killed. ", "(pid 9) is killed by signal: Killed"),
        ("(pid(s) 111, 222) exited unexpectedly", "(pid(s) 111, 222) exited unexpectedly"),
    ],
)
def test_command_ends_with_one_line_and_exit_code_2(capsys, message: str, reported: str):
    with pytest.raises(SystemExit) as left, one_line_errors(), named_crashes():
        raise RuntimeError(f"DataLoader worker {message}")
    assert left.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith(
        f"error: a data worker died (DataLoader worker {reported}). If it was killed or met a bus error, it"
    )
    assert line.endswith("with `--dataloader_num_workers 0` to see where it died\n")
    assert line.count("\n") == 1


def test_transform_that_fails_is_named_with_row_and_size(tmp_path, tiny_config):
    def broken(image):
        raise ZeroDivisionError("of the transform")

    views = TrainingViews(make_trainer(tmp_path, tiny_config).train_dataset.images, broken, seed=0)
    with pytest.raises(RuntimeError, match="^row 7 of the dataset, 20x20 pixels: its view failed with ZeroDivision"):
        views[ViewKey(0, 0, 7, 0)]
