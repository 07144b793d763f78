"""Describes an exported model for those who use it without this package: preprocessing, labels, code."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from .image_processing_deit import crop_in_words

# Configurations of plain transformers that transformers.js reads for image classification (its version 4.3).
READ_BY_JAVASCRIPT = {
    "beit", "convnext", "convnextv2", "deit", "dinov2", "dinov2_with_registers", "efficientnet", "fastvit", "hiera",
    "ijepa", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3", "mobilenet_v4", "mobilevit", "mobilevitv2", "pvt",
    "resnet", "segformer", "swin", "vit", "vit_msn",
}  # fmt: skip
RESAMPLING = {0: "NEAREST", 1: "LANCZOS", 2: "BILINEAR", 3: "BICUBIC", 4: "BOX", 5: "HAMMING"}


def is_read_by_javascript(config: PreTrainedConfig) -> bool:
    """Whether transformers.js can read the configuration of a model."""
    return config.model_type in READ_BY_JAVASCRIPT


def readme_of(
    name: str, config: PreTrainedConfig, settings: Mapping[str, Any], size: tuple[int, int], *, int8: bool
) -> str:
    """The README.md of an exported model.

    Args:
        name: of its directory.
        config: of the model.
        settings: `to_dict()` of its image processor.
        size: (height, width) of its input in pixels.
        int8: whether there is a file with 8-bit weights.
    """
    files = "`onnx/model.onnx` (float32)" + (" and `onnx/model_quantized.onnx` (8-bit weights)" if int8 else "")
    steps = "\n".join(f"{i}. {step}" for i, step in enumerate(preprocessing_in_words(settings), start=1))
    library = "library_name: transformers.js\n" if is_read_by_javascript(config) else ""
    return f"""---
{library}pipeline_tag: image-classification
---

# {name.replace("`", "'")}

An image classifier of {config.num_labels} classes, exported to ONNX by deit_hf: {files}.

- Input `pixel_values`: float32, (batch, 3, {size[0]}, {size[1]}). The batch size is free.
- Output `logits`: float32, (batch, {config.num_labels}). A softmax over the classes gives probabilities. Other
  outputs, if there are any, are the logits of single heads.
- Names of the classes: `id2label` in `config.json`.

## Preprocessing

{steps}

`preprocessor_config.json` has the same numbers.

## Python, without torch

```python
{_python_example(settings, size)}
```

{_javascript(config, int8)}
"""


def preprocessing_in_words(settings: Mapping[str, Any]) -> list[str]:
    """The steps from an image to `pixel_values`."""
    steps = ["Decode the image to RGB, upright (apply its EXIF rotation)."]
    if settings.get("do_resize", True):
        steps.append(f"Resize and crop: {crop_in_words(settings)}.")
    if settings.get("do_rescale", True):
        steps.append(
            f"Rescale: multiply by {settings.get('rescale_factor', 1 / 255):.10g}, so that pixels are in [0, 1]."
        )
    if settings.get("do_normalize", True) and settings.get("image_mean") is not None:
        mean, std = list(settings["image_mean"]), list(settings["image_std"])
        steps.append(f"Normalise each channel (red, green, blue): subtract the mean {mean}, divide by the std {std}.")
    return [*steps, "Put the channels first: (batch, 3, height, width)."]


def _python_example(settings: Mapping[str, Any], size: tuple[int, int]) -> str:
    return f"""import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

{_pixels(settings, size)}
session = onnxruntime.InferenceSession("onnx/model.onnx")
logits = session.run(["logits"], {{"pixel_values": pixel_values}})[0][0]
probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
labels = json.load(open("config.json", encoding="utf-8"))["id2label"]
print(labels[str(probabilities.argmax())], probabilities.max())"""


def _pixels(settings: Mapping[str, Any], size: tuple[int, int]) -> str:
    """Code that makes `pixel_values` from photo.jpg; with transformers for a processor of an unusual kind."""
    resized, resample = settings.get("size") or {}, RESAMPLING.get(settings.get("resample", -1))
    by_hand = isinstance(resized, dict) and resample is not None and "crop_pct" not in settings
    by_hand = by_hand and all(settings.get(step) for step in ("do_resize", "do_rescale", "do_normalize"))
    crops = bool(settings.get("do_center_crop"))
    if not by_hand or not (crops and "shortest_edge" in resized or not crops and "height" in resized):
        return (
            "from transformers import AutoImageProcessor\n\n"
            'image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")\n'
            'pixel_values = AutoImageProcessor.from_pretrained(".")(image, return_tensors="np")["pixel_values"]'
        )
    height, width = size
    steps = ['image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")']
    if crops:
        steps += [
            f"size = [side * {resized['shortest_edge']} // min(image.size) for side in image.size]",
            f"image = image.resize(size, Image.Resampling.{resample})",
            f"left, top = (image.width - {width}) // 2, (image.height - {height}) // 2",
            f"image = image.crop((left, top, left + {width}, top + {height}))",
        ]
    else:
        steps.append(f"image = image.resize(({width}, {height}), Image.Resampling.{resample})")
    mean, std = list(settings["image_mean"]), list(settings["image_std"])
    factor = f"{settings.get('rescale_factor', 1 / 255):.17g}"
    steps += [
        f"pixels = np.asarray(image, np.float32) * np.float32({factor})  # (height, width, 3)",
        f"pixels = (pixels - np.float32({mean})) / np.float32({std})",
        "pixel_values = pixels.transpose(2, 0, 1)[None]  # (1, 3, height, width)",
    ]
    return "\n".join(steps)


def _javascript(config: PreTrainedConfig, int8: bool) -> str:
    if not is_read_by_javascript(config):
        return (
            "## JavaScript\n\ntransformers.js cannot read this model, because it does not know the type "
            f"`{config.model_type}` of `config.json`. onnxruntime-web can run the file itself."
        )
    dtype = "q8" if int8 else "fp32"
    hint = "`fp32` takes `onnx/model.onnx`." if int8 else "Without it, a browser looks for `model_quantized.onnx`."
    hint += (
        " transformers.js resizes images with the filter of the browser or of sharp, so its probabilities differ "
        "slightly from those of Python; the file is the same."
    )
    return f"""## JavaScript

With transformers.js, after a push of this directory to the Hub as `user/name`:

```js
import {{ pipeline }} from "@huggingface/transformers";
const classify = await pipeline("image-classification", "user/name", {{ dtype: "{dtype}" }});
console.log(await classify("photo.jpg"));
```

{hint}"""
