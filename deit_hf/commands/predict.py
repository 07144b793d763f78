"""Classifies images with a saved model: deit-hf predict MODEL PATH... (or: python scripts/predict.py MODEL PATH...)

MODEL is a directory or a Hub id of any image classifier. PATH is an image in any format that Pillow reads, a folder
(searched at any depth), a glob such as 'photos/**/*.jpg', or a URL.

examples:
  deit-hf predict runs/flowers/student photo.jpg
  deit-hf predict runs/flowers/student photos/ --csv predictions.csv
  deit-hf predict facebook/deit-tiny-distilled-patch16-224 'photos/*.png' --top_k 3 --threshold 0.1

The CSV file has a line for each class that is shown, with the columns path, rank (1 is the best), label, probability
and error. The JSON file is a list with an object for each image: path, classes (label and probability, best first),
and error for an image that cannot be read.

exit codes: 0 all images were classified; 1 some images cannot be read (they are listed, the others are classified);
2 wrong input.
"""

import argparse
import contextlib
import csv
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..argument_checks import check_files
from ..atomic_files import written_aside
from ..training.console import set_up_logging
from .parser import CommandParser

if TYPE_CHECKING:
    from ..evaluation.predict import Prediction

logger = logging.getLogger(__name__)

SOME_ARE_BAD = 1  # exit code
NAMED_BAD_IMAGES = 5  # in the warning; the files have all of them
IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    set_up_logging(verbose=False)
    from .errors import one_line_errors  # this import and those below take seconds

    with one_line_errors():
        model, paths = model_and_paths(options.names, options.model, "deit-hf predict MODEL PATH...")
        files = {kind: Path(name) for kind in ("csv", "json") if (name := getattr(options, kind)) is not None}
        check_files({f"--{kind}": file for kind, file in files.items()})
        for kind, file in files.items():
            if file.exists() and not options.overwrite:
                raise ValueError(f"`--{kind}` is {file}, which already exists; name another file, or pass --overwrite")
        from transformers.utils.logging import disable_progress_bar

        from ..data.sources.image_paths import find_images
        from ..evaluation.predict import predict

        if not sys.stderr.isatty():
            disable_progress_bar()  # of the weights
        images = find_images(paths)
        top_k = options.top_k
        if top_k is None:
            top_k = 1 if len(images) > 1 and options.threshold == 0 else 5
        predictions = predict(
            images,
            model,
            num_best=top_k,
            threshold=options.threshold,
            batch_size=options.batch_size,
            device=options.device,
            on_bad_image="error" if images == paths and len(paths) == 1 else "skip",
        )
        try:
            num_bad = _show(predictions, len(images), files, one_line=top_k == 1)
        except BrokenPipeError:  # the reader of the output, such as `head`, has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes there again at its end
            return
    if num_bad:
        raise SystemExit(SOME_ARE_BAD)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="deit-hf predict",
        usage="deit-hf predict MODEL PATH... [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", metavar="MODEL PATH", help="the model, and the images")
    parser.add_argument(
        "--model", "--model_name_or_path", dest="model", metavar="MODEL",
        help="the model; all positional arguments are then images",
    )  # fmt: skip
    parser.add_argument(
        "--top_k", type=int, help="classes to show per image (default: 5 for one image, 1 for several)"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.0, help="show only classes with at least this probability (0 to 1)"
    )
    parser.add_argument("--csv", metavar="FILE", help="write the predictions to a CSV file instead of showing them")
    parser.add_argument("--json", metavar="FILE", help="write the predictions to a JSON file instead of showing them")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--batch_size", type=int, default=16, help="images per batch (default: 16)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: the GPU if there is one)")
    return parser


