"""The classes that a saved model sees in pictures from anywhere: what scripts/predict.py does."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from ..data.decoding import decode_image
from ..data.transforms import evaluation_view
from ..model.build import load_classifier


class Prediction(NamedTuple):
    """One picture's best classes, best first: (label, probability in [0, 1]) each."""

    image: str
    classes: list[tuple[str, float]]


def predict(images: Iterable[str], model_name_or_path: str, *, num_best: int = 5) -> Iterator[Prediction]:
    """Classifies pictures one by one, by the mean of both heads if the model has two.

    Args:
        images: paths or URLs; any mode (RGB, grey, palette, CMYK) and EXIF rotation.
        model_name_or_path: Hub id or directory of any image classifier.
        num_best: classes to give for each picture, at most all.

    Raises:
        ValueError: `num_best` is less than 1, or a picture cannot be read or decoded; names it.
        OSError: the model or a picture is not found.
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
