"""From a picture to pixels: the training view of the paper's recipe, and the evaluation view.

Training views use timm's transforms, which are the official recipe's own (official datasets.py:79-112). Mixing works
on batches and is in mixing.py; how a view gets its random numbers is in data.py, and the processor
that fixes the evaluation view in image_processing_deit.py.
"""

from collections.abc import Callable
from typing import Any

import PIL.Image
import timm.data
from PIL.Image import Image
from timm.data import auto_augment
from timm.data.auto_augment import RandAugment
from torch import Tensor

View = Callable[[Image], Tensor]


def evaluation_view(processor: Any) -> View:
    """The view that the processor, and with it a pipeline, gives of an image: (channels, height, width)."""
    return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]


def training_view(
    image_size: tuple[int, int],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    crop_min_scale: float,
    horizontal_flip_prob: float,
    random_augment: str,
    color_jitter: float,
    random_erase_prob: float,
) -> View:
    """A random view of an image, (channels, height, width), normalised.

    Source: table 9 and official main.py:96-123: bicubic random-resized crop, flip, RandAugment in timm's meaning,
    per-pixel random erasing after normalisation.

    Args:
        image_size: (height, width) in pixels.
        mean: per channel, of pixels in [0, 1].
        std: per channel.
        crop_min_scale: smallest share of the image's area that a crop takes, in (0, 1]; the largest is 1.
        horizontal_flip_prob: in [0, 1].
        random_augment: timm's policy, such as `rand-m9-mstd0.5-inc1`; `none` for no policy.
        color_jitter: strength; only without a policy, as in timm.
        random_erase_prob: in [0, 1].
    """
    view = timm.data.create_transform(
        (3, *image_size),
        is_training=True,
        scale=(crop_min_scale, 1.0),
        hflip=horizontal_flip_prob,
        auto_augment=None if random_augment == "none" else random_augment,
        color_jitter=color_jitter or None,
        interpolation="bicubic",
        mean=mean,
        std=std,
        re_prob=random_erase_prob,
        re_mode="pixel",
        re_count=1,
    )
    for step in view.transforms:
        if isinstance(step, RandAugment):
            for operation in step.ops:
                if operation.aug_fn is auto_augment.posterize:
                    operation.aug_fn = posterize
    return view


def posterize(image: Image, bits_to_keep: int, **options: Any) -> Image:
    """timm's posterize, which of magnitude 10 keeps no bits; Pillow made that black until 13, and now refuses it.

    In the paper's policy (magnitude 9, deviation 0.5) about one image in seven hundred meets it.
    """
    if bits_to_keep < 1:
        return PIL.Image.new(image.mode, image.size)
    return auto_augment.posterize(image, bits_to_keep, **options)
