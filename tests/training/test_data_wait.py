"""How long the device waits for data is measured, logged, printed, and explained in the first steps."""

import json
import logging
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.trainers import make_args, parameters_of, same
from torch import nn

from deit_hf import DistillationTrainer
from deit_hf.data.dataset import TrainingViews
from deit_hf.reliability.step_outcome import StepOutcome
from deit_hf.training import data_wait, input_report, preflight
from deit_hf.training.data_wait import DataWait, StepTimes
from deit_hf.training.input_report import InputReport, input_rates
from deit_hf.training.progress import results_in_words

LOGGER = "deit_hf.training.input_report"


@pytest.fixture
def trainer_of(tmp_path: Path, make_student, toy_rows, monkeypatch: pytest.MonkeyPatch):
    def make(*, slow: str = "", **options) -> DistillationTrainer:
        plain_views, plain_loss = TrainingViews.__getitems__, DistillationTrainer.compute_loss

        def slow_views(self, keys):
            time.sleep(0.02 * len(keys))
            return plain_views(self, keys)

        def slow_loss(self, *args, **kwargs):
            time.sleep(0.2)
            return plain_loss(self, *args, **kwargs)

        if slow == "data":
            monkeypatch.setattr(TrainingViews, "__getitems__", slow_views)
        if slow == "model":
            monkeypatch.setattr(DistillationTrainer, "compute_loss", slow_loss)
        args = make_args(tmp_path, **{"max_steps": 4, "random_augment": "none", **options})
        return DistillationTrainer(make_student(), args, train_dataset=toy_rows)

    return make


