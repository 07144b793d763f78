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

from ..argument_checks import check, check_choice
from ..data.sources.arguments import DataArguments
from ..data.sources.load import load_image_datasets
from ..model.timm_models import create_timm_model, names_weights
from .comparison import (
    DTYPES,
    Comparison,
    Contender,
    check_compiler,
    device_of_benchmarks,
    in_turn,
    ratios_of,
    rows_of,
    threads,
)
from .contenders import PLAIN, Run, Setup, contenders_of
from .input import generate_jpegs

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
    *,
    dataset_name: str | None = None,
    train_dir: str | None = None,
    train_split: str = "train",
    image_column_name: str = "image",
    label_column_name: str = "label",
    num_images: int = 64,
    size: str = "tiny",
    teacher: str | None = None,
    random_teacher: bool = False,
    num_epochs: int = 1,
    num_workers: int = 2,
    batch_size: int | None = None,
    num_rounds: int = 3,
    image_size: int = 224,
    dtype: str = "float32",
    compiled: bool = False,
    num_threads: int | None = None,
) -> Comparison:
    """Measures trainings of deit_hf, timm and transformers on the same files.

    Args:
        dataset_name: Hub id or local directory. Without it and `train_dir`, JPEGs are generated.
        train_dir: folder with one sub-folder per class.
        train_split: of the dataset.
        image_column_name: column that holds the images.
        label_column_name: column that holds the labels.
        num_images: images of an epoch, at least `batch_size`.
        size: of the student.
        teacher: source of the teacher, as in a training; None leaves out the rows with a teacher.
        random_teacher: whether the teacher is `timm:NAME` with random weights.
        num_epochs: epochs of one run.
        num_workers: data workers.
        batch_size: images per step, an even number. Default: 8 on CPUs, 256 on an accelerator.
        num_rounds: measured runs of each training; one more comes first as a warm-up.
        image_size: side of a view in pixels, a multiple of 16.
        dtype: `float32`, or `bfloat16` for mixed precision.
        compiled: whether all models are compiled with `torch.compile`.
        num_threads: of torch on the CPU. Default: torch's own choice.

    Raises:
        OSError: a source does not exist.
        ValueError: a number is out of range, or the teacher does not fit the data.
    """
    device = device_of_benchmarks()
    batch_size = (8 if device.type == "cpu" else 256) if batch_size is None else batch_size
    _check(batch_size=batch_size, num_rounds=num_rounds, num_epochs=num_epochs, num_workers=num_workers)
    check("image_size", image_size, lambda v: v >= 16 and v % 16 == 0, "a multiple of 16 pixels")
    is_enough: Any = {"allowed": lambda v: v >= batch_size, "description": f"{batch_size} or more, as `batch_size`"}
    check("num_images", num_images, **is_enough)
    check_choice("size", size, ("tiny", "small", "base"))
    check_choice("dtype", dtype, tuple(DTYPES))
    _check_random_teacher(teacher, random_teacher)
    if compiled:
        check_compiler(device)
    with tempfile.TemporaryDirectory() as folder, threads(num_threads):
        columns: Any = {"image_column_name": image_column_name, "label_column_name": label_column_name}
        if dataset_name is None and train_dir is None:
            train_dir = _write_generated(num_images, folder)
        data_args = DataArguments(
            dataset_name=dataset_name,
            train_dir=train_dir,
            train_split=train_split,
            max_train_samples=num_images,
            **columns,
        )
        options = {"image_size": image_size, "num_epochs": num_epochs, "num_workers": num_workers, "dtype": dtype}
        setup = _setup(data_args, folder, size=size, batch_size=batch_size, compiled=compiled, **options)
        check(
            "num_images", len(setup.files), lambda v: v >= batch_size, f"{batch_size} or more, which is `batch_size`"
        )
        source = _random_weights(teacher, setup) if random_teacher and teacher else teacher
        runs = in_turn(contenders_of(setup, source), num_rounds)
        notes = [*NOTES, WITHOUT_TEACHER if teacher is None else _teacher_note(teacher, random_teacher)]
        settings = {"size": size, "num_images": len(setup.files), "batch_size": batch_size, **options}
        settings |= {"compiled": compiled, "num_rounds": num_rounds, "threads": torch.get_num_threads()}
        return Comparison("training", settings, _rows(runs, setup.num_images), notes)


def _check(**numbers: int) -> None:
    check(
        "batch_size", numbers["batch_size"], lambda v: v >= 2 and v % 2 == 0, "an even number, since pairs are mixed"
    )
    check("num_workers", numbers["num_workers"], lambda v: v >= 0, "0 or more")
    for name in ("num_rounds", "num_epochs"):
        check(name, numbers[name], lambda v: v >= 1, "1 or more")


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
    undecoded = rows.cast_column(data_args.image_column_name, datasets.Image(decode=False))
    files = [file["bytes"] or file["path"] for file in undecoded[data_args.image_column_name]]
    labels = list(rows[data_args.label_column_name])
    feature = rows.features[data_args.label_column_name]
    num_classes = getattr(feature, "num_classes", None) or max(labels) + 1
    if num_classes < 2:
        raise ValueError("the images have 1 class, but a classifier needs 2 or more; name another dataset")
    return Setup(
        rows=rows, data_args=data_args, files=files, labels=labels, num_classes=num_classes, folder=folder, **options
    )


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
