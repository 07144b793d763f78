"""From uint8 views to the pixels that a model takes, on its device: normalises, erases and mixes a batch.

The random numbers are drawn in the data workers, from the key of each view, so the result does not depend on the
device, except for rounding.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .mixing import Draw, mix_images


class Erasure(NamedTuple):
    """A box of a view that is replaced by noise after normalisation.

    Attributes:
        top: first row.
        left: first column.
        noise: (channels, height, width) of the box.
    """

    top: int
    left: int
    noise: Tensor


def draw_erasure(erase: Callable[[Any], Any], shape: Sequence[int]) -> Erasure | None:
    """Draws the box and the noise of timm's `RandomErasing`; None if it erases nothing.

    Args:
        erase: timm's `RandomErasing` of one box for a normalised view.
        shape: (channels, height, width) of the view.
    """
    view = _ErasedView(shape)
    erase(view)
    return view.erasure


class _ErasedView:
    """Takes the place of a normalised view, and only remembers what `RandomErasing` writes to it."""

    dtype = torch.float32

    def __init__(self, shape: Sequence[int]):
        self.shape = shape
        self.erasure: Erasure | None = None

    def size(self) -> Sequence[int]:
        return self.shape

    def __setitem__(self, box: tuple[slice, slice, slice], noise: Tensor) -> None:
        _, rows, columns = box
        self.erasure = Erasure(rows.start, columns.start, noise)


class PixelFinisher:
    """Normalises, erases and mixes uint8 views.

    Args:
        mean: per channel, of pixels in [0, 1].
        std: per channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(
        self, views: Tensor, erasures: Sequence[Erasure | None], mixes: Sequence[tuple[slice, Draw]] = ()
    ) -> Tensor:
        """Returns the pixels (B, channels, height, width) in float32, on the device of the views.

        Without mixing, they equal torchvision's `ToTensor` and `Normalize`, then timm's `RandomErasing`, bit for bit.

        Args:
            views: uint8, (B, channels, height, width).
            erasures: of each view.
            mixes: slices of the batch with an even number of views, and how each is mixed (`Mixing.draws`).
        """
        mean, std = _statistics(self.mean, self.std, views.device)
        pixels = views.float().div_(255).sub_(mean).div_(std)
        for image, erasure in zip(pixels, erasures, strict=True):
            if erasure is not None:
                top, left, noise = erasure
                image[:, top : top + noise.shape[1], left : left + noise.shape[2]] = noise
        for part, draw in mixes:
            pixels[part] = mix_images(pixels[part], draw)
        return pixels


@lru_cache(maxsize=8)
def _statistics(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and std, (channels, 1, 1), on the device; a copy at each step could wait for it."""
    return torch.tensor(mean, device=device)[:, None, None], torch.tensor(std, device=device)[:, None, None]
