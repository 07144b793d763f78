"""Mixup, cutmix and label smoothing (arXiv:2012.12877 sec. 5 and table 9).

Partners and ratios depend on positions in the epoch: positions 2k and 2k + 1 are partners, and each block of
consecutive positions shares one draw. So the mixed images do not depend on how an epoch is split into batches,
processes and accumulation steps. (The random numbers of the student, for stochastic depth and dropout, do.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MAX_BLOCK_SIZE = 64  # images that share one draw: the official batch of one GPU for DeiT-B (README_deit.md:235)
_STREAM = 1  # separates the random numbers of this module from those of the views


@dataclass(frozen=True)
class Draw:
    """Random parameters of one mix.

    Attributes:
        ratio: share of itself that an image keeps, in [0, 1].
        box: (top, bottom, left, right) in pixels of the region pasted from the partner (cutmix); None blends the whole
            images (mixup).
    """

    ratio: float
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Mixing:
    """Mixes training batches by mixup or cutmix.

    Source: official main.py:128-139 with timm's `Mixup(mode="batch")`: always on, mixup or cutmix chosen at random.
    Differs: the partner is the neighbour, not the mirror image in the local batch, and the images that share a draw
    are a block of positions in the epoch (pinned by test_mixing_does_not_depend_on_how_the_epoch_is_cut).

    Attributes:
        mixup_alpha: both parameters of the Beta distribution of mixup's ratio; 0 turns mixup off.
        cutmix_alpha: the same for cutmix.
        switch_prob: probability of cutmix if both are on.
        block_size: number of consecutive positions that share one draw.
        seed: seed of the run.
    """

    mixup_alpha: float
    cutmix_alpha: float
    switch_prob: float
    block_size: int
    seed: int

    def draw(self, epoch: int, block: int, image_size: tuple[int, int]) -> Draw:
        """The draw of a block of positions; a pure function of its arguments and the seed."""
        generator = np.random.default_rng((self.seed, _STREAM, epoch, block))
        both = self.mixup_alpha > 0 and self.cutmix_alpha > 0
        use_cutmix = generator.random() < self.switch_prob if both else self.cutmix_alpha > 0
        alpha = self.cutmix_alpha if use_cutmix else self.mixup_alpha
        ratio = float(generator.beta(alpha, alpha))
        return _draw_box(generator, ratio, image_size) if use_cutmix else Draw(ratio)

    def __call__(self, images: Tensor, epoch: int, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Mixes each image with its neighbour.

        Args:
            images: (B, channels, height, width); B even, in the order of `positions`.
            epoch: number of the epoch.
            positions: B consecutive positions in the epoch, starting at an even one.

        Returns:
            The mixed images, and the share of itself that each image kept, (B,), for `mix_targets`.
        """
        mixed, draws = torch.empty_like(images), self.draws(epoch, positions, (images.shape[2], images.shape[3]))
        for part, draw in draws:
            mixed[part] = mix_images(images[part], draw)
        return mixed, kept_shares(draws)

    def draws(self, epoch: int, positions: Sequence[int], image_size: tuple[int, int]) -> list[tuple[slice, Draw]]:
        """The parts of a batch that share a draw, and their draws.

        Args:
            epoch: number of the epoch.
            positions: consecutive positions in the epoch, starting at an even one.
            image_size: (height, width) in pixels.
        """
        first, end = positions[0], positions[-1] + 1
        assert first % 2 == 0, positions
        assert end - first == len(positions), positions
        parts = []
        for block in range(first // self.block_size, (end - 1) // self.block_size + 1):
            start, stop = max(block * self.block_size, first), min((block + 1) * self.block_size, end)
            parts.append((slice(start - first, stop - first), self.draw(epoch, block, image_size)))
        return parts


def kept_shares(draws: Sequence[tuple[slice, Draw]]) -> Tensor:
    """The share of itself that each image of a batch keeps, (B,), in float32."""
    return torch.cat([torch.full((part.stop - part.start,), draw.ratio) for part, draw in draws])


def _draw_box(generator: np.random.Generator, ratio: float, image_size: tuple[int, int]) -> Draw:
    """Draws a box that covers 1 - ratio of the image, clips it to the image, and corrects the ratio for the clipping.

    Source: CutMix (arXiv:1905.04899 sec. 3.1) as timm's `rand_bbox` and its corrected ratio.
    """
    spans = []
    for size in image_size:
        cut = int(size * np.sqrt(1 - ratio))
        center = int(generator.integers(size))
        spans.append((max(center - cut // 2, 0), min(center + (cut + 1) // 2, size)))
    (top, bottom), (left, right) = spans
    kept = 1 - (bottom - top) * (right - left) / (image_size[0] * image_size[1])
    return Draw(kept, (top, bottom, left, right))


def swap_partners(batch: Tensor) -> Tensor:
    """Swaps rows 2k and 2k + 1 of a batch (B, ...); B is even."""
    return batch.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def mix_images(images: Tensor, draw: Draw) -> Tensor:
    """Mixes each of the images (B, channels, height, width) with its partner; B is even."""
    partners = swap_partners(images)
    if draw.box is None:
        return torch.lerp(partners, images, draw.ratio)
    top, bottom, left, right = draw.box
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
    return mixed


def dominating_classes(labels: Tensor, ratios: Tensor) -> Tensor:
    """The class with the greater share in each mixed image, (B,), and -1 if two classes have equal shares.

    Args:
        labels: class indices (B,); B is even.
        ratios: share (B,) that each image kept.
    """
    partners = swap_partners(labels)
    is_tie = (ratios == 0.5) & (labels != partners)
    return torch.where(is_tie, -1, torch.where(ratios >= 0.5, labels, partners))


def mix_targets(labels: Tensor, ratios: Tensor | None, *, num_classes: int, smoothing: float) -> Tensor:
    """Training targets (B, C) from labels (B,): smoothed one-hot rows, mixed with those of the partners.

    Source: timm's `mixup_target`, which the official recipe uses. Smoothing subtracts ε from the label and spreads it
    over all C classes.

    Args:
        labels: class indices (B,); B is even if `ratios` are given.
        ratios: share (B,) that each image kept, or None for unmixed images.
        num_classes: C.
        smoothing: ε in [0, 1).

    Returns:
        float32 targets (B, C); rows sum to 1.
    """
    # `F.one_hot` would synchronise some devices to check the range of the labels
    one_hot = torch.zeros(len(labels), num_classes, device=labels.device).scatter_(1, labels[:, None], 1.0)  # (B, C)
    targets = one_hot * (1 - smoothing) + smoothing / num_classes
    if ratios is None:
        return targets
    kept = ratios.to(targets)[:, None]
    return targets * kept + swap_partners(targets) * (1 - kept)
