"""Exports a model to ONNX, to run it without torch: deit-hf export MODEL DIR (or: deit-hf export MODEL -o DIR)

MODEL is a directory or a Hub id of any image classifier. DIR gets onnx/model.onnx, config.json,
preprocessor_config.json and a README.md that describes the preprocessing: the layout that transformers.js, the Hub's
JavaScript library, reads. The batch size is free. The file is compared with the model on images, in batches of one and
of three; if a logit differs by more than 1e-3 (or 1e-3 of the largest logit), nothing is written.

examples:
  deit-hf export runs/flowers/student runs/flowers/onnx
  deit-hf export runs/flowers/student runs/flowers/onnx --int8 --data flowers/

--int8 also writes onnx/model_quantized.onnx with 8-bit weights, by onnxruntime's dynamic quantisation. With --data,
the accuracy of the model and of each file is measured on the evaluation part of DATA.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..training.console import set_up_logging
from .parser import CommandParser

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.utils.data import DataLoader
    from transformers import PreTrainedModel

    from ..data.sources.arguments import DataArguments

# options of DataArguments that choose the evaluation images
DATA_OPTIONS = (
    "dataset_name",
    "dataset_config_name",
    "validation_dir",
    "eval_split",
    "image_column_name",
    "label_column_name",
    "label_file",
    "max_eval_samples",
)
BATCH_SIZE = 16  # of the accuracy


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    set_up_logging(verbose=False)
    from .errors import one_line_errors  # this import and those below take seconds

    with one_line_errors():
        model, directory = _model_and_directory(options)
        data = _data_arguments(options)
        from ..model.export import check_directory, check_onnx_installed

        check_onnx_installed()
        check_directory(directory, overwrite=options.overwrite)
        _export(model, directory, data, int8=options.int8, overwrite=options.overwrite)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="deit-hf export",
        usage="deit-hf export MODEL DIR [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="MODEL DIR", help="the model, and the directory for the export")
    parser.add_argument(
        "--model_name_or_path", metavar="MODEL", help="the model; the only positional argument is then DIR"
    )
    parser.add_argument(
        "-o", "--output_dir", metavar="DIR", help="the directory; the only positional argument is then MODEL"
    )
    parser.add_argument("--int8", action="store_true", help="also write a file with 8-bit weights")
    parser.add_argument("--overwrite", action="store_true", help="write even if DIR holds files")
    parser.add_argument(
        "--data", "--dataset_name", dest="dataset_name", metavar="DATA", help="measure the accuracy on this data: a "
        "Hub id, a directory of class folders or parquet files, or digits"
    )  # fmt: skip
    parser.add_argument("--dataset_config_name", help="configuration of DATA")
    parser.add_argument("--validation_dir", help="class folders to measure the accuracy on, instead of DATA")
    parser.add_argument("--eval_split", help="name of the evaluation part (default: validation, else test)")
    parser.add_argument("--image_column_name", help="column that holds the images (default: image)")
    parser.add_argument("--label_column_name", help="column that holds the labels (default: label)")
    parser.add_argument("--label_file", help="file with labels that replace those of DATA, such as ImageNet-ReaL's")
    parser.add_argument("--max_eval_samples", type=int, help="largest number of images to measure")
    return parser


def _model_and_directory(options: argparse.Namespace) -> tuple[str, Path]:
    flags = [options.model_name_or_path, options.output_dir]
    if len(options.names) != flags.count(None):
        named = [name for name in (*flags, *options.names) if name is not None]
        raise ValueError(
            f"an export needs one model and one directory, but is given {' '.join(named) or 'none'}: deit-hf export "
            "MODEL DIR"
        )
    names = iter(options.names)
    model, directory = (next(names) if flag is None else flag for flag in flags)
    return model, Path(directory)


def _data_arguments(options: argparse.Namespace) -> "DataArguments | None":
    """The evaluation data, or None if none is named."""
    from ..data.sources.arguments import DataArguments

    named = {name: getattr(options, name) for name in DATA_OPTIONS if getattr(options, name) is not None}
    if named and not named.keys() & {"dataset_name", "validation_dir"}:
        first = next(iter(named))
        raise ValueError(f"`{first}` is {named[first]}, but no data is named; name it with --data, or leave it out")
    return DataArguments(**named) if named else None


def _export(source: str, directory: Path, data: "DataArguments | None", *, int8: bool, overwrite: bool) -> None:
    from transformers.utils.logging import disable_progress_bar

    from ..evaluation.predict import device_of
    from ..model.build import load_classifier
    from ..model.export import INT8_FILE, ONNX_FILE, export_onnx, megabytes, milliseconds, session_of
    from ..model.export_readme import is_read_by_javascript

    if not sys.stderr.isatty():
        disable_progress_bar()  # of the weights
    model, processor = load_classifier(source)
    model = model.eval().float()
    loader = None if data is None else _evaluation_batches(model, processor, data)
    pixel_values = _generated_views(processor) if loader is None else _first_views(loader)
    kind = "generated images" if loader is None else "images of the data"
    before = "" if loader is None else f"top-1 of the model: {_top1_of_model(model, loader, device_of(None)):.2%}"
    difference = export_onnx(model, processor, directory, pixel_values, int8=int8, overwrite=overwrite)
    print(f"wrote {directory}: {', '.join(sorted(path.name for path in directory.iterdir()))}")
    print(
        f"{ONNX_FILE} matches the model on {len(pixel_values)} {kind}: largest difference of a logit {difference:.1e}"
    )
    if before:
        print(f"{before} ({len(loader.dataset)} images)")  # type: ignore[union-attr, arg-type]
    print(f"{'file':28} {'MB':>8} {'ms/image':>10}{'      top-1' if before else ''}")
    for name in (ONNX_FILE, INT8_FILE)[: 1 + int8]:
        session = session_of(directory / name)
        accuracy = "" if loader is None else f"{_top1_of_file(session, loader):11.2%}"
        print(f"{name:28} {megabytes(directory / name):8.1f} {milliseconds(session, pixel_values):10.1f}{accuracy}")
    print("ms/image: median of single images with onnxruntime on the CPU of this machine")
    if int8 and loader is None:
        print("the accuracy with 8-bit weights was not measured; name images with --data")
    if not is_read_by_javascript(model.config):
        print(f"transformers.js cannot read this model: it does not know the type `{model.config.model_type}`")


# ---- images ----


def _generated_views(processor: Any) -> "Tensor":
    """Views of random images (3, channels, height, width)."""
    import numpy as np
    import PIL.Image
    import torch

    from ..data.transforms import evaluation_view

    random, view = np.random.default_rng(0), evaluation_view(processor)
    patches = [random.integers(0, 256, (12, 16, 3), dtype=np.uint8) for _ in range(3)]
    images = [PIL.Image.fromarray(patch).resize((320, 240), PIL.Image.Resampling.BICUBIC) for patch in patches]
    return torch.stack([view(image) for image in images])


def _evaluation_batches(model: "PreTrainedModel", processor: Any, data: "DataArguments") -> "DataLoader":
    """Batches of views and labels in the order of the model's classes, as `deit-hf evaluate` uses them."""
    from torch.utils.data import DataLoader

    from ..data.dataset import ViewCollator
    from ..data.sources.load import load_image_parts
    from ..training.arguments import DistillationArguments
    from ..training.input_pipeline import InputPipeline

    columns = {name: getattr(data, name) for name in ("image_column_name", "label_column_name")}
    args = DistillationArguments("not_written", report_to="none")
    rows = load_image_parts(data, train=False).evaluation
    assert rows is not None
    views = InputPipeline(args, processor, model.config, **columns).evaluation(rows)
    return DataLoader(views, BATCH_SIZE, collate_fn=ViewCollator(None))


