"""Classifies images with a saved model, for deit-hf predict."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from ..data.decoding import decode_image
from ..data.transforms import evaluation_view
from ..model.build import load_classifier


class Prediction(NamedTuple):
    """An image and its best classes, best first, each as (label, probability in [0, 1])."""

    image: str
    classes: list[tuple[str, float]]


def predict(images: Iterable[str], model_name_or_path: str, *, num_best: int = 5) -> Iterator[Prediction]:
    """Classifies images one by one; a model with two heads uses the mean of their logits.

    Args:
        images: paths or URLs, of any mode (RGB, grey, palette, CMYK) and EXIF rotation.
        model_name_or_path: Hub id or directory of any image classifier.
        num_best: number of classes per image; all classes if the model has fewer.

    Raises:
        ValueError: `num_best` is less than 1, or an image cannot be read or decoded.
        OSError: the model or an image does not exist.
    """
    if num_best < 1:
        raise ValueError(f"`num_best` (`--top_k`) is {num_best}, but must be 1 or more")
    return _predictions(images, model_name_or_path, num_best)


@torch.no_grad()
def _predictions(images: Iterable[str], model_name_or_path: str, num_best: int) -> Iterator[Prediction]:
    model, processor = load_classifier(model_name_or_path)
    view = evaluation_view(processor)
    for source in images:
        pixel_values = view(decode_image(source, source))[None]  # (1, channels, height, width)
        probabilities = model.eval()(pixel_values=pixel_values).logits[0].softmax(dim=-1)
        best = probabilities.topk(min(num_best, len(probabilities)))
        labels = [model.config.id2label[index] for index in best.indices.tolist()]
        yield Prediction(source, list(zip(labels, best.values.tolist(), strict=True)))
