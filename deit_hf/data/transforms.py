"""Transforms from an image to pixels: training views and evaluation views.

Training views use timm's transforms, like the official recipe (datasets.py:79-112), and those of DeiT III
(arXiv:2204.07118). They are uint8, a quarter of the bytes of floats; normalisation and erasing follow on the device
(finishing.py). Elsewhere: mixing of batches (mixing.py), random seeds of views (dataset.py), and the image processor
that defines the evaluation view (image_processing_deit.py).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import PIL.Image
import timm.data
import torch
from PIL.Image import Image, Transpose
from timm.data import auto_augment
from timm.data.auto_augment import RandAugment
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation, ResizeKeepRatio
from torch import Tensor
from torch.nn import functional as F
from torchvision import transforms
from torchvision.transforms import InterpolationMode, v2

from ..model.image_processing_deit import crops_the_centre
from .decoding import Decoded
from .finishing import Erasure, draw_erasure

PAPER_CROP_MIN_SCALE = 0.08
THREE_AUGMENT = "3-augment"
# timm silently ignores the parts of a policy that it does not know, such as `mx`
RANDOM_AUGMENT_POLICY = re.compile(r"rand(-(m|n|mmax|inc)\d+|-(p|mstd)\d+(\.\d+)?|-t(weights|3aw?))*")
MAX_ASPECT_RATIO = 32  # largest ratio of long to short side of an image that is resized as a whole
CROP_PADDING = 4  # pixels that DeiT III's simple crop reflects at each border
# arguments of `training_view` that are training options of the same name
VIEW_OPTIONS = (
    "crop_min_scale",
    "horizontal_flip_prob",
    "random_augment",
    "color_jitter",
    "random_erase_prob",
    "crop_mode",
)

View = Callable[[Image], Tensor]
CropMode = Literal["random_resized", "simple"]


def check_view_options(random_augment: str, crop_mode: CropMode, crop_min_scale: float) -> None:
    """Checks arguments of `training_view` that timm would misread, or that contradict each other.

    Raises:
        ValueError: an option is invalid; the message names it.
    """
    if random_augment not in ("none", THREE_AUGMENT) and not RANDOM_AUGMENT_POLICY.fullmatch(random_augment):
        raise ValueError(
            f"`random_augment` is {random_augment!r}, which is not a RandAugment policy of timm; use one such as "
            f"'rand-m9-mstd0.5-inc1', or '{THREE_AUGMENT}', or 'none'"
        )
    if crop_mode == "simple" and crop_min_scale != PAPER_CROP_MIN_SCALE:
        raise ValueError(
            f"`crop_mode` is 'simple' and `crop_min_scale` {crop_min_scale}, but a simple crop takes nearly "
            "the whole image; leave `crop_min_scale` out, or set `crop_mode` to 'random_resized'"
        )


def evaluation_view(processor: Any) -> View:
    """The evaluation view: pixels (channels, height, width) of the image processor, the same as in a pipeline.

    If an image is more than 32 times as long as it is wide, only its middle is resized before the centre crop. The
    crop is inside this middle anyway, and resizing a whole image of 20000x1 pixels takes gigabytes.
    """
    return partial(_processed, processor, crops_the_centre(processor))


def _processed(processor: Any, crops: bool, image: Image) -> Tensor:
    image = as_pillow(middle_of(image)) if crops else image
    return processor(image, return_tensors="pt")["pixel_values"][0]


def middle_of(image: Decoded) -> Decoded:
    """The middle of an image that is more than 32 times as long as it is wide; otherwise the image itself."""
    size = size_of(image)
    longest = MAX_ASPECT_RATIO * min(size)
    if max(size) <= longest:
        return image
    # the middle stays exactly the same because the cut keeps the parity of each side
    width, height = (min(side, longest + (side - longest) % 2) for side in size)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    if isinstance(image, Tensor):
        return image[:, top : top + height, left : left + width]
    return image.crop((left, top, left + width, top + height))


def size_of(image: Decoded) -> tuple[int, int]:
    """(width, height) in pixels."""
    return (image.shape[2], image.shape[1]) if isinstance(image, Tensor) else image.size


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
    crop_mode: CropMode = "random_resized",
) -> "TrainingView":
    """A random transform of an image to uint8 pixels (channels, height, width) and the box to erase in them, or None.

    Source: table 9 and official main.py:96-123: bicubic random-resized crop, flip, timm's RandAugment, per-pixel
    random erasing after normalisation. `3-augment` and the simple crop: DeiT III, official augment.py.
    Differs: a decoded JPEG, which is a tensor, is resized by torch, which rounds differently from Pillow (README.md
    has the measurement).
    Differs: for models of at most 32 pixels, the official code (datasets.py:91-94) takes a random crop of the image
    with a border of 4 black pixels, which only works for images of that size. Here the options apply at every size;
    `crop_mode` simple is similar (pinned by test_training_view_of_a_small_size_is_as_the_options_say).

    Args:
        image_size: (height, width) in pixels.
        mean: per channel, of pixels in [0, 1]; operations of RandAugment fill borders with it.
        std: per channel.
        crop_min_scale: smallest share of the image area that a random-resized crop takes, in (0, 1]; the largest is 1.
        horizontal_flip_prob: probability in [0, 1].
        random_augment: a RandAugment policy of timm, such as `rand-m9-mstd0.5-inc1`; or `3-augment`, or `none`.
        color_jitter: strength. As in timm, it is not used with a policy, except for one with `-t3a`.
        random_erase_prob: probability in [0, 1].
        crop_mode: `random_resized`, or `simple` for `simple_crop`.
    """
    crop_and_flip, colours, pixels = timm.data.create_transform(
        (3, *image_size),
        is_training=True,
        scale=(crop_min_scale, 1.0),
        hflip=horizontal_flip_prob,
        auto_augment=None if random_augment in ("none", THREE_AUGMENT) else random_augment,
        color_jitter=color_jitter if uses_color_jitter(random_augment) and color_jitter else None,
        interpolation="bicubic",
        mean=mean,
        std=std,
        re_prob=random_erase_prob,
        re_mode="pixel",
        re_count=1,
        separate=True,
    )
    crop, *flip = crop_and_flip.transforms
    steps: list[Callable[[Any], Any]] = [partial(random_resized_crop, crop)]
    if crop_mode == "simple":
        steps = [middle_of, *simple_crop(image_size)]  # resizing a whole long image would take gigabytes
    steps += [partial(random_flip, step) for step in flip]
    if random_augment == THREE_AUGMENT:
        steps.append(three_augment())
    steps += [_with_our_posterize(step) if isinstance(step, RandAugment) else step for step in colours.transforms]
    erase = pixels.transforms[2:]  # after `ToTensor` and `Normalize`
    return TrainingView(steps, erase[0] if erase else None)


@dataclass(frozen=True)
class TrainingView:
    """A random transform of an image to pixels.

    Attributes:
        steps: applied one after the other; the first ones take a decoded JPEG and return an image of Pillow.
        erase: timm's `RandomErasing`, or None.
    """

    steps: Sequence[Callable[[Any], Any]]
    erase: RandomErasing | None

    def __call__(self, image: Decoded) -> tuple[Tensor, Erasure | None]:
        """Returns uint8 pixels (3, height, width), and the box to erase in them after normalisation, or None."""
        augmented: Any = image
        for step in self.steps:
            augmented = step(augmented)
        planes = bytearray(b"".join(augmented.tobytes("raw", band) for band in augmented.getbands()))
        pixels = torch.frombuffer(planes, dtype=torch.uint8).view(3, augmented.height, augmented.width)
        return pixels, None if self.erase is None else draw_erasure(self.erase, pixels.shape)


def random_resized_crop(crop: RandomResizedCropAndInterpolation, image: Decoded) -> Image:
    """timm's random-resized crop, and the same for a tensor, with torch's bicubic resize of uint8."""
    if isinstance(image, Image):
        return crop(image)
    top, left, height, width = crop.get_params(image, crop.scale, crop.ratio)
    part = image[None, :, top : top + height, left : left + width]
    # with this layout torch is twice as fast, and Pillow needs no copy
    part = part.contiguous(memory_format=torch.channels_last)
    return as_pillow(F.interpolate(part, crop.size, mode="bicubic", antialias=True)[0])


def random_flip(flip: transforms.RandomHorizontalFlip, image: Image) -> Image:
    """torchvision's flip without the overhead of its module, which takes longer than flipping a small image."""
    return image.transpose(Transpose.FLIP_LEFT_RIGHT) if torch.rand(1) < flip.p else image


