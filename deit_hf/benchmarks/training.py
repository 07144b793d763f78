"""Images per second of a training, compared with timm and transformers on the same files.

Without a teacher, plain DeiTs learn from labels. With a teacher, distilled DeiTs learn from its decisions (hard
distillation), computed in each step or stored before. The trainings alternate, an epoch or more at a time.
"""

import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import torch
from safetensors.torch import save_file

from ..argument_checks import check
from ..data.sources.arguments import DataArguments
from ..data.sources.load import load_image_datasets
from ..model.timm_models import create_timm_model, names_weights
from .comparison import (
    Comparison,
    Contender,
    default_batch_size,
    in_turn,
    ratios_of,
    rows_of,
    threads,
)
from .contenders import PLAIN, Run, Setup, contenders_of
from .input import generate_jpegs
from .peers import encoded_images

NUM_GENERATED_CLASSES = 10
NOTES = (
    "all use the paper's augmentation, without repeats (timm has them only in distributed training)",
    "transformers: Trainer with timm's transforms; it does not mix images, and its DeiT has no stochastic depth",
    "waits for data: share of the time in which the process of the training waited for the next batch",
)
WITHOUT_TEACHER = (
    "no rows with a teacher: name one with `--teacher SOURCE`, or measure the cost of an architecture with `--teacher "
    "timm:regnety_160 --random_teacher`"
)


def measure_trainings(
    data: DataArguments | None = None,
    *,
    num_images: int = 64,
    size: str = "tiny",
    teacher: str | None = None,
    random_teacher: bool = False,
    batch_size: int | None = None,
    num_rounds: int = 3,
    num_threads: int | None = None,
    **options: Any,
) -> Comparison:
    """Measures trainings of deit_hf, timm and transformers on the same files.

    Args:
        data: where the images are from; None generates JPEGs.
        num_images: images that are generated.
        size: of the student: `tiny`, `small` or `base`.
        teacher: source of the teacher, as in a training; None leaves out the rows with a teacher.
        random_teacher: whether the teacher is `timm:NAME` with random weights.
        batch_size: images per step, an even number. Default: 8 on CPUs, 256 on an accelerator.
        num_rounds: measured runs of each training; one more comes first as a warm-up.
        num_threads: of torch on the CPU. Default: torch's own choice.
        options: `image_size`, `num_epochs`, `num_workers`, `dtype` and `compiled` of `Setup`.

    Raises:
        OSError: a source does not exist.
        ValueError: a number is out of range, or the teacher does not fit the data.
    """
    batch_size = default_batch_size() if batch_size is None else batch_size
    check("batch_size", batch_size, lambda v: v >= 2 and v % 2 == 0, "an even number: pairs are mixed")
    check("num_rounds", num_rounds, lambda v: v >= 1, "1 or more")
    _check_num_images(num_images, batch_size)
    _check_random_teacher(teacher, random_teacher)
    with tempfile.TemporaryDirectory() as folder, threads(num_threads):
        data = DataArguments(train_dir=_write_generated(num_images, folder)) if data is None else data
        setup = _setup(data, folder, size=size, batch_size=batch_size, **options)
        _check_num_images(len(setup.files), batch_size)
        source = _random_weights(teacher, setup) if random_teacher and teacher else teacher
        runs = in_turn(contenders_of(setup, source), num_rounds)
        notes = [*NOTES, WITHOUT_TEACHER if teacher is None else _teacher_note(teacher, random_teacher)]
        settings = {"size": size, "num_images": len(setup.files), "batch_size": batch_size, **options}
        settings |= {"num_rounds": num_rounds, "threads": torch.get_num_threads()}
        return Comparison("training", settings, _rows(runs, setup.num_images), notes)


def _check_num_images(number: int, batch_size: int) -> None:
    check("num_images", number, lambda v: v >= batch_size, f"{batch_size} or more, as `batch_size`")


def _check_random_teacher(teacher: str | None, random_teacher: bool) -> None:
    if random_teacher and (teacher is None or not teacher.startswith("timm:") or names_weights(teacher)):
        raise ValueError(
            f"`random_teacher` needs `teacher` timm:NAME without a file, but it is {teacher}; pass --teacher "
            "timm:regnety_160, or leave `random_teacher` out"
        )


def _write_generated(num_images: int, folder: str) -> str:
    """Writes generated JPEGs as class folders, and returns their folder."""
    rows = generate_jpegs(num_images).cast_column("image", datasets.Image(decode=False))
    root = Path(folder, "images")
    for index, row in enumerate(rows):
        path = root / f"class_{index % min(NUM_GENERATED_CLASSES, num_images)}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["image"]["bytes"])
    return str(root)


def _setup(data_args: DataArguments, folder: str, **options: Any) -> Setup:
    rows = load_image_datasets(data_args)[0]
    assert isinstance(rows, datasets.Dataset)
    files, labels = encoded_images(rows, data_args)
    feature = rows.features[data_args.label_column_name]
    num_classes = getattr(feature, "num_classes", None) or max(labels) + 1
    if num_classes < 2:
        raise ValueError("the images have 1 class, but a classifier needs 2 or more; name another dataset")
    found: Any = {"rows": rows, "files": files, "labels": labels, "num_classes": num_classes}
    return Setup(data_args=data_args, folder=folder, **found, **options)


def _random_weights(teacher: str, setup: Setup) -> str:
    """Saves a randomly initialised timm model with the classes of the data, and returns its source."""
    path = f"{setup.folder}/teacher.safetensors"
    save_file(create_timm_model(teacher, setup.num_classes, pretrained=False).state_dict(), path)
    return f"{teacher}@{path}"


def _teacher_note(teacher: str, random_teacher: bool) -> str:
    return f"teacher: {teacher}{', with random weights: only its cost counts' if random_teacher else ''}"


def _rows(runs: Mapping[Contender, list[Run]], num_images: int) -> list[dict[str, Any]]:
    speeds = {contender: [num_images / run.seconds for run in each] for contender, each in runs.items()}
    rows = rows_of(speeds)
    for row in rows:
        contender = row["setting"], row["package"]
        row["data_wait"] = statistics.median(run.waiting / run.seconds for run in runs[contender])
        if row["setting"] != PLAIN:
            row["of_no_teacher"] = statistics.median(ratios_of(speeds[contender], speeds[PLAIN, row["package"]]))
    return rows
