"""Measures models for `deit-hf report`: answers of each head to each image, cost, and the files of their runs."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..analysis.flops import multiply_adds
from ..analysis.latency import milliseconds
from ..analysis.report_facts import ModelAnswers, report_facts
from ..data.check import check_data, log_data_report
from ..data.dataset import EvaluationViews, ImageDataset, ViewCollator
from ..data.sources.arguments import DataArguments
from ..data.sources.load import ImageParts, load_image_parts
from ..data.transforms import evaluation_view
from ..distillation.teacher_view import load_with_own_view
from ..evaluation.arguments import ReportArguments
from ..evaluation.confident_answers import Answers, confident_answers
from ..evaluation.metrics import head_logits
from ..hub.public_text import shown
from ..model.build import load_classifier
from ..model.image_processing_deit import crop_in_words, crop_size, with_crop
from ..model.labels import class_names, match_labels, real_names
from ..training.arguments import DistillationArguments
from ..training.input_pipeline import InputPipeline
from ..training.saved_model import check_used
from .report_sources import display_names, find_sources, run_facts

logger = logging.getLogger(__name__)


@dataclass
class Report:
    """A finished measurement.

    Attributes:
        facts: all numbers, as plain data (see `report_facts`).
        images: the evaluation images, for thumbnails.
        logs: log of the training of each model by name, where its directory holds a run.
    """

    facts: dict[str, Any]
    images: ImageDataset
    logs: dict[str, list[dict[str, Any]]]


def make_report(options: ReportArguments, data_args: DataArguments, args: DistillationArguments) -> Report:
    """Measures all models of a report, one after the other.

    Args:
        options: models and teacher.
        data_args: the evaluation data.
        args: batch size, workers and device.

    Raises:
        ValueError: the classes of a model differ from those of the data or of the first model, or images have several
            labels.
        OSError: a source is not found.
    """
    check_used(data_args)
    sources = find_sources(options.models, options.teacher)
    columns = {name: getattr(data_args, name) for name in ("image_column_name", "label_column_name")}
    loaded = [(model, with_crop(processor)) for model, processor in map(load_classifier, sources.models)]
    parts = load_image_parts(data_args, train=False)
    log_data_report(check_data(parts, **columns))
    names = display_names([*sources.models, *sources.teachers])
    pipelines = [InputPipeline(args, processor, model.config, *columns.values()) for model, processor in loaded]
    views = [_views(pipeline, parts, name) for pipeline, name in zip(pipelines, names, strict=False)]
    labels = _labels_of(views[0].images)
    config = loaded[0][0].config
    measured = []
    for (model, processor), view, name in zip(loaded, views, names, strict=False):
        cost, order = _cost(model, processor, args), np.arange(config.num_labels)
        if model is not loaded[0][0]:
            order = _order(model.config, config, name, names[0])
        found = _measure(_forward(model), view, args, name)
        found = {head: each._replace(classes=order[each.classes]) for head, each in found.items()}
        measured.append(ModelAnswers(name, found, cost, is_teacher=False))
    runs = {name: run for name, source in zip(names, sources.models, strict=False) if (run := run_facts(source))}
    by_source = dict(zip(sources.models, names, strict=False))
    for (source, taught), name in zip(sources.teachers.items(), names[len(loaded) :], strict=True):
        teachers = _measured_teacher(source, name, config, views[0].images, args, sources.asked)
        measured += [each._replace(taught=[by_source[model] for model in taught]) for each in teachers]
    facts = report_facts(
        measured,
        labels,
        _names_of(config, parts, data_args),
        data={"name": data_name(data_args), "part": parts.names.get("evaluation", "")},
        device=_device_name(args.device),
        thumbnails=options.thumbnails,
        runs={name: {"settings": run["settings"], "results": run["results"]} for name, run in runs.items()},
    )
    return Report(facts, views[0].images, {name: run["log"] for name, run in runs.items()})


def _views(pipeline: InputPipeline, parts: ImageParts, name: str) -> EvaluationViews:
    try:
        return pipeline.evaluation(parts.evaluation)
    except ValueError as error:
        raise ValueError(f"model `{name}`: {error}") from error


def data_name(data_args: DataArguments) -> str:
    """The data for people, without the directories that it is in."""
    source = data_args.dataset_name or data_args.validation_dir or data_args.train_dir
    return Path(str(source)).resolve().name if Path(str(source)).exists() else str(shown(source))


def _labels_of(images: ImageDataset) -> np.ndarray:
    """The labels (N,) of the images, in the class order of the first model."""
    labels = images.labels
    assert labels is not None
    if labels.ndim > 1 and labels.shape[1] > 1:
        row = int(np.argmax((labels >= 0).sum(axis=1) > 1))
        found = [label for label in labels[row].tolist() if label >= 0]
        raise ValueError(
            f"row {row} has the labels {found}, but a report needs one label per image; name a column of single "
            "labels (`label_column_name`), leave out a label file, or use `deit-hf evaluate`"
        )
    return labels.reshape(len(labels))


def _names_of(config: Any, parts: ImageParts, data_args: DataArguments) -> list[str]:
    """The class names: of the first model, else of the data if it has all classes, else numbers."""
    assert parts.evaluation is not None
    names = real_names(config.id2label) or class_names(parts.evaluation, data_args.label_column_name)
    return names if names and len(names) == config.num_labels else [f"class {i}" for i in range(config.num_labels)]


def _order(config: Any, first: Any, name: str, first_name: str) -> np.ndarray:
    """The class of the first model for each class of another one, (C,)."""
    match = match_labels(
        real_names(config.id2label),
        config.num_labels,
        real_names(first.id2label),
        first.num_labels,
        side=f"model `{name}`",
        own_side=f"model `{first_name}`",
        needs_all=True,
        advice="models next to each other need the same classes; make a report of each",
    )
    if match.note is not None:
        logger.warning("%s", match.note)
    return np.arange(first.num_labels) if match.indices is None else np.asarray(match.indices)


def _forward(model: Any) -> Callable[[Tensor], tuple[Tensor, ...]]:
    return lambda pixel_values: head_logits(model(pixel_values=pixel_values.to(model.dtype)), "logit_mean")


def _measure(
    logits_of: Callable[[Tensor], tuple[Tensor, ...]], views: EvaluationViews, args: DistillationArguments, name: str
) -> dict[str, Answers]:
    return confident_answers(logits_of, tqdm(_batches(views, args), desc=name, unit="batch", disable=None))


def _batches(views: EvaluationViews, args: DistillationArguments) -> Iterator[dict[str, Any]]:
    loader: Iterable[dict[str, Any]] = DataLoader(
        views,
        batch_size=args.per_device_eval_batch_size,
        collate_fn=ViewCollator(None),
        num_workers=args.dataloader_num_workers,
        multiprocessing_context=args.dataloader_multiprocessing_context,
    )
    for batch in loader:
        batch = send_to_device(batch, args.device)
        yield {**batch, "labels": batch["labels"].reshape(len(batch["labels"]), -1)[:, 0]}


def _measured_teacher(
    source: str, name: str, config: Any, images: ImageDataset, args: DistillationArguments, asked: bool
) -> list[ModelAnswers]:
    """The teacher on its own views, in a list; an empty one if nobody asked for it and it does not fit."""
    try:
        teacher, processor = load_with_own_view(source, student_config=config, device=args.device)
    except (ValueError, OSError) as error:
        if asked:
            raise
        logger.warning("the teacher is left out of the report: %s", error)
        return []
    cost, views = _cost(teacher.module, processor, args), EvaluationViews(images, evaluation_view(processor))
    answers = _measure(lambda pixel_values: (teacher(pixel_values),), views, args, name)
    return [ModelAnswers(name, answers, cost, is_teacher=True)]


def _cost(model: Any, processor: Any, args: DistillationArguments) -> dict[str, Any]:
    """Size and speed of a model."""
    model.to(args.device).eval()
    tensors = [*model.parameters(), *model.buffers()]
    pixels = torch.zeros(1, 3, *crop_size(processor), device=args.device, dtype=tensors[0].dtype)
    return {
        "class": type(model).__name__,
        "crop": crop_in_words(processor.to_dict()),
        "image_size": list(crop_size(processor)),
        "parameters": sum(each.numel() for each in model.parameters()),
        "megabytes": sum(each.numel() * each.element_size() for each in tensors) / 1e6,
        "multiply_adds": multiply_adds(model, pixels),
        "milliseconds": milliseconds(model, pixels),
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'' if threads == 1 else 's'}" if device.type == "cpu" else device.type


def results_in_words(facts: dict[str, Any]) -> Sequence[str]:
    """The accuracies of a report, one line for each head."""
    rows = [
        (model["name"] if len(model["heads"]) == 1 else f"{model['name']}, {head['title']}", head)
        for model in facts["models"]
        for head in model["heads"]
    ]
    width = max(len(name) for name, _ in rows)
    return [
        f"{name:{width}}  top-1 {100 * head['top1']:5.1f} ({100 * head['interval'][0]:.1f} to "
        f"{100 * head['interval'][1]:.1f})  ECE {100 * head['ece']:4.1f}"
        for name, head in rows
    ]