def as_pillow(image: Decoded) -> Image:
    """A tensor (3, height, width) as an image of Pillow; other images stay as they are."""
    if isinstance(image, Image):
        return image
    # for a small image, `PIL.Image.fromarray` takes longer
    return PIL.Image.frombytes("RGB", size_of(image), np.ascontiguousarray(image.permute(1, 2, 0).numpy()))


def uses_color_jitter(random_augment: str) -> bool:
    """Whether colour jitter has an effect; as in timm, only without a policy, or with one of three operations."""
    return random_augment in ("none", THREE_AUGMENT) or "3a" in random_augment


def simple_crop(image_size: tuple[int, int]) -> list[Callable[[Any], Any]]:
    """A crop of nearly the whole image: resizes it (bicubic) until it just covers `image_size`, then crops at random.

    Source: DeiT III, arXiv:2204.07118 sec. 3 ("simple random crop"), official augment.py, `new_data_aug_generator`
    with `--src`: before the crop, 4 pixels are reflected at each border.
    """
    height, width = image_size
    if height == width:
        resize = [v2.Resize(height, interpolation=InterpolationMode.BICUBIC), as_pillow]
    else:  # torchvision's `Resize` takes one size for the short side, be it height or width
        resize = [as_pillow, ResizeKeepRatio(image_size, interpolation="bicubic")]
    return [*resize, transforms.RandomCrop(image_size, padding=CROP_PADDING, padding_mode="reflect")]


