"""Which view of which image comes at which position of an epoch, with repeated augmentation (sec. 5, [1, 2] there).

The order is global: it knows no rank and no batch of a process. Accelerate cuts it into batches and shares them out.
Positions 2k and 2k + 1 are partners in mixing.py, so the order also decides that no image is mixed with itself.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

_STREAM = 2  # keeps this module's random numbers apart from those of the views and the mixing


class ViewKey(NamedTuple):
    """Names one training view. With the seed, the view is a function of (epoch, sample, repeat).

    `position` is the place in the epoch's global order; how a view is mixed is a function of it.
    """

    epoch: int
    position: int
    sample: int
    repeat: int


class ViewSampler(Sampler[ViewKey]):
    """The global order of an epoch's view keys; a pure function of (seed, epoch).

    With repeats, each image comes `num_repeats` times in a row of different views, and the epoch is cut at about
    as many views as there are images: an epoch then sees 1/`num_repeats` of the images (footnote 3).
    Source: official samplers.py:16-59.
    Differs: the repeats of an image stay within one optimizer step but lie apart in it, so that they meet on
    different processes and are never mixed with each other; any number of images and of processes works. Two
    exceptions: where `num_repeats` does not divide `step_size`, the image at the border of two steps lies in both (at
    1024 and 3, 834 of the 427,008 images of an ImageNet epoch); and a step of fewer than two images' repeats takes
    the views of two images in turn, over as many steps as they need. Only a dataset of one image is mixed with itself
    (pinned by test_no_image_is_its_own_partner_and_right_steps_are_as_they_were).

    Attributes:
        num_images: images in the dataset, at least 1.
        step_size: views of one optimizer step, over all processes and accumulation steps.
        num_repeats: views per image, at least 1.
        seed: of the run.
        epoch: number of the epoch, set by `set_epoch`.
        num_streams: equal parts of a step that are ordered for themselves (streaming.py).
    """

    num_streams = 1

    def __init__(self, num_images: int, *, step_size: int, num_repeats: int, seed: int):
        self.num_images = num_images
        self.step_size = step_size
        self.num_repeats = num_repeats
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        """Whole steps only, and at least one: the rest of the images waits for other epochs, as with drop_last."""
        return max(1, self.num_images // self.step_size) * self.step_size

    @property
    def num_unique_images(self) -> int:
        """Different images that one epoch shows; the same number in every epoch."""
        num_views, in_pair = len(self) // self.num_streams, 2 * self.num_repeats
        num_shown = math.ceil(num_views / self.num_repeats)
        if self.takes_images_in_pairs:
            num_shown = num_views // in_pair * 2 + min(num_views % in_pair, 2)
        return min(self.num_images, self.num_streams * num_shown)

    @property
    def takes_images_in_pairs(self) -> bool:
        """Whether an image would find too few others to be mixed with if its repeats came in a row."""
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
        # a dataset smaller than one step comes round again, under new repeat numbers
        repeats += places // (self.num_repeats * self.num_images) * self.num_repeats
        steps = places // self.step_size
        spread = np.lexsort((places, repeats, steps))  # within a step, all first views, then all second ones, ...
        if self.step_size % 2 == 0:
            spread = spread[_with_other_partners(samples[spread])]
        for position, place in enumerate(spread.tolist()):
            yield ViewKey(self.epoch, position, int(samples[place]), int(repeats[place]))


def _with_other_partners(samples: np.ndarray) -> np.ndarray:
    """An order of the samples (P,), P even, in which none is its own partner; (P,), as it is where it is right.

    One of two equal partners changes places with one of the first pair that lacks the image. Only a dataset that comes
    round again in a step needs this.
    """
    order = np.arange(len(samples))
    for left in np.flatnonzero(samples[::2] == samples[1::2]) * 2:
        image = samples[order[left]]
        lacking = np.flatnonzero((samples[order].reshape(-1, 2) != image).all(axis=1)) * 2
        if samples[order[left + 1]] == image and len(lacking):
            order[[left + 1, lacking[0]]] = order[[lacking[0], left + 1]]
    return order
