"""Accuracy of a saved model on an evaluation part, for `deit-hf evaluate`."""

import dataclasses
import json
from typing import Any

from transformers import PreTrainedModel

from ..atomic_files import write_text
from ..data.check import check_data, log_data_report
from ..data.sources.arguments import DataArguments
from ..data.sources.load import load_image_parts
from ..evaluation.metrics import HeadAccuracy
from ..model.build import load_classifier
from ..model.image_processing_deit import EvalCrop, with_crop
from ..model.labels import check_single_labels
from .arguments import DistillationArguments
from .run import evaluate_trainer
from .trainer import DistillationTrainer


def evaluate(
    model_name_or_path: str,
    data_args: DataArguments,
    args: DistillationArguments,
    *,
    crop_ratio: float | None = None,
    eval_crop: EvalCrop | None = None,
    per_class_file: str | None = None,
) -> dict[str, Any]:
    """Measures a saved model on the evaluation split; a model with two heads by each head and by both together.

    Args:
        model_name_or_path: Hub id or directory of any image classifier.
        data_args: the data, and optionally a label file.
        args: batch size and `fusion`.
        crop_ratio: see `make_processor`; None keeps the view of the model's own processor.
        eval_crop: see `make_processor`; None likewise.
        per_class_file: where to write `Confusion.report` as JSON.

    Returns:
        The metrics of `Trainer.evaluate`, `eval_samples` (number of images), `eval_crop` (in words) and, with two
        heads, `eval_fusion` (a key of `FUSIONS`).

    Raises:
        ValueError: the labels of model and data do not match, `per_class_file` is given but images have several
            labels, or an option would have no effect.
        OSError: a source is not found, or the file cannot be written.
    """
    has_file = per_class_file is not None
    found, by_class = measure(
        model_name_or_path, data_args, args, crop_ratio=crop_ratio, eval_crop=eval_crop, by_class=has_file
    )
    if per_class_file is not None and by_class is not None:
        write_text(per_class_file, json.dumps(by_class, indent=1))
    return found


def measure(
    model_name_or_path: str,
    data_args: DataArguments,
    args: DistillationArguments,
    *,
    crop_ratio: float | None = None,
    eval_crop: EvalCrop | None = None,
    by_class: bool = False,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Like `evaluate`, but writes nothing: returns the metrics and, if asked, `Confusion.report`.

    Only the first process has the latter.
    """
    check_used(data_args)
    model, processor = load_classifier(model_name_or_path)
    _check_fusion(args, model)
    parts = load_image_parts(data_args, train=False)
    columns = {name: getattr(data_args, name) for name in ("image_column_name", "label_column_name")}
    if args.process_index == 0:
        log_data_report(check_data(parts, **columns))
    eval_rows = parts.evaluation
    assert eval_rows is not None
    if by_class:
        check_single_labels(eval_rows, data_args.label_column_name)
    accuracy = HeadAccuracy(needs_finite=True)
    trainer = DistillationTrainer(
        model,
        args,
        eval_dataset=eval_rows,
        processing_class=with_crop(processor, crop_ratio=crop_ratio, eval_crop=eval_crop),
        compute_metrics=accuracy,
        **columns,
    )
    metrics = evaluate_trainer(trainer)
    metrics["eval_samples"] = accuracy.num_images
    assert accuracy.num_images == len(eval_rows)
    if not by_class or accuracy.confusion is None or not trainer.is_world_process_zero():
        return metrics, None
    means = ("eval_balanced_accuracy", "eval_macro_f1")  # of the model's answer
    names = ("eval_crop", "eval_fusion", *means, *(f"{name}_average" for name in means))
    report = {name: metrics[name] for name in names if name in metrics}
    report |= accuracy.confusion.report([model.config.id2label[index] for index in sorted(model.config.id2label)])
    return metrics, report


def check_used(data_args: DataArguments) -> None:
    """Refuses options that only a training reads."""
    unused = {
        "train_dir": "name the folder to evaluate on with `validation_dir`",
        "train_split": "name the split to evaluate on with `eval_split`",
        "max_train_samples": "use `max_eval_samples`",
        "num_labels": "the model gives the number of classes; leave it out",
        "streaming": "leave it out",
    }
    defaults = {option.name: option.default for option in dataclasses.fields(data_args)}
    if data_args.train_val_split is not None:  # the images are held out of the training part
        del unused["train_dir"], unused["train_split"]
    for name, advice in unused.items():
        if getattr(data_args, name) != defaults[name]:
            raise ValueError(
                f"`{name}` is {getattr(data_args, name)}, but an evaluation reads no training data; {advice}"
            )


def _check_fusion(args: DistillationArguments, model: PreTrainedModel) -> None:
    if args.fusion != "logit_mean" and not type(model).__name__.endswith("WithTeacher"):
        raise ValueError(f"`fusion` is {args.fusion!r}, but a {type(model).__name__} has only one head; leave it out")
