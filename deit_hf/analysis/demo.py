"""What a model, and its teacher, say about one image, for the page of demo_page.py; needs no gradio."""

from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..argument_checks import check
from ..data.decoding import BadImageError, decode_image
from ..data.transforms import evaluation_view
from ..distillation.teacher_view import load_with_own_view
from ..evaluation.predict import device_of
from ..model.build import load_classifier
from ..model.configuration_deit import DeiTConfig, to_pair
from ..model.probabilities import probabilities
from .attention import TOKENS, ImageAttention, image_attention
from .attention_figures import check_matplotlib_installed, overlay, seen_image

ONE_HEAD, TEACHER = "prediction", "teacher"  # titles of bars
MAPS = ("last layer", "rollout")  # kinds of attention maps


class Answer(NamedTuple):
    """What the models say about an image.

    Attributes:
        classes: by head, and of the teacher: its best classes with their probabilities in [0, 1], best first.
        seen: (height, width, 3), uint8: the part of the image that the model sees; None for a model without tokens.
        maps: the image under the attention of each token, (height, width, 3), uint8, by kind and by token; empty for a
            model without tokens.
    """

    classes: dict[str, list[tuple[str, float]]]
    seen: np.ndarray | None
    maps: dict[str, dict[str, np.ndarray]]


class Demo:
    """A model, and its teacher if there is one, that answer to single images.

    It keeps nothing of an image, so that several users can ask at once.
    """

    def __init__(
        self, model_name_or_path: str, *, teacher: str | None = None, top_k: int = 5, device: str | None = None
    ):
        """Loads the models.

        Args:
            model_name_or_path: Hub id or directory of any image classifier; a DeiT or ViT also shows its attention.
            teacher: as for `Teacher.from_pretrained`; it sees its own view of the image.
            top_k: number of classes to return for each head; all if there are fewer.
            device: as in `torch.device`; by default the accelerator, such as a GPU, if there is one.

        Raises:
            ImportError: matplotlib, an optional dependency, is not installed.
            OSError: a source does not exist.
            ValueError: `top_k` is less than 1, there is no such device, or the classes of the teacher do not match.
        """
        check("top_k", top_k, lambda v: v >= 1, "1 or more")
        check_matplotlib_installed()
        place = device_of(device)
        model, self._processor = load_classifier(model_name_or_path)
        self.model: PreTrainedModel = model.eval().float().to(place)
        self.top_k = top_k
        self._teacher = None
        if teacher is not None:
            self._teacher = load_with_own_view(teacher, student_config=model.config, device=place)

    @property
    def has_tokens(self) -> bool:
        """Whether the model is a DeiT or ViT, whose attention can be shown."""
        return isinstance(self.model.config, DeiTConfig)

    @torch.no_grad()
    def answer(self, image: PIL.Image.Image) -> Answer:
        """Asks the models about an RGB image."""
        pixels = evaluation_view(self._processor)(image)
        if self.has_tokens:
            attention = image_attention(self.model, pixels)
            one_head = len(attention.logits) == 1
            logits = {ONE_HEAD if one_head else head: each for head, each in attention.logits.items()}
            seen, maps = self._maps(pixels, attention)
        else:
            output: Any = self.model(pixel_values=pixels[None].to(self.model.device))
            logits, seen, maps = {ONE_HEAD: output.logits[0].float().cpu()}, None, {}
        if self._teacher is not None:
            teacher, processor = self._teacher
            own = evaluation_view(processor)(image)[None].to(self.model.device)
            logits[TEACHER] = teacher(own)[0].cpu()
        return Answer({title: self._best(each) for title, each in logits.items()}, seen, maps)

    def _maps(self, pixels: Tensor, attention: ImageAttention) -> tuple[np.ndarray, dict[str, dict[str, np.ndarray]]]:
        config: Any = self.model.config
        seen = seen_image(pixels, self._processor, to_pair(config.patch_size))
        kinds = zip(MAPS, (attention.mean_of_heads, attention.rollout), strict=True)
        return seen.view, {
            kind: {token: overlay(seen, values) for token, values in zip(TOKENS, maps, strict=False)}
            for kind, maps in kinds
        }

    def _best(self, logits: Tensor) -> list[tuple[str, float]]:
        """The best classes of logits (C,), with their probabilities."""
        best = probabilities(logits).topk(min(self.top_k, len(logits)))
        names: Any = self.model.config.id2label
        return [(str(names[i]), value) for i, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)]


def opened(path: str, name: str) -> PIL.Image.Image:
    """Decodes an uploaded image.

    Args:
        path: of the file.
        name: that the user knows it by, for errors.

    Raises:
        ValueError: the image cannot be read; the message is for a user of the page.
    """
    try:
        return decode_image(path, name)
    except FileNotFoundError as error:
        raise ValueError(f"{name} is not here any more. Please choose it again.") from error
    except MemoryError as error:
        raise ValueError(
            f"{name} is too large for the memory of this machine. Please choose a smaller one."
        ) from error
    except BadImageError as error:
        raise ValueError(f"{name} {_reason(error)} Please choose another one.") from error


def _reason(error: BadImageError) -> str:
    cause = error.__cause__
    if isinstance(cause, PIL.Image.DecompressionBombWarning | PIL.Image.DecompressionBombError):
        return f"has more than {PIL.Image.MAX_IMAGE_PIXELS or 0:,} pixels, which is too many."
    if isinstance(cause, PIL.UnidentifiedImageError):
        return "is not an image, or in a format that is not known here."
    return f"is damaged, or of a kind that cannot be read: {' '.join(str(cause).split())[:120]}."
