"""Fills a store of teacher answers for a recipe, epoch by epoch; a stopped or killed filling continues.

Several processes take different epochs. Views are mixed and passed to the teacher in the same batches as in a training
of this recipe, so that on the same kind of device the answers are the same bits.
"""

import copy
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader

from ..argument_checks import check
from ..data.dataset import ViewCollator
from ..data.sources.arguments import DataArguments
from ..distillation.answer_format import BLOCK, AnswerFormat, Rows, answer_rows
from ..distillation.epoch_writer import EpochWriter
from ..distillation.teacher import Teacher
from ..distillation.teacher_cache import STORE, AnswerStore
from ..distillation.view_checksums import BlockSums, library_versions, view_checksum
from ..model.arguments import ModelArguments
from ..reliability.run_lock import decided_by_first, run_lock
from ..reliability.stop_signals import LeaveOnSignal, leaves_signals_to_the_main_process
from .answer_batches import BlockParts, MissingBatches, whole_order
from .answer_store import Views, fingerprint_of
from .arguments import DistillationArguments
from .preflight import size_in_words
from .progress import ViewProgress, duration, say
from .run import check_run_options, make_trainer
from .teacher_warning import warn_of_misfit
from .trainer import DistillationTrainer

SECONDS_OF_TRIAL = 10.0  # at most, to measure the speed before the filling starts
SECONDS_BETWEEN_FLUSHES = 20.0
NUM_COMPARED = 256  # answers that are compared with stored ones


def store_answers(
    model_args: ModelArguments, data_args: DataArguments, args: DistillationArguments, *, top_k: int | None = None
) -> Path:
    """Stores the teacher's answers to all views of a training in `args.teacher_cache`.

    Continues a store that was stopped. If the store is complete, or was begun on another kind of device, with other
    batches or versions, some answers are computed again, and the share of equal ones is printed.

    Args:
        model_args: student and teacher. Of the student only the classes, the image size and the processor are used.
        data_args: the data.
        args: the options of the training.
        top_k: logits stored of a view, for soft distillation of more than 128 classes; 10 by default.

    Returns:
        The directory of the store.

    Raises:
        ValueError: options are missing or contradict each other, or the store holds other answers, or another process
            fills it.
        OSError: a source is not found, or the disk is full.
        TrainingStopped: SIGTERM or SIGINT was received; finished blocks are kept.
    """
    online = copy.copy(args)
    online.teacher_cache = None
    _check_options(model_args, args, top_k)
    check_run_options(model_args, data_args, online)
    directory = Path(str(args.teacher_cache))
    with LeaveOnSignal(), run_lock(directory, args.distributed_state, option="teacher_cache"):
        trainer, _ = make_trainer(model_args, data_args, online, None)
        assert trainer.teacher is not None
        filling = _Filling(trainer, trainer.teacher, trainer.described_views())
        filling.fill(filling.open_store(directory, top_k))
        args.distributed_state.wait_for_everyone()
        if args.process_index == 0:
            say(
                f"The answers are in {directory}; train with the same options and "
                f"--teacher none --teacher_cache {directory}"
            )
            if args.push_to_hub:
                say("The answers are not pushed with the model; to push them:")
                say(f"deit-hf push {directory} --hub_model_id USER/NAME")
    return directory


def _check_options(model_args: ModelArguments, args: DistillationArguments, top_k: int | None) -> None:
    if args.teacher_cache is None:
        raise ValueError("no directory is named for the answers; name a new one with `--teacher_cache`")
    if model_args.teacher_model_name_or_path is None:
        raise ValueError("no teacher is named; name one with `--teacher`")
    if top_k is not None:
        check("top_k", top_k, lambda v: v >= 1, "1 or more")
        if args.distillation_type != "soft":
            raise ValueError(
                f"`top_k` is {top_k}, but `distillation_type` is {args.distillation_type!r}, which stores one class "
                "of a view; leave `top_k` out"
            )
    directory = Path(args.teacher_cache)
    if directory.is_dir() and any(directory.iterdir()) and not (directory / STORE).exists():
        others = [path.name for path in directory.iterdir() if not path.name.startswith((".run-", ".unfinished-"))]
        if others:
            raise ValueError(
                f"`teacher_cache` {directory} contains other files ({sorted(others)[0]}, ...); name a new directory"
            )


