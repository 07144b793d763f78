"""The paper's evaluation view as an image processor of transformers, and warnings about unsuitable ones on the Hub.

A processor is saved with every model, so that a pipeline prepares images as in the evaluation.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from PIL.Image import Resampling
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers import DeiTImageProcessor, ImageProcessingMixin, PreTrainedModel
from transformers.utils import cached_file

from .configuration_deit import DeiTConfig, to_pair

logger = logging.getLogger(__name__)

FILE_NAME = "preprocessor_config.json"
INTERPOLATIONS = {0: "nearest", 1: "Lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "Hamming"}  # Pillow's numbers
CROP_RATIO = 0.875  # official main.py: --eval-crop-ratio; the centre crop's share of the resized short side
LARGEST_UNCROPPED_SIZE = 32  # pixels; official datasets.py:80 neither resizes nor crops for models up to this size

EvalCrop = Literal["center", "squash"]


def make_processor(
    image_size: int | tuple[int, int],
    *,
    crop_ratio: float | None = None,
    eval_crop: EvalCrop = "center",
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD,
) -> DeiTImageProcessor:
    """Returns the paper's evaluation view: resize the short side to size / 0.875, bicubic, centre crop, normalise.

    Up to 32 pixels the crop ratio is 1, so that a square image of that size is not changed.
    Source: official datasets.py:80, 98-108. Differs from `DeiTImageProcessor()`, which squashes to 256x256 and
    normalises with mean and std 0.5.
    Differs: up to 32 pixels, the official code accepts only images of exactly that size; here, others are resized to
    cover it (pinned by test_picture_of_a_small_size_is_neither_resized_nor_cropped).

    Args:
        image_size: pixels of the view, one number or (height, width).
        crop_ratio: fraction of the resized short side that the centre crop keeps, in (0, 1]: 0.875 in the paper, 1 in
            DeiT III (official main.py `--eval-crop-ratio`). Default: 0.875 above 32 pixels, else 1. Has no effect
            with `squash`.
        eval_crop: `center`, or `squash`: the whole image is resized to the size without keeping its aspect ratio, as
            mmpretrain evaluates the 384 models (its configs/deit/deit-base_ft-16xb32_in1k-384px.py).
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].

    Raises:
        ValueError: `crop_ratio` or `eval_crop` is invalid.
    """
    if crop_ratio is None:
        crop_ratio = default_crop_ratio(image_size)
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


def default_crop_ratio(image_size: int | tuple[int, int]) -> float:
    """Returns the default crop ratio for an image size: the fraction of the short side that the centre crop keeps."""
    return 1.0 if max(to_pair(image_size)) <= LARGEST_UNCROPPED_SIZE else CROP_RATIO


def with_crop(processor: Any, *, crop_ratio: float | None = None, eval_crop: EvalCrop | None = None) -> Any:
    """Returns an image processor with another crop and the same size, mean and std.

    Args:
        processor: of transformers, with a fixed output size; returned as it is if both other arguments are None.
        crop_ratio: as in `make_processor`.
        eval_crop: as in `make_processor`.

    Raises:
        ValueError: as in `make_processor`, or the processor does not fix the size, rescale and normalise.
    """
    if crop_ratio is None and eval_crop is None:
        return processor
    statistics = getattr(processor, "data_config", None)  # of timm's models on the Hub
    if statistics is None:
        if not (processor.do_rescale and getattr(processor, "do_normalize", False)):
            raise ValueError(
                f"the crop of this {type(processor).__name__} cannot be changed, because it does not normalise; leave "
                "out `crop_ratio` and `eval_crop`"
            )
        statistics = {"mean": processor.image_mean, "std": processor.image_std}
    return make_processor(
        crop_size(processor),
        crop_ratio=crop_ratio,
        eval_crop=eval_crop or "center",
        mean=tuple(statistics["mean"]),
        std=tuple(statistics["std"]),
    )


def savable_processor(processor: Any) -> Any:
    """Returns a processor that can be saved: timm's is replaced by one of the same size, mean, std and crop."""
    view = getattr(processor, "data_config", None)
    if view is None:
        return processor
    if view["interpolation"] != "bicubic":
        logger.warning(
            "images are resized with bicubic interpolation in evaluation, not with timm's %s", view["interpolation"]
        )
    eval_crop: EvalCrop = "squash" if view["crop_mode"] == "squash" else "center"
    return with_crop(processor, crop_ratio=None if eval_crop == "squash" else view["crop_pct"], eval_crop=eval_crop)


def crop_in_words(processor: Mapping[str, Any]) -> str:
    """Describes in words how an image processor resizes and crops.

    Args:
        processor: its `to_dict()`, or the content of its preprocessor_config.json.
    """
    size, crop = processor.get("size"), processor.get("crop_size")
    if "data_config" in processor:  # of timm's models on the Hub
        return "timm's {crop_mode} crop, ratio {crop_pct} ({interpolation})".format(**processor["data_config"])
    if not isinstance(size, dict):
        return "see preprocessor_config.json"
    interpolation = INTERPOLATIONS.get(processor.get("resample", -1), "default interpolation")
    if "shortest_edge" in size:
        words = f"short side resized to {size['shortest_edge']} pixels ({interpolation})"
    else:
        words = f"whole image resized to {size.get('height')}x{size.get('width')} pixels ({interpolation})"
    if processor.get("do_center_crop") and isinstance(crop, dict):
        words += f", centre crop of {crop['height']}x{crop['width']}"
    return words


