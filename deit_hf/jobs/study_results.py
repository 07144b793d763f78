"""The results of a study: one line of JSON for each run, and the answers of its model to each image."""

import json
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from filelock import FileLock
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from ..analysis.token_similarity import token_cosines
from ..atomic_files import write_text, written_aside
from ..data.dataset import EvaluationViews, ImageDataset, ViewCollator
from ..data.transforms import evaluation_view
from ..evaluation.answers import LABELS, head_answers
from ..evaluation.confident_answers import ONLY
from ..evaluation.metric_names import HEADS
from ..hub.public_text import shown
from ..model.build import load_classifier
from ..model.labels import match_labels, real_names
from ..training.arguments import DistillationArguments

HEADS_OF_A_LINE = ({ONLY}, {*HEADS})
RESULTS_FILE, ANSWERS = "results.jsonl", "answers"
IMAGES_OF_COSINES = 1_000
# The fields that every line has, and their types.
FIELDS: dict[str, Any] = dict.fromkeys(("run", "study", "row", "protocol", "part"), str)
FIELDS |= dict.fromkeys(("seed", "num_images", "num_train_images"), int)
FIELDS |= dict.fromkeys(("top1", "teacher_fit", "cosines", "data", "environment", "options"), dict)
FIELDS |= {"seconds": (int, float, type(None)), "teacher": (str, type(None))}

# Options that change neither the training nor what is measured, so that they may differ between runs of a table.
OF_THE_MACHINE = {"use_cpu", "disable_tqdm", "per_device_eval_batch_size", "report_to"}
OF_THE_MACHINE |= {each.name for each in fields(DistillationArguments) if each.name.startswith("dataloader_")}
OF_THE_DATA = {"dataset_name", "dataset_config_name", "image_column_name", "label_column_name"}
OF_THE_DATA |= {"train_split", "eval_split"}


def recorded(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run that decide about its result, as they are read from a file; without paths."""
    own = {name: value for name, value in options.items() if name not in OF_THE_MACHINE | OF_THE_DATA}
    return dict(json.loads(json.dumps(shown(own))))


def measure(
    model_directory: Path, images: ImageDataset, class_names: list[str] | None, args: DistillationArguments
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the answers of a saved model to all images, and with two tokens their cosines on the first images.

    Args:
        model_directory: of a finished run.
        images: to classify.
        class_names: of the images in label order, or None. The answers are in this order, too, whatever the order of
            the model is, so that the answers of several models can be compared.
        args: batch size, workers and device.
    """
    model, processor = load_classifier(str(model_directory))
    model.to(args.device).eval()
    views = EvaluationViews(images, evaluation_view(processor))
    cosines: dict[str, Any] = {}
    if getattr(model.config, "use_distillation_token", False):
        first = Subset(views, range(min(len(views), IMAGES_OF_COSINES)))
        pixels = [batch["pixel_values"] for batch in _batches(first, args)]
        cosines = token_cosines(model, torch.cat(pixels))
    own = real_names(model.config.id2label)
    match = match_labels(
        class_names, images.num_classes, own, model.config.num_labels, side="the data", own_side=f"`{model_directory}`"
    )
    answers = head_answers(model, _batches(views, args))
    if match.indices is not None:
        of_model = np.full(model.config.num_labels, np.iinfo(np.uint16).max, np.uint16)  # a class that no image has
        of_model[list(match.indices)] = range(len(match.indices))
        answers = {name: each if name == LABELS else of_model[each] for name, each in answers.items()}
    return answers, cosines


def _batches(views: Any, args: DistillationArguments) -> Iterator[dict[str, Tensor]]:
    loader = DataLoader(
        views,
        batch_size=args.per_device_eval_batch_size,
        collate_fn=ViewCollator(None),
        num_workers=args.dataloader_num_workers,
        multiprocessing_context=args.dataloader_multiprocessing_context,
    )
    return (send_to_device(batch, args.device) for batch in loader)


def top1_by_head(answers: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Share of correct answers by head, in [0, 1]."""
    return {head: float(np.mean(of_head == answers[LABELS])) for head, of_head in answers.items() if head != LABELS}


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The lines of a study, in order of their runs' end.

    Raises:
        ValueError: a line is damaged; names it.
    """
    path = folder / RESULTS_FILE
    if not path.is_file():
        return []
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            line = json.loads(text) if text.strip() else None
        except ValueError as error:
            raise ValueError(f"`{path}`, line {number}, is damaged ({error}); delete the line") from error
        if line is not None:
            _check_line(line, f"`{path}`, line {number},", {each["run"] for each in lines})
            lines.append(line)
    return lines


def _check_line(line: Any, where: str, earlier: Collection[str]) -> None:
    missing = FIELDS.keys() - {*line} if isinstance(line, dict) else FIELDS
    if missing:
        raise ValueError(f"{where} lacks {', '.join(sorted(missing))}; delete the line")
    wrong = [name for name, kind in FIELDS.items() if not isinstance(line[name], kind)]
    wrong += [] if {*line["top1"]} in HEADS_OF_A_LINE else ["top1"]
    if wrong:
        raise ValueError(f"{where} has `{wrong[0]}` {line[wrong[0]]!r}, which no run writes; delete the line")
    if line["run"] in earlier:
        raise ValueError(f"{where} is of {line['run']}, as a line before it; delete one of them")


def read_answers(folder: Path, line: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The answers of the model of a run.

    Args:
        folder: of the study.
        line: of the run.

    Raises:
        FileNotFoundError: they are missing.
        ValueError: they are damaged, or not those of the line.
    """
    path = folder / ANSWERS / f"{line['run']}.npz"
    if not path.is_file():
        raise FileNotFoundError(f"`{path}` is missing, but {RESULTS_FILE} has a line of it; delete the line")
    advice = f"delete it and its line in {RESULTS_FILE}, to measure the run again"
    try:
        with np.load(path, allow_pickle=False) as stored:
            answers = dict(stored)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"`{path}` is damaged; {advice}") from error
    lengths = {len(values) for values in answers.values()}
    if LABELS not in answers or lengths != {line["num_images"]} or top1_by_head(answers) != line["top1"]:
        raise ValueError(f"`{path}` does not have the answers of its line ({line['num_images']} images); {advice}")
    return answers


def add_result(folder: Path, line: Mapping[str, Any], answers: Mapping[str, np.ndarray]) -> None:
    """Writes the answers of a run, then its line; processes that share the folder wait for each other."""
    with written_aside(folder / ANSWERS) as aside, open(aside / f"{line['run']}.npz", "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **answers)
    with FileLock(folder / f"{RESULTS_FILE}.lock"):
        lines = [*(each for each in read_results(folder) if each["run"] != line["run"]), dict(line)]
        write_results(folder, lines)


def write_results(folder: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes all lines of a study, in full or not at all."""
    write_text(folder / RESULTS_FILE, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