@dataclass
class _Filling:
    """The views and the teacher of a store.

    Attributes:
        trainer: a training of the recipe that asks the teacher; it is not trained.
        teacher: on the device.
        views: of the training.
    """

    trainer: DistillationTrainer
    teacher: Teacher
    views: Views

    def open_store(self, directory: Path, top_k: int | None) -> AnswerStore:
        """Opens the store of these answers, or creates it."""
        state = self.views.args.distributed_state
        exists = decided_by_first((directory / STORE).exists, state)
        facts = {} if exists else self._facts()  # measured by all processes together
        store = decided_by_first(lambda: self._open_store(directory, top_k, facts), state)
        assert store is not None
        return store

    def _open_store(self, directory: Path, top_k: int | None, facts: dict[str, Any]) -> AnswerStore:
        args, num_views = self.views.args, len(self.views.sampler)
        kind: Any = args.distillation_type
        soft: dict[str, Any] = {"top_k": top_k, "temperature": float(args.distillation_temperature)}
        answer_format = AnswerFormat(kind, self.views.config.num_labels, num_views, **(soft if kind == "soft" else {}))
        fingerprint = fingerprint_of(self.views, self.teacher, self.trainer.accelerator.mixed_precision)
        if (directory / STORE).exists():
            store = AnswerStore.read(directory)
            store.check(fingerprint)
            if store.format != answer_format:
                raise ValueError(
                    f"`{directory}` holds {store.format.top_k} logits of each view, not {answer_format.top_k}; leave "
                    "`top_k` out, or name a new directory"
                )
            store.verify(store.finished_epochs())
            machines = store.facts["filled_with"]
            if self._machine() in machines:
                return store
            facts = {**store.facts, "filled_with": [*machines, self._machine()]}
        return AnswerStore.create(directory, answer_format, fingerprint, facts)

    def _facts(self) -> dict[str, Any]:
        """Measures the teacher, says how it fits the views, and returns what a new store notes."""
        trainer, args = self.trainer, self.views.args
        fit = trainer.measure_fit() if args.evaluate_teacher else None
        if fit is not None and args.process_index == 0:
            say(f"the teacher on training views: {fit.in_words()}")
            warn_of_misfit(fit, args)
        evaluation = None if fit is None else fit.evaluation
        return {
            "teacher": trainer.teacher_name,
            "teacher_image_size": self.teacher.image_size,
            "teacher_top1": None if evaluation is None else evaluation.top1,
            "evaluation_data": self.views.evaluation_data,
            "versions": library_versions(),
            "filled_with": [self._machine()],
        }

    def _machine(self) -> dict[str, Any]:
        """What the bits of an answer can depend on, in addition to fingerprint and versions."""
        args = self.views.args
        layout = "channels-last" if self.teacher.layout is torch.channels_last else "contiguous"
        return {"device": args.device.type, "batch_size": args.train_batch_size, "layout": layout}

    # ---- filling ----

    def fill(self, store: AnswerStore) -> None:
        """Stores the epochs of this process."""
        args, epochs = self.views.args, range(self.views.num_epochs)
        finished = store.finished_epochs()
        missing = [epoch for epoch in epochs if epoch not in finished]
        own = missing[args.process_index :: args.world_size]
        changed = store.facts["versions"] != library_versions() or len(store.facts["filled_with"]) > 1
        if finished and (changed or not missing) and args.process_index == 0:
            self._compare(store, finished[0])
        if not own:
            return
        writer = EpochWriter(store, own[0])
        if args.process_index == 0:
            self._announce(store, missing, writer)
        total = len(own) * store.format.num_views - _num_done(writer)
        with closing(ViewProgress(total, draws=args.process_index == 0 and not args.disable_tqdm)) as progress:
            for epoch in own:
                progress.begin(f"epoch {epoch + 1}/{len(epochs)}")
                self._fill_epoch(writer if epoch == own[0] else EpochWriter(store, epoch), progress)

    def _fill_epoch(self, writer: EpochWriter, progress: ViewProgress) -> None:
        """Stores the missing blocks of an epoch."""
        format_ = writer.store.format
        sums, parts = BlockSums(format_.num_views), BlockParts(format_)
        missing, flushed = set(writer.missing_blocks()), time.monotonic()
        try:
            for positions, rows, checksums in self._answers(writer.epoch, missing, format_):
                parts.add(positions, rows)
                for block, checksum in sums.add(positions, checksums).items():
                    block_rows = parts.pop(block)
                    if block in missing:
                        writer.write(block, block_rows, checksum)
                        progress.update(len(format_.positions(block)))
                if time.monotonic() - flushed > SECONDS_BETWEEN_FLUSHES:
                    writer.flush()
                    flushed = time.monotonic()
            writer.finish()
        except BaseException:
            with suppress(OSError):  # the disk is full, which is the error already
                writer.flush()
            writer.close()
            raise

    @torch.no_grad()
    def _answers(
        self, epoch: int, blocks: set[int], answer_format: AnswerFormat
    ) -> Iterator[tuple[list[int], Rows, list[int]]]:
        """Yields positions, rows and checksums of the views, for each batch that has a part of one of the blocks."""
        for batch in self._loader(epoch, blocks):
            moved = send_to_device(batch, self.views.args.device)
            pixel_values = self.trainer.pixel_values(moved)
            with self.trainer.accelerator.autocast():
                logits = self.teacher(pixel_values)
            yield batch["positions"], answer_rows(logits, answer_format), batch["checksums"]

    def _loader(self, epoch: int, blocks: set[int]) -> DataLoader:
        args = self.views.args
        sampler = whole_order(self.trainer.make_view_sampler())
        sampler.set_epoch(epoch)
        return DataLoader(
            self.views.views,
            batch_sampler=MissingBatches(sampler, args.train_batch_size, blocks),
            collate_fn=ViewCollator(self.trainer.data_collator.mixing, view_checksum),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            worker_init_fn=leaves_signals_to_the_main_process(),
            generator=torch.Generator().manual_seed(args.seed),
        )

    # ---- before and after ----

    def _announce(self, store: AnswerStore, missing: Sequence[int], writer: EpochWriter) -> None:
        """Measures the speed, and prints what the filling will take and when it pays."""
        args, num_views = self.views.args, len(missing) * store.format.num_views - _num_done(writer)
        speed, teacher_speed = self._speeds(writer.epoch)
        seconds = num_views / speed / args.world_size
        all_epochs = math.ceil(_num_epochs(self.views))
        of_run = all_epochs * store.format.num_views / teacher_speed / args.world_size  # of the teacher, in each run
        of_store = self.views.num_epochs * store.format.num_views / speed / args.world_size
        size = len(missing) * store.format.bytes_per_epoch
        pays = math.floor(of_store / of_run) + 1
        slow = (
            f"; with the data, {speed:.4g}: try more `dataloader_num_workers` (now {args.dataloader_num_workers})"
            if speed < 0.8 * teacher_speed
            else ""
        )
        free = shutil.disk_usage(store.directory).free
        room = (
            f", but only {size_in_words(free)} are free: name a directory on another disk"
            if size > free
            else " on the disk"
        )
        each = " in each process" if args.world_size > 1 else ""
        say(
            f"{num_views:,} views to answer in {len(missing)} epochs of {store.format.num_views:,} "
            f"({store.format.kind} answers)\n"
            f"the teacher answers {teacher_speed:.4g} views/s{each}{slow}\n"
            f"about {duration(seconds)}, and {size_in_words(size)}{room}\n"
            f"the teacher takes about {duration(of_run)} of each training: the store saves time from {_runs(pays)} on"
        )

    def _speeds(self, epoch: int) -> tuple[float, float]:
        """Returns views per second of the whole filling, and of the teacher alone, over the first batches."""
        ends, in_teacher, counted = [], [], []  # of each batch: when it ended, seconds in the teacher, views
        for batch in self._loader(epoch, set(range(math.ceil(len(self.views.sampler) / BLOCK)))):
            start = time.perf_counter()
            with torch.no_grad(), self.trainer.accelerator.autocast():
                pixel_values = self.trainer.pixel_values(send_to_device(batch, self.views.args.device))
                self.teacher(pixel_values).cpu()  # waits for the device
            ends.append(time.perf_counter())
            in_teacher.append(ends[-1] - start)
            counted.append(len(batch["positions"]))
            if ends[-1] - ends[0] > SECONDS_OF_TRIAL:
                break
        if len(ends) == 1:
            return counted[0] / in_teacher[0], counted[0] / in_teacher[0]
        num_views = sum(counted[1:])  # workers and device start with the first batch
        return num_views / (ends[-1] - ends[0]), num_views / sum(in_teacher[1:])

    def _compare(self, store: AnswerStore, epoch: int) -> None:
        """Answers some views again, and prints the share of answers that are the stored ones."""
        num_views = min(NUM_COMPARED, store.format.num_views)
        blocks = set(range(math.ceil(num_views / BLOCK)))
        equal = count = 0
        for positions, rows, _ in self._answers(epoch, blocks, store.format):
            stored = store.rows(epoch, positions)
            columns = [stored] if isinstance(stored, torch.Tensor) else stored
            same = [
                (column.numpy() == rows[name]).reshape(len(positions), -1).all(axis=1)
                for name, column in zip(store.format.answers, columns, strict=True)
            ]
            equal, count = equal + int(np.logical_and.reduce(same).sum()), count + len(positions)
        then, now = (
            "; ".join(
                ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.items()) for machine in each
            )
            for each in (store.facts["filled_with"], [self._machine()])
        )
        say(
            f"answered {count} views again ({now}; stored with {then}): "
            f"{equal} of {count} answers equal the stored ones"
        )


def _num_done(writer: EpochWriter) -> int:
    """Number of views of the epoch that are already stored."""
    format_ = writer.store.format
    return format_.num_views - sum(len(format_.positions(block)) for block in writer.missing_blocks())


def _runs(number: int) -> str:
    return "the first training" if number == 1 else f"training {number}"


def _num_epochs(views: Views) -> float:
    args = views.args
    if args.max_steps > 0:
        return args.max_steps * views.sampler.step_size / len(views.sampler)
    return args.num_train_epochs