def three_augment() -> transforms.RandomChoice:
    """Greyscale, solarisation or Gaussian blur, with equal probability.

    Source: DeiT III, arXiv:2204.07118 sec. 3 ("3-Augment"), official augment.py, `new_data_aug_generator` with
    `--ThreeAugment`: solarisation inverts the upper half of the range, the radius of the blur is uniform in [0.1, 2]
    pixels.
    Differs: timm's `rand-...-t3a` uses one magnitude for its three operations. At the magnitude of this solarisation,
    its greyscale keeps a quarter of the colour, and the radius of its blur is fixed (pinned by
    test_timms_three_operations_are_not_those_of_deit_iii).
    """
    return transforms.RandomChoice(
        [
            transforms.Grayscale(num_output_channels=3),
            partial(auto_augment.solarize, thresh=128),
            partial(auto_augment.gaussian_blur_rand, factor=1.0),
        ]
    )


def _with_our_posterize(policy: RandAugment) -> RandAugment:
    """Puts `posterize` of this module into timm's policy, and its operations into an array (faster for numpy)."""
    for operation in policy.ops:
        if operation.aug_fn is auto_augment.posterize:
            operation.aug_fn = posterize
    policy.ops = np.array(policy.ops, dtype=object)
    return policy


def posterize(image: Image, bits_to_keep: int, **options: Any) -> Image:
    """timm's posterize, also for 0 bits, which gives a black image.

    At magnitude 10, timm keeps 0 bits. Pillow 13 refuses this; earlier versions return a black image. With the policy
    of the paper (magnitude 9, deviation 0.5), about one image in 700 is affected.
    """
    if bits_to_keep < 1:
        return PIL.Image.new(image.mode, image.size)
    return auto_augment.posterize(image, bits_to_keep, **options)