def crops_the_centre(processor: Any) -> bool:
    """Whether a processor resizes the short side and crops the centre, so that the ends of a long image are lost."""
    if hasattr(processor, "data_config"):  # the processor of timm's models on the Hub
        return processor.data_config["crop_mode"] == "center"
    return bool(getattr(processor, "do_center_crop", None)) and "shortest_edge" in processor.size


def crop_size(processor: Any) -> tuple[int, int]:
    """Returns the (height, width) in pixels of the output of a transformers image processor.

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
        "use `deit_hf.model.image_processing_deit.make_processor(image_size)`"
    )


def statistics_of(processor: Any) -> dict[str, tuple[float, ...]]:
    """Returns the `mean` and `std` per channel with which an image processor of transformers or timm normalises.

    Raises:
        ValueError: the processor does not normalise.
    """
    own = getattr(processor, "data_config", None)  # of timm's models on the Hub
    if own is None:
        own = {"mean": getattr(processor, "image_mean", None), "std": getattr(processor, "image_std", None)}
    if own["mean"] is None or own["std"] is None:
        raise ValueError(
            f"the {type(processor).__name__} has no mean and std (`image_mean`, `image_std`); use "
            "`deit_hf.model.image_processing_deit.make_processor(image_size, mean=..., std=...)`"
        )
    return {name: tuple(own[name]) for name in ("mean", "std")}


def checked_processor(processor: Any, model: PreTrainedModel) -> Any:
    """Returns the given image processor after a check, or the paper's processor at the model's size for None.

    Raises:
        TypeError: `processor` is not an image processor.
        ValueError: its size differs from the model's, or it is None and the model's configuration has no image size.
    """
    if processor is not None and not isinstance(processor, ImageProcessingMixin):
        raise TypeError(
            f"`processing_class` is a {type(processor).__name__}, but must be an image processor of transformers; "
            "load the model's own with AutoImageProcessor.from_pretrained(source), or use "
            "`deit_hf.model.image_processing_deit.make_processor(image_size)`"
        )
    image_size = getattr(model.config, "image_size", None)
    if processor is None:
        if image_size is None:
            raise ValueError(
                f"the configuration of the {type(model).__name__} has no `image_size`; pass "
                "`processing_class=deit_hf.model.image_processing_deit.make_processor(image_size)`"
            )
        return make_processor(image_size)
    given = crop_size(processor)
    if image_size is not None and given != to_pair(image_size):
        raise ValueError(
            f"the image processor gives {given[0]}x{given[1]} pixels but the model expects {image_size}; load the "
            f"model with `image_size={given[0]}`, or use "
            f"`deit_hf.model.image_processing_deit.make_processor({image_size})`"
        )
    return processor


# ---- processors of the Hub that are known to be wrong for DeiT ----


def warn_of_known_faults(source: Any, settings: Mapping[str, Any], image_size: int | tuple[int, int]) -> None:
    """Warns about a processor that does not prepare images as DeiT expects them, such as some on the Hub.

    Args:
        source: directory or Hub id, for the message.
        settings: content of its preprocessor_config.json.
        image_size: of the model in pixels, one number or (height, width).
    """
    faults = []
    if settings.get("do_normalize", True) and {0.5} in (
        set(settings.get(k) or ()) for k in ("image_mean", "image_std")
    ):
        faults.append("normalises with 0.5 instead of ImageNet's mean and std (right for some ViTs, but not for DeiT)")
    size = settings.get("size")
    is_square = settings.get("do_resize", True) and (isinstance(size, int) or (size is not None and "height" in size))
    if is_square and (faults or settings.get("do_center_crop")):  # alone, squashing is common on purpose
        faults.append("squashes images to a square instead of keeping their aspect ratio")
    if faults:
        logger.warning(
            "%s of `%s` %s; if these are the weights of a DeiT, accuracy suffers: use "
            "`deit_hf.model.image_processing_deit.make_processor(%s)`, and save it in the same directory with its "
            "`save_pretrained`",
            FILE_NAME,
            source,
            " and ".join(faults),
            image_size,
        )


def stored_settings(source: Any, **where: Any) -> dict[str, Any]:
    """Returns the content of the preprocessor_config.json of a directory or Hub id, or {} if it finds none.

    Args:
        source: directory or Hub id.
        where: arguments of `from_pretrained` such as `revision`, `token`, `cache_dir` and `subfolder`.

    Raises:
        ValueError: the file is not valid JSON.
    """
    try:
        path = cached_file(source, FILE_NAME, **where)
    except OSError:  # there is no such file, or no connection; loading the model reports the latter
        return {}
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"`{path}` is not valid JSON: {error}; fix it, or save a new one with `make_processor`"
        ) from error


def save_processor_beside(directory: Any, config: DeiTConfig) -> None:
    """Saves the paper's processor in a model's directory, unless it has one or the model's images are not RGB."""
    if config.num_channels == len(IMAGENET_DEFAULT_MEAN) and not Path(directory, FILE_NAME).exists():
        make_processor(config.image_size).save_pretrained(directory)