@pytest.mark.parametrize("slow", ["data", "model"])
def test_share_of_waiting_is_logged_printed_and_explained(trainer_of, slow: str, monkeypatch, caplog, capsys):
    monkeypatch.setattr(input_report, "CHECKED_AFTER", (1, 2))
    monkeypatch.setattr(input_report, "MUCH", 0.5)  # on a loaded machine, a fast input is not that fast
    trainer = trainer_of(slow=slow)
    with caplog.at_level(logging.INFO, logger=LOGGER):
        metrics = trainer.train().metrics
    trainer.save_metrics("train", metrics)
    shares = [entry["data_wait"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(shares) == 4
    assert all((share > 0.5) if slow == "data" else (share < 0.5) for share in shares), shares
    written = json.loads((Path(trainer.args.output_dir) / "train_results.json").read_text())
    assert written["train_data_wait"] == metrics["train_data_wait"]
    assert min(shares) <= metrics["train_data_wait"] <= max(shares)
    words = f"data wait {100 * shares[-1]:.0f} %  "
    assert words in capsys.readouterr().out.splitlines()[-1]
    assert (
        f"; waited for data {100 * metrics['train_data_wait']:.0f} % of the time"
        in results_in_words(metrics, trainer.state, "run")[1]
    )
    (record,) = [record for record in caplog.records if record.name == LOGGER]
    assert record.levelno == (logging.WARNING if slow == "data" else logging.INFO)
    assert ("--dataloader_num_workers" in record.message) is (slow == "data")
    assert "% of the time" in record.message


def test_steps_since_the_last_report_count_and_skipped_ones_do_not(trainer_of):
    trainer = trainer_of(logging_steps=2)
    counted = []
    complete = trainer.data_wait.complete

    def seen(logs: dict) -> None:
        counted.append(trainer.data_wait._since_report.steps)
        complete(logs)

    trainer.data_wait.complete = seen
    trainer.train()
    assert counted == [2, 2, 0]
    wait = DataWait(StepOutcome(), torch.device("cpu"))
    for is_skipped in (False, True, False):
        wait.outcome.is_skipped = is_skipped
        with wait.fetching() as batches:
            batches += [{"labels": torch.zeros(3), "seconds": 0.5}] * 2
        wait.on_step_end(None, None, None)
    assert (wait.after_first.steps, wait.after_first.views, wait.after_first.making) == (1, 6, 1.0)
    assert wait._training.steps == 2


def test_measurement_changes_neither_weights_nor_random_states(trainer_of, monkeypatch: pytest.MonkeyPatch):
    results = []
    for measured in (True, False):
        if not measured:
            monkeypatch.setattr(DataWait, "on_step_end", lambda *_, **__: None)
        trainer = trainer_of(random_augment="rand-m9-mstd0.5-inc1")
        trainer.train()
        results.append((parameters_of(trainer.model), torch.rand(1)))
    assert same(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not any("data_wait" in entry for entry in trainer.state.log_history)


# ---- another device than the CPU ----


class Clock:
    """A host and a device with a queue of work: an event happens when the work before it is done."""

    def __init__(self) -> None:
        self.host = self.device = 0.0

    def compute(self, seconds: float) -> None:
        self.device = max(self.device, self.host) + seconds

    def event(self, device: object, *, enable_timing: bool) -> "Event":
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, clock: Clock) -> None:
        self.clock, self.time = clock, -1.0

    def record(self) -> None:
        self.clock.device = self.time = max(self.clock.device, self.clock.host)

    def query(self) -> bool:
        return self.time <= self.clock.host

    def synchronize(self) -> None:
        self.clock.host = max(self.clock.host, self.time)

    def elapsed_time(self, other: "Event") -> float:
        assert other.query(), "the event has not happened yet, so the host would wait"
        return 1000 * (other.time - self.time)


@pytest.mark.parametrize(("fetch", "share"), [(0.1, 0.0), (1.0, 0.0), (3.0, 2 / 3), (9.0, 8 / 9)])
def test_host_that_runs_ahead_of_the_device_is_not_counted_as_waiting(fetch: float, share: float, monkeypatch):
    """The device computes 1 s a step while the host fetches; wall time around the fetch would count as waiting."""
    clock = Clock()
    monkeypatch.setattr(data_wait.torch, "Event", clock.event)
    wait = DataWait(StepOutcome(), torch.device("cuda"))
    for _ in range(12):
        with wait.fetching():
            clock.host += fetch
        clock.compute(1.0)
        wait.on_step_end(None, None, None)
    wait._settle()
    assert wait.after_first.steps == 11
    assert wait.after_first.share == pytest.approx(share, abs=0.01)


# ---- the report ----


def arguments(workers: int = 0, processes: int = 1, device: str = "cuda") -> SimpleNamespace:
    return SimpleNamespace(dataloader_num_workers=workers, world_size=processes, device=torch.device(device))


def report(
    times: StepTimes, args: SimpleNamespace, short_side: float | None = 375, view: int = 224, cores: int = 16
) -> str:
    made = InputReport(
        DataWait(StepOutcome(), torch.device("cpu")), teacher=lambda: None, sizes=lambda: (short_side, view)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_report.os, "cpu_count", lambda: cores)
        return made.in_words(times, args)


def test_rates_without_workers_are_those_of_the_main_process():
    times = StepTimes(steps=20, seconds=10, waiting=8, views=2000)
    assert input_rates(times, arguments()) == (250, 1000, 0.8)
    assert report(times, arguments()) == (
        "without data workers, the training makes about 250 views/s, the model takes 1,000 views/s: the device waits "
        "for data 80 % of the time; use --dataloader_num_workers 4 (now 0); there are 16 cores"
    )


def test_stock_of_the_workers_does_not_hide_that_they_are_too_slow():
    """In the first steps the device takes batches that were made before; the time of the views tells."""
    times = StepTimes(steps=20, seconds=2, waiting=0.05, views=1950, making=19.5)
    rates = input_rates(times, arguments(workers=4))
    assert rates.input == pytest.approx(400)
    assert rates.model == pytest.approx(1000)
    assert rates.share == pytest.approx(0.6)
    assert "use --dataloader_num_workers 10 (now 4); there are 16 cores" in report(times, arguments(workers=4))
    unknown = StepTimes(steps=20, seconds=2, waiting=0.05, views=1950)
    assert input_rates(unknown, arguments(workers=4)).share == pytest.approx(0.025)


def test_workers_that_deliver_less_than_they_make_are_not_praised():
    times = StepTimes(steps=20, seconds=10, waiting=5, views=1000, making=1)
    assert input_rates(times, arguments(workers=4)) == (100, 200, 0.5)


def test_several_processes_are_summed():
    times = StepTimes(steps=40, seconds=20, waiting=16, views=4000)  # two processes, 10 s each
    assert input_rates(times, arguments(processes=2)) == (500, 2000, 0.8)
    text = report(times, arguments(processes=2))
    assert "(now 0 in each process); there are 8 cores in each process" in text


def test_advice_fits_the_cores_and_the_images():
    times = StepTimes(steps=20, seconds=10, waiting=8, views=2000, making=8)
    full = report(times, arguments(workers=2), cores=2)
    assert full.endswith("there are 2 cores, and all are busy: use more or faster cores, or less augmentation")
    large = report(times, arguments(workers=2), 1200.0, cores=2)
    assert large.endswith(
        "use deit-hf prepare, because the images are large (short side about 1200 pixels; 384 are enough); "
        "there are 2 cores"
    )
    for_large_views = report(times, arguments(workers=2), 1200.0, view=384, cores=2)
    assert "use deit-hf prepare --short_side 659, because" in for_large_views
    assert "--dataloader_num_workers 1 (now 0)" in report(times, arguments(device="cpu"), cores=2)
    assert "there is 1 core in each process, and all are busy" in report(times, arguments(0, 2, "cpu"), cores=2)


def test_teacher_that_takes_much_of_a_step_is_named_if_the_input_is_fast():
    times = StepTimes(steps=20, seconds=10, waiting=0.2, views=2000, teacher=6)
    assert report(times, arguments()).endswith(
        "waits for data 2 % of the time; the teacher takes 60 % of a step: if you train more than once, deit-hf "
        "cache-teacher stores its answers"
    )
    assert "teacher" not in report(StepTimes(20, 10, 0.2, 1, 2000), arguments())
    assert "teacher" not in report(StepTimes(20, 10, 5, 4.5, 2000), arguments())


def test_time_in_the_teacher_is_measured_until_the_report(tmp_path: Path, make_student, toy_rows, tiny_teacher):
    class SlowTeacher(nn.Module):
        def forward(self, pixels):
            time.sleep(0.1)
            return torch.zeros(len(pixels), 5)

    tiny_teacher.module = SlowTeacher()
    args = make_args(tmp_path, distillation_type="hard", max_steps=4)
    trainer = DistillationTrainer(make_student(), args, teacher=tiny_teacher, train_dataset=toy_rows)
    trainer.train()
    times = trainer.data_wait.after_first
    assert times.steps == 3
    assert 0.3 <= times.teacher <= times.seconds - times.waiting
    assert not tiny_teacher._forward_hooks


@pytest.mark.parametrize(("waiting", "num_lines"), [(8.0, 1), (0.1, 0)])
def test_resumed_training_speaks_only_if_it_waits(waiting: float, num_lines: int, caplog):
    wait = DataWait(StepOutcome(), torch.device("cpu"))
    made = InputReport(wait, teacher=lambda: None, sizes=lambda: (None, 224))
    state = SimpleNamespace(global_step=500, is_world_process_zero=True)
    made.on_train_begin(None, state, None)
    wait.after_first = StepTimes(steps=3, seconds=12, waiting=waiting, views=100)
    with caplog.at_level(logging.INFO, logger=LOGGER):
        for state.global_step in range(501, 530):
            made.on_step_end(arguments(device="cpu"), state, None)
    assert len(caplog.records) == num_lines


def test_dry_run_and_measure_report_the_input_once(tmp_path: Path, make_student, toy_rows, caplog):
    trainer = DistillationTrainer(make_student(), make_args(tmp_path, max_steps=9), train_dataset=toy_rows)
    with caplog.at_level(logging.INFO, logger=LOGGER):
        needs = preflight._measured(trainer, trainer.args)
    assert "% of the time" in needs.input
    assert f"input   {needs.input}" == needs.lines()[1]
    assert not [record for record in caplog.records if record.name == LOGGER]
