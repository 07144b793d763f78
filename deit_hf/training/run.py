"""One run, from options to files: loads the data, builds student and teacher, trains, evaluates and saves."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import BaseImageProcessor, PreTrainedConfig, set_seed

from ..atomic_files import write_text
from ..data.check import check_data, log_data_report
from ..data.sources.arguments import DataArguments
from ..data.sources.load import ImageParts, load_image_parts
from ..data.sources.shards import ShardedRows
from ..distillation.teacher import Teacher
from ..distillation.teacher_speed import choose_layout, compile_teacher
from ..hub.push import push_or_warn
from ..hub.run_files import CLASS_RESULTS, CONFUSION_MATRIX, RESULTS, read_json
from ..model.arguments import ModelArguments
from ..model.build import build_student
from ..model.image_processing_deit import crop_in_words, crop_size, statistics_of
from ..model.labels import label_config
from ..reliability.checkpoints import begin_run, end_run, find_checkpoint, is_finished, remembered_places
from ..reliability.disk_faults import explained_write_error
from ..reliability.run_identity import Difference, write_identity
from ..reliability.run_lock import run_lock
from ..reliability.stop_signals import LeaveOnSignal
from .arguments import DistillationArguments
from .changeable_options import RATES
from .class_weights import NOT_OF_A_STREAM
from .ema import EMA_FOLDER
from .option_values import check_stream_options
from .progress import results_in_words, say
from .recipe_file import write_recipe
from .run_figures import TrainingCurves, draw_confusion_matrix
from .trainer import DistillationTrainer

logger = logging.getLogger(__name__)


def train(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: DistillationArguments,
    parts: ImageParts | None = None,
) -> dict[str, Any]:
    """Trains a student and writes model, processor, recipe, metrics and trainer state to `args.output_dir`.

    Continues from the last complete checkpoint of the same run in that directory, if there is one. A finished run
    stays as it is.

    Args:
        model_args: student and teacher.
        data_args: the data.
        args: the options of the training.
        parts: the data that `data_args` describes, if it is already loaded and its report was logged.

    Returns:
        The metrics of the last evaluation, or of the training if there is no evaluation data.

    Raises:
        ValueError: options, data, student and teacher do not match each other or the earlier run in the directory, or
            another run is using the directory.
        OSError: a source is not found, or the disk is full.
        FileExistsError: `args.output_dir` contains other files.
        TrainingStopped: SIGTERM or SIGINT was received and a checkpoint was saved.
    """
    with LeaveOnSignal(), run_lock(args.output_dir, args.distributed_state):
        return _train(model_args, data_args, args, parts)


def _train(
    model_args: ModelArguments, data_args: DataArguments, args: DistillationArguments, parts: ImageParts | None
) -> dict[str, Any]:
    check_run_options(model_args, data_args, args)
    checkpoint = find_checkpoint(args)
    trainer, test_rows = make_trainer(model_args, data_args, args, parts)
    changes = trainer.same_run.settle(*remembered_places(args, checkpoint))
    if is_finished(args.output_dir) and not args.overwrite_output_dir:
        if not trains_on(changes, checkpoint, args):
            return _leave_finished(args, changes)
        if args.process_index == 0:
            logger.warning("the finished run in %s continues from %s", args.output_dir, checkpoint)
    begin_run(args)  # after all checks, so that a refused run changes nothing
    if args.should_save:
        write_identity(args.output_dir, trainer.same_run.record())
    curves = TrainingCurves()
    trainer.add_callback(curves)
    trainer.first_views.by_default = True
    result = trainer.train(resume_from_checkpoint=checkpoint)
    metrics = _save(trainer, result.metrics, model_args, data_args, test_rows, curves)
    trainer.release_workers()
    return metrics


def check_run_options(model_args: ModelArguments, data_args: DataArguments, args: DistillationArguments) -> None:
    """Refuses options of a run that contradict each other, before anything is loaded."""
    _check_teacher_options(model_args, args)
    if data_args.streaming and args.class_weighting != "none":
        raise ValueError(NOT_OF_A_STREAM)
    if not data_args.streaming:
        check_stream_options(args, "add `--streaming true`")


def make_trainer(
    model_args: ModelArguments, data_args: DataArguments, args: DistillationArguments, parts: ImageParts | None
) -> tuple[DistillationTrainer, datasets.Dataset | None]:
    """Builds the trainer from the options, without writing any file; also returns the test rows or None."""
    set_seed(args.seed)
    reports = parts is None
    parts = load_image_parts(data_args) if parts is None else parts
    _check_evaluation(parts, args)
    columns = {name: getattr(data_args, name) for name in ("image_column_name", "label_column_name")}
    if reports and args.process_index == 0:
        log_data_report(check_data(parts, **columns))
    train_rows = parts.train
    assert train_rows is not None
    dataset = train_rows.rows if isinstance(train_rows, ShardedRows) else train_rows
    labels = label_config(dataset, data_args.label_column_name, data_args.num_labels)
    student, processor = build_student(model_args, labels)
    teacher = _make_teacher(model_args, args, student.config, processor)
    trainer = DistillationTrainer(
        student,
        args,
        teacher=teacher,
        train_dataset=train_rows,
        eval_dataset=parts.evaluation,
        processing_class=processor,
        **columns,
    )
    trainer.same_run.groups = {"model": model_args, "data": data_args}
    return trainer, parts.test


def _make_teacher(
    model_args: ModelArguments, args: DistillationArguments, config: PreTrainedConfig, processor: BaseImageProcessor
) -> Teacher | None:
    if model_args.teacher_model_name_or_path is None:
        return None
    try:
        teacher = Teacher.from_pretrained(
            model_args.teacher_model_name_or_path,
            student_config=config,
            dtype=None if model_args.teacher_dtype is None else getattr(torch, model_args.teacher_dtype),
            device=args.device,
            student_mean=statistics_of(processor)["mean"],
            student_std=statistics_of(processor)["std"],
        )
    except OSError as error:
        if args.teacher_cache is None:
            raise
        raise OSError(f"{error} (its answers are stored, so it is not needed: --teacher none)") from error
    if args.teacher_cache is not None:
        return teacher  # it is only compared with the one that gave the stored answers
    if model_args.teacher_compile:
        compile_teacher(teacher)
    if model_args.teacher_channels_last:
        shape = (args.train_batch_size, len(teacher.student_mean), *crop_size(processor))
        choose_layout(teacher, torch.zeros(shape, device=args.device))
    return teacher


def trains_on(changes: Sequence[Difference], checkpoint: str | None, args: DistillationArguments) -> bool:
    """Whether a finished run continues with the changed options; a new learning rate alone adds no steps."""
    if {change.name for change in changes} <= {*RATES, "libraries"}:
        return False
    if checkpoint is None:
        raise ValueError(
            f"`output_dir` {args.output_dir} holds a finished run without a checkpoint to continue from "
            f"({'; '.join(map(str, changes))}); name another directory and start from the weights of this one with "
            f"`model_name_or_path` {args.output_dir}, or pass --overwrite_output_dir true to start over"
        )
    return True


def _leave_finished(args: DistillationArguments, changes: Sequence[Difference]) -> dict[str, Any]:
    """Returns the metrics of a finished run without changing its files; pushes them with `push_to_hub`."""
    directory = Path(args.output_dir)
    if args.process_index == 0:
        unused = f" ({'; '.join(map(str, changes))}: no step is left to use it)" if changes else ""
        logger.warning(
            "already finished: %s; nothing to do%s; to repeat it, set `overwrite_output_dir`", directory, unused
        )
        if args.push_to_hub:
            push_or_warn(
                directory,
                args.hub_model_id or directory.name,
                private=args.hub_private_repo,
                revision=args.hub_revision,
                token=args.hub_token,
            )
    return read_json(directory / "eval_results.json") or read_json(directory / "train_results.json")


def _check_teacher_options(model_args: ModelArguments, args: DistillationArguments) -> None:
    """Refuses a missing or unused teacher early; the trainer would refuse it only after loading data and models."""
    for name in ("teacher_compile", "teacher_channels_last"):
        if args.teacher_cache is not None and getattr(model_args, name):
            raise ValueError(f"`{name}` is true, but the answers are stored (`teacher_cache`); leave it out")
    teacher, learns = model_args.teacher_model_name_or_path, args.distillation_type != "none"
    if (teacher is not None and not learns) or (teacher is None and learns and args.teacher_cache is None):
        raise ValueError(
            f"`teacher_model_name_or_path` is {teacher} and `distillation_type` {args.distillation_type!r}; name a "
            "teacher (or its stored answers, `teacher_cache`) and what to learn from it ('hard' or 'soft'), or neither"
        )


def _check_evaluation(parts: ImageParts, args: DistillationArguments) -> None:
    """Refuses a missing evaluation part early; transformers would refuse it only after loading the models."""
    chooses = args.load_best_model_at_end or args.lr_scheduler_type == "reduce_lr_on_plateau"
    if parts.evaluation is None and (args.eval_strategy != "no" or args.eval_on_start or chooses):
        raise ValueError(
            f"`eval_strategy` is '{args.eval_strategy.value}', but the data has no part to evaluate on"
            f"{''.join(f' ({note})' for note in parts.notes)}; name one with `--validation_dir` or `--eval_split`, or "
            "set `--eval_strategy no`"
        )
    if parts.evaluation_is_test and chooses:
        raise ValueError(
            f"the data has a test part (`{parts.names['evaluation']}`) but no validation part, and checkpoints or "
            "learning rates must not be chosen on test data; add a validation part, leave out "
            f"`load_best_model_at_end`, or pass `--eval_split {parts.names['evaluation']}` to use it anyway"
        )


def _save(
    trainer: DistillationTrainer,
    metrics: dict[str, Any],
    model_args: ModelArguments,
    data_args: DataArguments,
    test_rows: datasets.Dataset | None,
    curves: TrainingCurves,
) -> dict[str, Any]:
    """Writes the files of a finished run; the model first, so that a later failure cannot lose it."""
    args = trainer.args
    if trainer.is_world_process_zero():  # what an earlier run left would be pushed
        shutil.rmtree(Path(args.output_dir) / EMA_FOLDER, ignore_errors=True)
    with explained_write_error("the finished model", args.output_dir):
        trainer.save_model()
        trainer.save_state()
        if trainer.is_world_process_zero():
            for name in RESULTS:
                (Path(args.output_dir) / name).unlink(missing_ok=True)
        trainer.save_metrics("train", metrics)
    if trainer.is_world_process_zero():
        path, options = Path(args.output_dir) / "recipe.yaml", (model_args, data_args, args)
        write_recipe(path, *options, effective_recipe=trainer.effective_recipe)
    measured: dict[str, Any] = dict(metrics)
    if trainer.eval_dataset is not None:
        metrics = evaluate_trainer(trainer)
        trainer.save_metrics("eval", metrics)
        measured |= metrics
    if test_rows is not None:  # once, after all choices are made
        test_metrics = trainer.evaluate(test_rows, metric_key_prefix="test")
        trainer.save_metrics("test", test_metrics)
        measured |= test_metrics
    has_confusion = _write_class_results(trainer)
    curves.draw(args, trainer.state)
    trainer.create_model_card(license=model_args.model_license, confusion=CONFUSION_MATRIX if has_confusion else None)
    end_run(args)
    if args.verbose:
        trainer.log_metrics("all", measured)
    elif trainer.is_world_process_zero():
        say("\n".join(results_in_words(measured, trainer.state, args.output_dir)))
    if args.push_to_hub:
        trainer.push_saved_files()  # after `end_run`, so that a failing Hub leaves a finished run
    return metrics


def _write_class_results(trainer: DistillationTrainer) -> bool:
    """Writes the accuracy of each class, the confusions and their figure; returns whether there is a figure."""
    results = trainer.class_results()
    if not results or not trainer.is_world_process_zero():
        return False
    directory = Path(trainer.args.output_dir)
    write_text(directory / CLASS_RESULTS, json.dumps(results))
    part = "test" if "test" in results else next(iter(results))
    return draw_confusion_matrix(results[part], directory, part)


def evaluate_trainer(trainer: DistillationTrainer) -> dict[str, Any]:
    """The metrics of the current weights, the crop in words and, with two heads, the fusion."""
    metrics: dict[str, Any] = trainer.metrics_of_weights()
    metrics["eval_crop"] = crop_in_words(trainer.processing_class.to_dict())
    if any(name.endswith("_top1_average") for name in metrics):
        metrics["eval_fusion"] = trainer.args.fusion
    return metrics
