"""One run, from options to the files that it leaves: what scripts/train.py and scripts/evaluate.py do."""

import dataclasses
import importlib.util
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import datasets
from transformers import set_seed

from .arguments import DistillationArguments
from .checkpointing import begin_run, end_run, find_checkpoint
from .dataset_sources import class_names, load_image_datasets
from .ema import EMA_FOLDER
from .evaluation import Confusion, HeadAccuracy
from .image_processing_deit import EvalCrop, crop_in_words, with_crop
from .recipes import write_recipe
from .run_arguments import DataArguments, ModelArguments
from .sharded_rows import ShardedRows
from .stop_signals import LeaveOnSignal
from .students import build_student, load_classifier
from .teacher import Teacher
from .trainer import DistillationTrainer
from .visualization import plot_training_curves

logger = logging.getLogger(__name__)


def train(model_args: ModelArguments, data_args: DataArguments, args: DistillationArguments) -> dict[str, Any]:
    """Trains a student and leaves model, processor, recipe, metrics and trainer state in `args.output_dir`.

    Goes on from the last complete checkpoint there, if there is one.

    Returns:
        The metrics of the last evaluation, or of the training where there is nothing to evaluate on.

    Raises:
        ValueError: options, data, student and teacher do not fit each other.
        OSError: a source is not found, or the disk is full.
        FileExistsError: `args.output_dir` holds something else.
        TrainingStopped: SIGTERM or SIGINT came; what was trained is in a checkpoint.
    """
    with LeaveOnSignal():
        return _train(model_args, data_args, args)


def _train(model_args: ModelArguments, data_args: DataArguments, args: DistillationArguments) -> dict[str, Any]:
    _check_teacher_options(model_args, args)
    _check_stream_options(data_args, args)
    checkpoint = find_checkpoint(args)
    set_seed(args.seed)
    train_rows, eval_rows = load_image_datasets(data_args)
    assert train_rows is not None
    labels = _label_config(train_rows, data_args.label_column_name, data_args.num_labels)
    student, processor = build_student(model_args, labels)
    teacher = None
    if model_args.teacher_model_name_or_path is not None:
        teacher = Teacher.from_pretrained(
            model_args.teacher_model_name_or_path,
            student_config=student.config,
            student_mean=tuple(processor.image_mean),
            student_std=tuple(processor.image_std),
        )
    trainer = DistillationTrainer(
        student,
        args,
        teacher=teacher,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=processor,
        image_column_name=data_args.image_column_name,
        label_column_name=data_args.label_column_name,
    )
    begin_run(args)  # not before everything fits, so that a refused run leaves no trace
    result = trainer.train(resume_from_checkpoint=checkpoint)
    return _save(trainer, result.metrics, model_args, data_args)


def _check_teacher_options(model_args: ModelArguments, args: DistillationArguments) -> None:
    """The trainer refuses a teacher that is missing or not used, too, but only once data and models are loaded."""
    teacher = model_args.teacher_model_name_or_path
    if (teacher is None) != (args.distillation_type == "none"):
        raise ValueError(
            f"`teacher_model_name_or_path` is {teacher} and `distillation_type` {args.distillation_type!r}; name a "
            "teacher and what to learn from it ('hard' or 'soft'), or neither"
        )


def _check_stream_options(data_args: DataArguments, args: DistillationArguments) -> None:
    """Options that only a stream reads would be ignored without a word."""
    for name in () if data_args.streaming else ("num_streams", "num_train_samples", "shuffle_buffer_size"):
        default = {option.name: option.default for option in dataclasses.fields(args)}[name]
        if getattr(args, name) != default:
            raise ValueError(
                f"`{name}` is {getattr(args, name)}, which is for a stream; add `--streaming true` or leave it out"
            )


def _save(
    trainer: DistillationTrainer, metrics: dict[str, Any], model_args: ModelArguments, data_args: DataArguments
) -> dict[str, Any]:
    """Writes a finished run; the model first, so that nothing that follows can lose it."""
    args = trainer.args
    if trainer.is_world_process_zero():
        shutil.rmtree(Path(args.output_dir) / EMA_FOLDER, ignore_errors=True)  # of an earlier run; it would be pushed
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("train", metrics)
    if trainer.is_world_process_zero():
        write_recipe(
            Path(args.output_dir) / "recipe.yaml", model_args, data_args, args, in_force=trainer.effective_recipe
        )
    if trainer.eval_dataset is not None:
        metrics = _evaluate(trainer)
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if trainer.is_world_process_zero() and importlib.util.find_spec("matplotlib") is not None:
        plot_training_curves(trainer.state.log_history, Path(args.output_dir) / "training_curves.png")
    if args.push_to_hub:
        trainer.push_to_hub()  # writes the card, too
    else:
        trainer.create_model_card()
    end_run(args)
    return metrics