def model_and_paths(names: list[str], model: str | None, usage: str) -> tuple[str, list[str]]:
    """The model and the images of a command line.

    Args:
        names: positional arguments.
        model: the model, if an option names it; all names are images then.
        usage: of the command, for errors.

    Raises:
        ValueError: the model comes after an image, or no image is named.
    """
    if model is not None:
        return model, names
    if Path(names[0]).suffix.lower() in IMAGE_ENDINGS and Path(names[0]).is_file():
        raise ValueError(f"`{names[0]}` is an image, but the model comes first: {usage}")
    if len(names) == 1:
        raise ValueError(f"no image is named after the model `{names[0]}`: {usage}")
    return names[0], names[1:]


def _show(predictions: Iterator["Prediction"], num_images: int, files: dict[str, Path], *, one_line: bool) -> int:
    """Prints the predictions, or writes them to the files; returns the number of images that cannot be read."""
    from tqdm import tqdm

    from ..evaluation.predict import check_some_are_read

    bad: list[str] = []
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(WRITERS[kind](file)) for kind, file in files.items()]
        # None: a bar on a terminal only
        for prediction in tqdm(predictions, total=num_images, unit="image", disable=num_images < 2 or None):
            for write in writers:
                write(prediction)
            if prediction.error is not None:
                bad.append(prediction.error)
            elif not writers:
                tqdm.write(printable(in_words(prediction, one_line=one_line)))
        check_some_are_read(bad, num_images)
    for file in files.values():
        print(f"wrote the predictions of {num_images - len(bad)} images to {file}")
    warn_of_bad_images(bad, num_images)
    return len(bad)


def warn_of_bad_images(bad: Sequence[str], num_images: int) -> None:
    """Logs the number of images that cannot be read, and the first errors."""
    if bad:
        named = "; ".join(bad[:NAMED_BAD_IMAGES])
        more = f"; and {len(bad) - NAMED_BAD_IMAGES} more" if len(bad) > NAMED_BAD_IMAGES else ""
        logger.warning("%s", printable(f"{len(bad)} of {num_images} images cannot be read: {named}{more}"))


def in_words(prediction: "Prediction", *, one_line: bool) -> str:
    """An image and its classes: in one line, or in one line per class below the name of the image."""
    classes = [f"{probability:7.1%}  {label}" for label, probability in prediction.classes]
    classes = classes or ["      -  no class reaches the threshold"]
    if one_line:
        return f"{classes[0]:32}  {prediction.image}"
    return "\n".join([prediction.image, *classes])


def printable(text: str) -> str:
    """The text, with an escape for each byte of a file name that is not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# ---- files ----

Write = Callable[["Prediction"], None]


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    """A file that appears when the block ends without an error."""
    with written_aside(file.parent) as aside, open(aside / file.name, "w", encoding="utf-8", newline="") as opened:
        yield opened


@contextlib.contextmanager
def csv_file(file: Path) -> Iterator[Write]:
    """Yields a function that adds a prediction to a CSV file."""
    with _opened(file) as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["path", "rank", "label", "probability", "error"])

        def write(prediction: "Prediction") -> None:
            image, error = printable(prediction.image), prediction.error and printable(prediction.error)
            for rank, (label, probability) in enumerate(prediction.classes, start=1):
                writer.writerow([image, rank, label, f"{probability:.6f}", error])
            if not prediction.classes:
                writer.writerow([image, None, None, None, error])

        yield write


@contextlib.contextmanager
def json_file(file: Path) -> Iterator[Write]:
    """Yields a function that adds a prediction to a JSON file, a list with one line for each image."""
    with _opened(file) as opened:
        separator = "[\n"

        def write(prediction: "Prediction") -> None:
            nonlocal separator
            classes = [{"label": label, "probability": round(p, 6)} for label, p in prediction.classes]
            record = {"path": printable(prediction.image), "classes": classes}
            record |= {} if prediction.error is None else {"error": printable(prediction.error)}
            opened.write(separator + json.dumps(record, ensure_ascii=False))
            separator = ",\n"

        yield write
        opened.write("\n]\n")


WRITERS = {"csv": csv_file, "json": json_file}
