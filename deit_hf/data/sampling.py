"""Which view of which image comes at which position of an epoch, with repeated augmentation (sec. 5, [1, 2] there).

The order is global: it knows no rank and no batch of a process. Accelerate cuts it into batches and shares them out.
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
    different processes and are never mixed with each other; any number of images and of processes works.

    Attributes:
        num_images: images in the dataset, at least 1.
        step_size: views of one optimizer step, over all processes and accumulation steps.
        num_repeats: views per image, at least 1.
        seed: of the run.
        epoch: number of the epoch, set by `set_epoch`.
    """

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
        return min(self.num_images, math.ceil(len(self) / self.num_repeats))

    def __iter__(self) -> Iterator[ViewKey]:
        order = np.random.default_rng((self.seed, _STREAM, self.epoch)).permutation(self.num_images)
        places = np.arange(len(self))
        indices = order[places // self.num_repeats % self.num_images]
        # a dataset smaller than one step comes round again, under new repeat numbers
        repeats = places % self.num_repeats + places // (self.num_repeats * self.num_images) * self.num_repeats
        steps = places // self.step_size
        spread = np.lexsort((places, repeats, steps))  # within a step, all first views, then all second ones, ...
        for position, place in enumerate(spread.tolist()):
            yield ViewKey(self.epoch, position, int(indices[place]), int(repeats[place]))
