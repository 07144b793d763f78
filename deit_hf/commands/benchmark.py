"""Speed compared to other packages: deit-hf benchmark {input,model,training} [--option value ...]

input     training views of the paper's recipe, compared to timm's own transforms, in one data worker
model     inference and a training step of the distilled DeiT, compared to timm and transformers
training  a whole training on the same files, compared to timm and transformers: without a teacher, and with one

All parts alternate between the packages, and report medians and ratios. A ratio above 1 means that this package is
faster. The JPEGs are generated unless a dataset is named.
"""

import argparse
import logging
import os
from collections.abc import Sequence
from typing import Any

from ..argument_checks import ListsArguments, check_files
from .errors import one_line_errors
from .parser import CommandParser

PARTS = ("input", "model", "training")
# Option -> its parts with their defaults, and what add_argument takes.
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dataset_name": (
        {"input": None, "training": None},
        {"help": "Hub id or local directory of a dataset of images and labels"},
    ),
    "train_dir": ({"training": None}, {"help": "folder with one sub-folder of images per class"}),
    "train_split": ({"input": "train", "training": "train"}, {"help": "split of the dataset"}),
    "image_column_name": ({"input": "image", "training": "image"}, {"help": "column that holds the images"}),
    "label_column_name": ({"input": "label", "training": "label"}, {"help": "column that holds the labels"}),
    "num_images": (
        {"input": 100, "training": None},
        {"type": int, "help": "images per round; training: 8 batches unless set"},
    ),
    "variants": (
        {"model": ["deit_tiny_distilled_patch16_224", "deit_small_distilled_patch16_224"]},
        {"nargs": "+", "metavar": "VARIANT", "help": "distilled variants"},
    ),
    "size": ({"training": "tiny"}, {"choices": ["tiny", "small", "base"], "help": "size of the student"}),
    "teacher": ({"training": None}, {"help": "teacher, as in a training: Hub id, directory or timm:NAME[@FILE]"}),
    "random_teacher": (
        {"training": False},
        {"action": "store_true", "help": "use the architecture --teacher timm:NAME with random weights"},
    ),
    "num_epochs": ({"training": 1}, {"type": int, "help": "epochs of the images in a round"}),
    "num_workers": ({"training": os.cpu_count() or 1}, {"type": int, "help": "data workers"}),
    "batch_size": ({"model": None, "training": None}, {"type": int, "help": "images per step; 8 on CPUs, else 256"}),
    "num_rounds": ({"input": 10, "model": 5, "training": 3}, {"type": int, "help": "rounds that are measured"}),
    "image_size": ({"input": 224, "model": 224, "training": 224}, {"type": int, "help": "side of a view in pixels"}),
    "dtype": (
        {"model": "float32", "training": "float32"},
        {"choices": ["float32", "bfloat16"], "help": "bfloat16 is mixed precision"},
    ),
    "compile": (
        {"model": False, "training": False},
        {"action": "store_true", "help": "compile all models, which takes minutes before the first round"},
    ),
    "threads": ({"model": None, "training": None}, {"type": int, "help": "threads of torch on the CPU"}),
    "output": ({"model": None, "training": None}, {"metavar": "FILE.json", "help": "also write the result as JSON"}),
}
OF_A_DATASET = ("train_split", "image_column_name", "label_column_name")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints the speed."""
    parser = _make_parser()
    given = vars(parser.parse_args(arguments))
    part = given.pop("part")
    with one_line_errors():
        options = _options_of(part, given)
        if part == "input":
            print(_measure_input(options))
            return
        from ..training.console import set_up_logging

        set_up_logging(verbose=False)
        logging.getLogger("deit_hf").setLevel(logging.WARNING)  # each training would log its recipe
        output = options.pop("output")
        check_files({"output": output})
        comparison = _measure_model(options) if part == "model" else _measure_training(options)
        print(comparison)
        if output is not None:
            comparison.write(output)


def _make_parser() -> ListsArguments:
    parser = CommandParser(prog="deit-hf benchmark", description=__doc__)
    parser.add_argument("part", choices=PARTS, help="what to measure")
    for name, (defaults, settings) in OPTIONS.items():
        values = {_shown(value) for value in defaults.values()} - {"None", "False"}
        of_parts = "" if len(defaults) == len(PARTS) else f"{', '.join(defaults)}: "
        default = f" (default: {', '.join(sorted(values))})" if len(values) == 1 else ""
        if len(values) > 1:
            default = f" (default: {', '.join(f'{part} {value}' for part, value in defaults.items())})"
        text = f"{of_parts}{settings['help']}{default}"
        parser.add_argument(f"--{name}", **{**settings, "help": text, "default": argparse.SUPPRESS})
    return parser


def _shown(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def _options_of(part: str, given: dict[str, Any]) -> dict[str, Any]:
    """Returns all options of a part; refuses those that would have no effect on it."""
    for name in given:
        parts = OPTIONS[name][0]
        if part not in parts:
            raise ValueError(f"`{name}` has no effect on `benchmark {part}`, only on {', '.join(parts)}; leave it out")
    options = {name: defaults[part] for name, (defaults, _) in OPTIONS.items() if part in defaults} | given
    if options.get("dataset_name") is None:
        for name in OF_A_DATASET:
            if name in options and options[name] != OPTIONS[name][0][part]:
                raise ValueError(f"`{name}` is for a dataset; name one with `--dataset_name`, or leave it out")
    return options


def _measure_input(options: dict[str, Any]) -> Any:
    from ..benchmarks.input import generate_jpegs, measure_input
    from ..data.sources.load import load_image_datasets

    data, num_images, column = _take_data(options), options.pop("num_images"), options.pop("image_column_name")
    if data is None:
        return measure_input(generate_jpegs(num_images), **options)
    return measure_input(load_image_datasets(data)[0], image_column_name=column, **options)


def _measure_model(options: dict[str, Any]) -> Any:
    from ..benchmarks.model import measure_models

    return measure_models(options.pop("variants"), **_named_like_arguments(options))


def _measure_training(options: dict[str, Any]) -> Any:
    from ..benchmarks.comparison import default_batch_size
    from ..benchmarks.training import measure_trainings

    if options["num_images"] is None:
        batch_size = options["batch_size"]
        options["num_images"] = 8 * (default_batch_size() if batch_size is None else batch_size)
    data = _take_data(options)
    del options["image_column_name"]
    return measure_trainings(data, **_named_like_arguments(options))


def _take_data(options: dict[str, Any]) -> Any:
    """Takes the options of a data source out; returns None if the images are generated."""
    from ..data.sources.arguments import DataArguments

    source = {
        name: options.pop(name, None) for name in ("dataset_name", "train_dir", "train_split", "label_column_name")
    }
    if source["dataset_name"] is None and source["train_dir"] is None:
        return None
    columns = {"image_column_name": options["image_column_name"]}
    return DataArguments(max_train_samples=options["num_images"], **columns, **source)


def _named_like_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Renames the options that have another name in Python, where `compile` is a function."""
    names = {"compile": "compiled", "threads": "num_threads"}
    return {names.get(name, name): value for name, value in options.items()}
