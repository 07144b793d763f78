"""The evaluation view of the paper as transformers' image processor, and processors of the Hub that are none.

A processor is saved beside every model, so that a plain pipeline sees what the model was evaluated on.
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
INTERPOLATIONS = {0: "nearest", 1: "Lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "Hamming"}  # as Pillow counts
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
    """The evaluation view as transformers' processor: short side to size / 0.875, bicubic, centre crop, normalise.

    Up to 32 pixels the crop ratio is 1, so that a square picture of the size stays as it is.
    Source: official datasets.py:80, 98-108. Differs from `DeiTImageProcessor()`, which squashes to 256x256 and
    normalises with mean and std 0.5.
    Differs: up to 32 pixels the official code takes pictures of that very size only; others are resized here until
    they cover it (pinned by test_picture_of_a_small_size_is_neither_resized_nor_cropped).

    Args:
        image_size: pixels of the view, one number or (height, width).
        crop_ratio: the centre crop's share of the resized short side, in (0, 1]: 0.875 in the paper, 1 in DeiT III
            (official main.py `--eval-crop-ratio`). By default 0.875 above 32 pixels, else 1. A squashed image has
            none.
        eval_crop: `center`, or `squash`: the whole image resized to the size whatever its shape, as mmpretrain
            evaluates the 384 models (its configs/deit/deit-base_ft-16xb32_in1k-384px.py).
        mean: per channel, of pixels in [0, 1].
        std: per channel.

    Raises:
        ValueError: `crop_ratio` or `eval_crop` is none of these.
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
    """The centre crop's share of the resized short side, of a model of so many pixels."""
    return 1.0 if max(to_pair(image_size)) <= LARGEST_UNCROPPED_SIZE else CROP_RATIO


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
        crop_ratio=crop_ratio,
        eval_crop=eval_crop or "center",
        mean=tuple(statistics["mean"]),
        std=tuple(statistics["std"]),
    )


def savable_processor(processor: Any) -> Any:
    """The processor, or in place of timm's, which no directory can hold, one of the same size, mean, std and crop."""
    view = getattr(processor, "data_config", None)
    if view is None:
        return processor
    if view["interpolation"] != "bicubic":
        logger.warning(
            "the evaluation view of this run is resized bicubically, not %s as timm's", view["interpolation"]
        )
    eval_crop: EvalCrop = "squash" if view["crop_mode"] == "squash" else "center"
    return with_crop(processor, crop_ratio=None if eval_crop == "squash" else view["crop_pct"], eval_crop=eval_crop)


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


def crops_the_centre(processor: Any) -> bool:
    """Whether a processor resizes by the short side and takes the centre, so that a long image loses its ends."""
    if hasattr(processor, "data_config"):  # the processor of timm's models on the Hub
        return processor.data_config["crop_mode"] == "center"
    return bool(getattr(processor, "do_center_crop", None)) and "shortest_edge" in processor.size


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
        "use `deit_hf.model.image_processing_deit.make_processor(image_size)`"
    )


def statistics_of(processor: Any) -> dict[str, tuple[float, ...]]:
    """`mean` and `std` per channel of what an image processor of transformers gives, also of timm's.

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
    """The image processor, or without one the paper's at the model's size.

    Raises:
        TypeError: it is not an image processor.
        ValueError: its size is not the model's, or there is none and the model does not say its size.
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
                f"{type(model).__name__} does not say its image size; pass "
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
    """Says it when a processor prepares pictures as no DeiT was trained, as some on the Hub do.

    Args:
        source: directory or Hub id, for the message.
        settings: what its preprocessor_config.json holds.
        image_size: pixels of the model, one number or (height, width).
    """
    faults = []
    if settings.get("do_normalize", True) and {0.5} in (
        set(settings.get(k) or ()) for k in ("image_mean", "image_std")
    ):
        faults.append("normalises with 0.5 instead of ImageNet's mean and std (right for some ViTs, for no DeiT)")
    size = settings.get("size")
    is_square = settings.get("do_resize", True) and (isinstance(size, int) or (size is not None and "height" in size))
    if is_square and (faults or settings.get("do_center_crop")):  # without a crop, people squash 384 pixels on purpose
        faults.append("squashes pictures to a square instead of keeping their aspect ratio")
    if faults:
        logger.warning(
            "%s of `%s` %s; if these are the weights of a DeiT, accuracy suffers: use "
            "`deit_hf.model.image_processing_deit.make_processor(%s)`, and save it beside them with its "
            "`save_pretrained`",
            FILE_NAME,
            source,
            " and ".join(faults),
            image_size,
        )


def stored_settings(source: Any, **where: Any) -> dict[str, Any]:
    """What the preprocessor_config.json of a directory or Hub id holds; nothing where there is none.

    Args:
        source: directory or Hub id.
        where: `revision`, `token`, `cache_dir`, `subfolder` and the like, as for `from_pretrained`.

    Raises:
        ValueError: the file is no JSON.
    """
    path = cached_file(
        source,
        FILE_NAME,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **where,
    )
    try:
        return {} if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"`{path}` is no JSON: {error}; mend it or save another with `make_processor`") from error


def save_processor_beside(directory: Any, config: DeiTConfig) -> None:
    """Writes the paper's processor into a model's directory, unless one is there or pictures are not RGB."""
    if config.num_channels == len(IMAGENET_DEFAULT_MEAN) and not Path(directory, FILE_NAME).exists():
        make_processor(config.image_size).save_pretrained(directory)
