"""Classifies images with a saved model, in batches."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..argument_checks import check, check_choice
from ..data.bad_images import OnBadImage
from ..data.decoding import BadImageError, decode_image
from ..data.transforms import View, evaluation_view
from ..model.build import load_classifier
from ..model.probabilities import probabilities
from ..reliability.out_of_memory import explained_out_of_memory

MAX_THREADS = 16


class Prediction(NamedTuple):
    """An image and its best classes.

    Attributes:
        image: path or URL, as it was given.
        classes: (label, probability in [0, 1]), best first. Empty if no class reaches the threshold, or for a bad
            image.
        error: why the image could not be read, or None.
    """

    image: str
    classes: list[tuple[str, float]]
    error: str | None = None


def predict(
    images: Iterable[str | os.PathLike[str]],
    model_name_or_path: str,
    *,
    num_best: int = 5,
    threshold: float = 0.0,
    batch_size: int = 16,
    device: str | None = None,
    on_bad_image: OnBadImage = "error",
) -> Iterator[Prediction]:
    """Classifies images; a model with two heads uses the mean of their logits.

    The images of a batch are decoded in threads. The batch size changes a probability by rounding only.

    Args:
        images: paths or URLs, of any mode (RGB, grey, palette, CMYK) and EXIF rotation.
        model_name_or_path: Hub id or directory of any image classifier.
        num_best: number of classes per image; all classes if the model has fewer.
        threshold: smallest probability of a class that is returned, in [0, 1].
        batch_size: images that the model classifies at a time.
        device: as in `torch.device`; by default the accelerator, such as a GPU, if there is one.
        on_bad_image: `error`, or `skip` to return a `Prediction` with an `error` for an image that cannot be read.

    Returns:
        The predictions in the order of the images; nothing is read before the first one is requested.

    Raises:
        ValueError: an option is out of range, an image cannot be decoded, there is no such device, or a logit is NaN
            or infinite.
        OSError: the model or an image does not exist.
    """
    if num_best < 1:
        raise ValueError(f"`num_best` (`--top_k`) is {num_best}, but must be 1 or more")
    check("threshold", threshold, lambda v: 0 <= v <= 1, "in [0, 1]")
    check("batch_size", batch_size, lambda v: v >= 1, "1 or more")
    check_choice("on_bad_image", on_bad_image, ("error", "skip"))
    sources = (os.fspath(image) for image in images)
    return _predictions(
        sources, model_name_or_path, num_best, threshold, batch_size, device_of(device), on_bad_image == "skip"
    )


def device_of(name: str | None) -> torch.device:
    """The device of this name; by default the accelerator if there is one, otherwise the CPU.

    Raises:
        ValueError: torch does not know the device, or the machine does not have it.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name is None:
        return torch.device("cpu") if accelerator is None else accelerator
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        available = "cpu" if accelerator is None else f"cpu, {accelerator.type}"
        raise ValueError(f"`device` is {name!r}, which this machine does not have; it has: {available}") from error
    return device


@torch.no_grad()
def _predictions(
    sources: Iterator[str],
    model_name_or_path: str,
    num_best: int,
    threshold: float,
    batch_size: int,
    device: torch.device,
    skip_bad_images: bool,
) -> Iterator[Prediction]:
    model, processor = load_classifier(model_name_or_path)
    model = model.eval().to(device)
    viewed = partial(view_or_error, evaluation_view(processor))
    with ThreadPoolExecutor(min(batch_size, os.cpu_count() or 1, MAX_THREADS)) as threads:
        while batch := list(itertools.islice(sources, batch_size)):
            decoded = zip(batch, threads.map(viewed, batch), strict=True)
            # a processor without a fixed size gives views of several shapes
            for shape, group in itertools.groupby(decoded, key=lambda item: getattr(item[1], "shape", None)):
                images, views = zip(*group, strict=True)
                if shape is not None:
                    yield from _classified(model, images, torch.stack(views).to(device), num_best, threshold)
                elif skip_bad_images:
                    yield from (Prediction(image, [], str(error)) for image, error in zip(images, views, strict=True))
                else:
                    raise views[0]


def view_or_error(view: View, source: str) -> Tensor | Exception:
    """The evaluation view (channels, height, width) of a path or URL, or why the image cannot be read."""
    try:
        return view(decode_image(source, source))
    except (BadImageError, FileNotFoundError) as error:
        return error


def check_some_are_read(bad: Sequence[str], num_images: int) -> None:
    """Raises a ValueError if no image can be read; `bad` has the errors."""
    if len(bad) == num_images:
        raise ValueError(f"none of the {num_images} images can be read; the first: {bad[0]}")


def _classified(
    model: PreTrainedModel, images: Sequence[str], pixel_values: Tensor, num_best: int, threshold: float
) -> Iterator[Prediction]:
    """The predictions of a batch (B, channels, height, width)."""
    with explained_out_of_memory(lambda: f"`batch_size` is {len(images)}; use a smaller one, or the device cpu"):
        logits: Any = model(pixel_values=pixel_values.to(model.dtype)).logits
        best = probabilities(logits).topk(min(num_best, logits.shape[-1]))
    for image, indices, values in zip(images, best.indices.tolist(), best.values.tolist(), strict=True):
        classes = [(model.config.id2label[index], value) for index, value in zip(indices, values, strict=True)]
        yield Prediction(image, [(label, value) for label, value in classes if value >= threshold])