def evaluate(
    model_name_or_path: str,
    data_args: DataArguments,
    args: DistillationArguments,
    *,
    crop_ratio: float | None = None,
    eval_crop: EvalCrop | None = None,
    per_class_file: str | None = None,
) -> dict[str, Any]:
    """Accuracy of a saved model on the evaluation split; of both heads and of them together if it has two.

    Args:
        model_name_or_path: Hub id or directory of any image classifier.
        data_args: names the data, and a label file if it has one.
        args: batch size and `eval_fusion`.
        crop_ratio: of `make_processor`; by default the view is that of the model's own processor.
        eval_crop: of `make_processor`, likewise.
        per_class_file: where to write `Confusion.report` as JSON.

    Returns:
        The Trainer's metrics, `eval_samples` (images counted), and in words `eval_crop` and, with two heads,
        `eval_fusion` (a key of `FUSIONS`).

    Raises:
        ValueError: the model's labels and the data's do not fit, or images have several labels but are to be counted
            by class.
        OSError: a source is not found.
    """
    model, processor = load_classifier(model_name_or_path)
    _, eval_rows = load_image_datasets(data_args, train=False)
    assert eval_rows is not None
    _check_label_order(class_names(eval_rows, data_args.label_column_name), model.config.id2label)
    confusion = None
    if per_class_file is not None:
        _check_single_labels(eval_rows, data_args.label_column_name)
        confusion = Confusion([model.config.id2label[index] for index in sorted(model.config.id2label)])
    accuracy = HeadAccuracy(confusion)
    trainer = DistillationTrainer(
        model,
        args,
        eval_dataset=eval_rows,
        processing_class=with_crop(processor, crop_ratio=crop_ratio, eval_crop=eval_crop),
        image_column_name=data_args.image_column_name,
        label_column_name=data_args.label_column_name,
        compute_metrics=accuracy,
    )
    metrics = _evaluate(trainer)
    metrics["eval_samples"] = accuracy.num_images
    assert accuracy.num_images == len(eval_rows)
    if confusion is not None and per_class_file is not None and trainer.is_world_process_zero():
        report = {name: metrics[name] for name in ("eval_crop", "eval_fusion") if name in metrics}
        Path(per_class_file).write_text(json.dumps({**report, **confusion.report()}, indent=1), encoding="utf-8")
    return metrics


def _evaluate(trainer: DistillationTrainer) -> dict[str, Any]:
    """The Trainer's metrics, and what they depend on: the crop in words, and with two heads the fusion."""
    metrics: dict[str, Any] = trainer.evaluate()
    metrics["eval_crop"] = crop_in_words(trainer.processing_class.to_dict())
    if "eval_top1_average" in metrics:
        metrics["eval_fusion"] = trainer.args.eval_fusion
    return metrics


def _check_single_labels(rows: datasets.Dataset, label_column_name: str) -> None:
    labels = rows.select_columns([label_column_name])[:][label_column_name]
    several = next((row for row, label in enumerate(labels) if isinstance(label, list) and len(set(label)) > 1), None)
    if several is not None:
        raise ValueError(
            f"row {several} has the labels {labels[several]}, but accuracy by class needs one label for each image; "
            "leave out `per_class_file` or the label file"
        )


def _label_config(
    rows: datasets.Dataset | ShardedRows, label_column_name: str, num_labels: int | None = None
) -> dict[str, Any]:
    """The data's label set as a model's config wants it; `num_labels` is for numbers without names."""
    dataset = rows.rows if isinstance(rows, ShardedRows) else rows
    names = class_names(dataset, label_column_name)
    if names is None:
        return {"num_labels": num_labels or _count_labels(rows, label_column_name)}
    if num_labels not in (None, len(names)):
        raise ValueError(
            f"`num_labels` is {num_labels}, but column `{label_column_name}` has {len(names)} classes with names; "
            "leave it out"
        )
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }


def _count_labels(rows: datasets.Dataset | ShardedRows, label_column_name: str) -> int:
    """One more than the largest label."""
    if isinstance(rows, ShardedRows):
        raise ValueError(
            f"column `{label_column_name}` has no names of classes, and how many there are is not known before all "
            "of a stream is read; say how many with `num_labels`"
        )
    feature = rows.features[label_column_name]
    if not re.fullmatch(r"u?int\d+", getattr(feature, "dtype", "")):
        raise TypeError(
            f"column `{label_column_name}` holds {feature}, but labels must be class indices or names; set "
            "`label_column_name`"
        )
    return max((label for label in rows[label_column_name] if label is not None), default=1) + 1


def _check_label_order(names: list[str] | None, id2label: dict[int, str]) -> None:
    """Refuses data that counts the model's labels in another order; other names may mean the same."""
    own = [id2label[index] for index in sorted(id2label)]
    if names is None or names == own:
        return
    if all(name.isdecimal() for name in names) and not set(names) & set(own):
        _check_numbers(names, own)
        return
    for index, name in enumerate(names):
        if name in own and own[index : index + 1] != [name]:
            raise ValueError(
                f"label {name!r} has index {index} in the data but {own.index(name)} in the model; bring the data's "
                "labels into the model's order with `dataset.align_labels_with_mapping`"
            )
    others = [name for name in names if name not in own]
    if others:
        logger.warning("labels have other names in the data (%s, ...) than in the model (%s, ...)", others[0], own[0])


def _check_numbers(names: list[str], own: list[str]) -> None:
    """Refuses classes named by numbers that are not the model's class indices, each in its place."""
    wrong = next((index for index, name in enumerate(names) if int(name) != index), None)
    if wrong is not None:
        raise ValueError(
            f"class {names[wrong]!r} of the data has index {wrong}; classes that are named by numbers, not as the "
            "model names them, must be its class indices: 0, 1, 2, ..., without a gap"
        )
    logger.warning("classes of the data are numbers, taken for the model's class indices (0 is %s)", own[0])
