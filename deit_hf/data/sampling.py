"""The order of the views in an epoch, with repeated augmentation (sec. 5, [1, 2] there).

The order is global: it does not depend on ranks or on the batches of a process. Accelerate splits it into batches and
distributes them to the processes. Positions 2k and 2k + 1 are partners in mixing.py, so the order also ensures that no
image is mixed with itself.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

_STREAM = 2  # separates the random numbers of this module from those of the views and mixing.py


class ViewKey(NamedTuple):
    """Key of a training view. The view is a pure function of (seed, epoch, sample, repeat).

    `position` is the index in the global order of the epoch. It decides how the view is mixed.
    """

    epoch: int
    position: int
    sample: int
    repeat: int


class ViewSampler(Sampler[ViewKey]):
    """Yields the view keys of an epoch in global order; the order is a pure function of (seed, epoch).

    With repeated augmentation, an epoch has `num_repeats` different views of each image that it shows. It still has
    about as many views as the dataset has images, so it shows 1/`num_repeats` of the images (footnote 3).

    Source: official samplers.py:16-59.
    Differs: the repeats of an image stay within one optimizer step but are spread over it. So they are on different
    processes, and are never mixed with each other. Any number of images and of processes works. Two exceptions:
    (1) If `num_repeats` does not divide `step_size`, the image at the border of two steps is in both (with step size
    1024 and 3 repeats, 834 of the 427,008 images of an ImageNet epoch). (2) If a step is smaller than the repeats of
    two images, the views of two images alternate over as many steps as they need. An image is mixed with itself only
    if the dataset has no other image (pinned by test_no_image_is_its_own_partner_and_right_steps_are_as_they_were).

    Attributes:
        num_images: images in the dataset, at least 1.
        step_size: views of one optimizer step, over all processes and accumulation steps.
        num_repeats: views per image, at least 1.
        seed: seed of the run.
        epoch: number of the epoch, set by `set_epoch`.
        num_streams: number of equal parts of a step, each with its own order (streaming.py).
        num_epochs: epoch e has the views of epoch e modulo this number; None if each epoch has its own views.
    """

    num_streams = 1
    num_epochs: int | None = None

    def __init__(self, num_images: int, *, step_size: int, num_repeats: int, seed: int):
        self.num_images = num_images
        self.step_size = step_size
        self.num_repeats = num_repeats
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch if self.num_epochs is None else epoch % self.num_epochs

    def __len__(self) -> int:
        """Number of views: whole steps only, like `drop_last`, and at least one step."""
        return max(1, self.num_images // self.step_size) * self.step_size

    @property
    def num_unique_images(self) -> int:
        """Number of different images that one epoch shows; the same in every epoch."""
        num_views, in_pair = len(self) // self.num_streams, 2 * self.num_repeats
        num_shown = math.ceil(num_views / self.num_repeats)
        if self.takes_images_in_pairs:
            num_shown = num_views // in_pair * 2 + min(num_views % in_pair, 2)
        return min(self.num_images, self.num_streams * num_shown)

    @property
    def takes_images_in_pairs(self) -> bool:
        """Whether the views of two images alternate; otherwise a small step would mix an image with itself."""
        too_few_others = self.num_images == 2 or self.step_size // self.num_streams < 2 * self.num_repeats
        return too_few_others and self.num_images > 1 and self.step_size % 2 == 0

    def __iter__(self) -> Iterator[ViewKey]:
        order = np.random.default_rng((self.seed, _STREAM, self.epoch)).permutation(self.num_images)
        places = np.arange(len(self))
        if self.takes_images_in_pairs:  # A0 B0 A1 B1 A2 B2 C0 D0 ...
            pairs, in_pair = np.divmod(places, 2 * self.num_repeats)
            images, repeats = 2 * pairs + in_pair % 2, in_pair // 2
        else:  # A0 A1 A2 B0 ...
            images, repeats = np.divmod(places, self.num_repeats)
        samples = order[images % self.num_images]
        # a dataset that is smaller than one step is repeated with new repeat numbers
        repeats += places // (self.num_repeats * self.num_images) * self.num_repeats
        steps = places // self.step_size
        spread = np.lexsort((places, repeats, steps))  # within a step: all first views, all second views, ...
        if self.step_size % 2 == 0:
            spread = spread[_with_other_partners(samples[spread])]
        for position, place in enumerate(spread.tolist()):
            yield ViewKey(self.epoch, position, int(samples[place]), int(repeats[place]))


def _with_other_partners(samples: np.ndarray) -> np.ndarray:
    """Reorders samples (P,), P even, so that no sample is its own partner; returns the order, (P,).

    If two partners are equal, one of them is swapped with a sample of the first pair without this image; all other
    samples keep their places. Only a dataset that is repeated within a step needs this.
    """
    order = np.arange(len(samples))
    for left in np.flatnonzero(samples[::2] == samples[1::2]) * 2:
        image = samples[order[left]]
        lacking = np.flatnonzero((samples[order].reshape(-1, 2) != image).all(axis=1)) * 2
        if samples[order[left + 1]] == image and len(lacking):
            order[[left + 1, lacking[0]]] = order[[lacking[0], left + 1]]
    return order
