"""A data worker that dies is reported with the picture that it was at."""

import os
import signal
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from deit_hf import DeiTForImageClassificationWithTeacher, DistillationArguments, DistillationTrainer
from deit_hf.data.dataset import TrainingViews
from deit_hf.data.sampling import ViewKey
from deit_hf.data.worker_crashes import WorkerNotes, named_crashes

DEADLY_ROW = 13
ADVICE = r".*out of memory, or of shared memory .*smaller `dataloader_num_workers`"


class DeadlyView:
    """Ends its process at the picture of one row."""

    def __init__(self, view, end):
        self.view, self.end = view, end

    def __call__(self, image):
        if np.asarray(image)[0, 0, 0] == 5 * DEADLY_ROW:
            if self.end == "exit 1":
                os._exit(1)
            os.kill(os.getpid(), self.end)
        return self.view(image)


def make_trainer(tmp_path: Path, config, **options) -> DistillationTrainer:
    for i in range(40):  # each row has one grey value, which tells the view where it is
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
def test_worker_that_dies_in_training_is_named_with_row_and_file(tmp_path, tiny_config, end, num_workers, persistent):
    options = {"dataloader_num_workers": num_workers, "dataloader_persistent_workers": persistent}
    trainer = make_trainer(tmp_path, tiny_config, **options)
    trainer.train_dataset.view = DeadlyView(trainer.train_dataset.view, end)
    named = rf"^data worker .* the last image that it took up is row 13 of the dataset \({tmp_path}/13\.png\)"
    with pytest.raises(ChildProcessError, match=named + ADVICE):
        trainer.train()


@pytest.mark.parametrize("given", ["of the trainer", "by name", "handed over"])
def test_worker_that_dies_in_evaluation_is_named_with_row_and_file(tmp_path, tiny_config, given: str):
    trainer = make_trainer(tmp_path, tiny_config, dataloader_num_workers=1)
    views = trainer.eval_dataset
    views.view = DeadlyView(views.view, signal.SIGKILL)
    if given == "by name":
        trainer.eval_dataset = {"first": views}
    with pytest.raises(ChildProcessError, match=r"^data worker .* row 13 of the dataset .*13\.png"):
        trainer.evaluate(views if given == "handed over" else None)


@pytest.mark.slow
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_workers_that_are_started_afresh_are_named_too(tmp_path, tiny_config, context: str):
    options = {"dataloader_num_workers": 1, "dataloader_multiprocessing_context": context}
    trainer = make_trainer(tmp_path, tiny_config, **options)
    trainer.eval_dataset.view = DeadlyView(trainer.eval_dataset.view, signal.SIGKILL)
    trainer.train()
    with pytest.raises(ChildProcessError, match=r"^data worker .* row 13 of the dataset .*13\.png"):
        trainer.evaluate()


@pytest.mark.parametrize(
    "error", [RuntimeError("other"), ConnectionResetError("the Hub's"), FileNotFoundError("a.png")]
)
def test_errors_of_others_pass_unchanged(tmp_path, tiny_config, error: Exception):
    views = make_trainer(tmp_path, tiny_config).train_dataset
    with pytest.raises(type(error)) as caught, named_crashes(views, None):
        raise error
    assert caught.value is error


def test_torchs_report_of_several_workers_names_the_image_of_each(tmp_path, tiny_config):
    views = make_trainer(tmp_path, tiny_config).train_dataset
    views.images.worker_notes._slots[:2] = torch.tensor([[111, 3], [222, 4]])
    named = r"pid 111, 222.* row 3 .*3\.png\) and row 4 .*4\.png\)"
    with pytest.raises(ChildProcessError, match=named), named_crashes(views):
        raise RuntimeError("DataLoader worker (pid(s) 111, 222) exited unexpectedly")
    unknown = r"^data worker \(pid 9\) is killed by signal: Killed; which image it was at is unknown"
    with pytest.raises(ChildProcessError, match=unknown), named_crashes(views):
        raise RuntimeError("DataLoader worker (pid 9) is killed by signal: Killed. ")


def test_main_process_takes_no_notes():
    notes = WorkerNotes()
    notes.take_up(5)
    assert notes.processes() == []
    assert notes.last_row(os.getpid()) is None


def test_transform_that_fails_is_named_with_row_and_size(tmp_path, tiny_config):
    def broken(image):
        raise ZeroDivisionError("of the transform")

    views = TrainingViews(make_trainer(tmp_path, tiny_config).train_dataset.images, broken, seed=0)
    with pytest.raises(RuntimeError, match="^row 7 of the dataset, 20x20 pixels: its view failed with ZeroDivision"):
        views[ViewKey(0, 0, 7, 0)]
