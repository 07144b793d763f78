"""The evaluation view of the paper as transformers' image processor, and processors of the Hub that are none.

A processor is saved beside every model, so that a plain pipeline sees what the model was evaluated on.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL.Image import Resampling
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers import DeiTImageProcessor, PreTrainedModel
from transformers.utils import cached_file

from .configuration_deit import DeiTConfig, to_pair

logger = logging.getLogger(__name__)

FILE_NAME = "preprocessor_config.json"
CROP_RATIO = 0.875  # official main.py: --eval-crop-ratio; the centre crop's share of the resized short side


def make_processor(
    image_size: int | tuple[int, int],
    *,
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD,
) -> DeiTImageProcessor:
    """The evaluation view as transformers' processor: short side to size / 0.875, bicubic, centre crop, normalise.

    Source: official datasets.py:98-108. Differs from `DeiTImageProcessor()`, which squashes to 256x256 and
    normalises with mean and std 0.5.

    Args:
        image_size: pixels of the crop, one number or (height, width).
        mean: per channel, of pixels in [0, 1].
        std: per channel.
    """
    height, width = to_pair(image_size)
    return DeiTImageProcessor(
        do_resize=True,
        size={"shortest_edge": int(max(height, width) / CROP_RATIO)},
        resample=Resampling.BICUBIC,
        do_center_crop=True,
        crop_size={"height": height, "width": width},
        do_rescale=True,
        do_normalize=True,
        image_mean=list(mean),
        image_std=list(std),
    )


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
        "use `deit_hf.image_processing_deit.make_processor(image_size)`"
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
                "`processing_class=deit_hf.image_processing_deit.make_processor(image_size)`"
            )
        return make_processor(image_size)
    given = crop_size(processor)
    if image_size is not None and given != to_pair(image_size):
        raise ValueError(
            f"the image processor gives {given[0]}x{given[1]} pixels but the model expects {image_size}; load the "
            f"model with `image_size={given[0]}`, or use `deit_hf.image_processing_deit.make_processor({image_size})`"
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
    if settings.get("do_resize", True) and (isinstance(size, int) or (isinstance(size, dict) and "height" in size)):
        faults.append("squashes pictures to a square instead of keeping their aspect ratio")
    if faults:
        logger.warning(
            "%s of `%s` %s; if these are the weights of a DeiT, accuracy suffers: use `deit_hf.image_processing_deit."
            "make_processor(%s)`, and save it beside them with its `save_pretrained`",
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
