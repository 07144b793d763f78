"""From a picture to pixels: the training view of the paper's recipe, the evaluation view, and the processor.

Training views use timm's transforms, which are the official recipe's own (official datasets.py:79-112). Mixing works
on batches and is in mixing.py; how a view gets its random numbers is in data.py.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import PIL.Image
import timm.data
from PIL.Image import Image, Resampling
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, auto_augment
from timm.data.auto_augment import RandAugment
from torch import Tensor
from transformers import DeiTImageProcessor, PreTrainedModel

from .configuration_deit import to_pair

CROP_RATIO = 0.875  # official main.py: --eval-crop-ratio; the centre crop's share of the resized short side
INTERPOLATIONS = {0: "nearest", 1: "Lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "Hamming"}  # as Pillow counts

EvalCrop = Literal["center", "squash"]
View = Callable[[Image], Tensor]


def make_processor(
    image_size: int | tuple[int, int],
    *,
    crop_ratio: float = CROP_RATIO,
    eval_crop: EvalCrop = "center",
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD,
) -> DeiTImageProcessor:
    """The evaluation view as transformers' processor: short side to size / 0.875, bicubic, centre crop, normalise.

    Source: official datasets.py:98-108. Differs from `DeiTImageProcessor()`, which squashes to 256x256 and
    normalises with mean and std 0.5.

    Args:
        image_size: pixels of the view, one number or (height, width).
        crop_ratio: the centre crop's share of the resized short side, in (0, 1]: 0.875 in the paper, 1 in DeiT III
            (official main.py `--eval-crop-ratio`). A squashed image has none.
        eval_crop: `center`, or `squash`: the whole image resized to the size whatever its shape, as mmpretrain
            evaluates the 384 models (its configs/deit/deit-base_ft-16xb32_in1k-384px.py).
        mean: per channel, of pixels in [0, 1].
        std: per channel.

    Raises:
        ValueError: `crop_ratio` or `eval_crop` is none of these.
    """
    if not 0 < crop_ratio <= 1:
        raise ValueError(f"`crop_ratio` is {crop_ratio}, but must be in (0, 1]; the paper's is {CROP_RATIO}")
    if eval_crop not in ("center", "squash"):
        raise ValueError(f"`eval_crop` is {eval_crop!r}, but must be 'center' or 'squash'")
    height, width = to_pair(image_size)
    whole, centered = {"height": height, "width": width}, eval_crop == "center"
    return DeiTImageProcessor(
        do_resize=True,
        size={"shortest_edge": int(max(height, width) / crop_ratio)} if centered else whole,
        resample=Resampling.BICUBIC,
        do_center_crop=centered,
        crop_size=whole,
        do_rescale=True,
        do_normalize=True,
        image_mean=list(mean),
        image_std=list(std),
    )


def with_crop(processor: Any, *, crop_ratio: float | None = None, eval_crop: EvalCrop | None = None) -> Any:
    """An image processor of the same size, mean and std with another crop; the same one if none is named.

    Args:
        processor: any of transformers that fixes the size.
        crop_ratio: as for `make_processor`.
        eval_crop: as for `make_processor`.

    Raises:
        ValueError: as `make_processor`, or the processor does more or less than resize, crop and normalise.
    """
    if crop_ratio is None and eval_crop is None:
        return processor
    statistics = getattr(processor, "data_config", None)  # of timm's models on the Hub
    if statistics is None:
        if not (processor.do_rescale and getattr(processor, "do_normalize", False)):
            raise ValueError(
                f"the crop of a {type(processor).__name__} that does not normalise cannot be changed; leave out "
                "`crop_ratio` and `eval_crop`"
            )
        statistics = {"mean": processor.image_mean, "std": processor.image_std}
    return make_processor(
        crop_size(processor),
        crop_ratio=CROP_RATIO if crop_ratio is None else crop_ratio,
        eval_crop=eval_crop or "center",
        mean=tuple(statistics["mean"]),
        std=tuple(statistics["std"]),
    )


def crop_in_words(processor: Mapping[str, Any]) -> str:
    """The evaluation view that an image processor's `to_dict()`, or its preprocessor_config.json, describes."""
    size, crop = processor.get("size"), processor.get("crop_size")
    if "data_config" in processor:  # of timm's models on the Hub
        return "timm's {crop_mode} crop, ratio {crop_pct} ({interpolation})".format(**processor["data_config"])
    if not isinstance(size, dict):
        return "as preprocessor_config.json says"
    interpolation = INTERPOLATIONS.get(processor.get("resample", -1), "default interpolation")
    if "shortest_edge" in size:
        words = f"short side resized to {size['shortest_edge']} pixels ({interpolation})"
    else:
        words = f"whole image resized to {size.get('height')}x{size.get('width')} pixels ({interpolation})"
    if processor.get("do_center_crop") and isinstance(crop, dict):
        words += f", centre crop of {crop['height']}x{crop['width']}"
    return words


def crop_size(processor: Any) -> tuple[int, int]:
    """(height, width) in pixels of what a transformers image processor gives.

    Raises:
        ValueError: the processor does not fix the size.
    """
    if hasattr(processor, "data_config"):  # the processor of timm's models on the Hub
        _, height, width = processor.data_config["input_size"]
        return height, width
    size = processor.crop_size if getattr(processor, "do_center_crop", None) else processor.size
    if "height" in size and "width" in size:
        return size["height"], size["width"]
    raise ValueError(
        f"the image processor's size is {dict(size)}, which does not fix height and width; "
        "use `deit_hf.transforms.make_processor(image_size)`"
    )


def checked_processor(processor: Any, model: PreTrainedModel) -> Any:
    """The image processor, or without one the paper's at the model's size.

    Raises:
        ValueError: its size is not the model's, or there is none and the model does not say its size.
    """
    image_size = getattr(model.config, "image_size", None)
    if processor is None:
        if image_size is None:
            raise ValueError(
                f"{type(model).__name__} does not say its image size; pass "
                "`processing_class=deit_hf.transforms.make_processor(image_size)`"
            )
        return make_processor(image_size)
    given = crop_size(processor)
    if image_size is not None and given != to_pair(image_size):
        raise ValueError(
            f"the image processor gives {given[0]}x{given[1]} pixels but the model expects {image_size}; use "
            f"`deit_hf.transforms.make_processor({image_size})`, or load the model with `image_size={given[0]}`"
        )
    return processor


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