def _first_views(loader: "DataLoader") -> "Tensor":
    """Views of the first batch; repeated if there are fewer than three."""
    pixel_values = next(iter(loader))["pixel_values"]
    return pixel_values if len(pixel_values) >= 3 else pixel_values.repeat(3, 1, 1, 1)


def _top1_of_model(model: "PreTrainedModel", loader: "DataLoader", device: "torch.device") -> float:
    import torch

    model = model.to(device)
    with torch.no_grad():
        return _top1(lambda pixel_values: model(pixel_values=pixel_values.to(device)).logits.cpu(), loader)


def _top1_of_file(session: Any, loader: "DataLoader") -> float:
    import torch

    return _top1(lambda x: torch.from_numpy(session.run(["logits"], {"pixel_values": x.numpy()})[0]), loader)


def _top1(logits_of: "Callable[[Tensor], Tensor]", loader: "DataLoader") -> float:
    """Top-1 accuracy in [0, 1] of a function of `pixel_values` on the CPU."""
    from tqdm import tqdm

    from ..evaluation.metrics import HeadAccuracy

    accuracy = HeadAccuracy(needs_finite=True)
    for batch in tqdm(loader, unit="batch", leave=False, disable=None):  # None: on a terminal only
        accuracy.add((logits_of(batch["pixel_values"]),), batch["labels"])
    return accuracy.result()["top1"]
