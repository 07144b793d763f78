"""Converts checkpoints of the official code, timm and mmpretrain to models of this package, and models to timm files.

A converted model computes the same as its source. Supported are the models of arXiv:2012.12877, and DeiT III as a
plain DeiT. Checkpoints of transformers need no conversion: `from_pretrained` reads them (modeling_deit.py).
"""

import copy
import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN as _MEAN
from timm.data import IMAGENET_DEFAULT_STD as _STD
from torch import Tensor, nn
from torch.nn import functional as F

from ..atomic_files import written_aside
from .configuration_deit import DeiTConfig, to_pair
from .modeling_deit import DeiTForImageClassification, DeiTForImageClassificationWithTeacher
from .safe_loading import check_complete, read_weight_file

logger = logging.getLogger(__name__)

Classifier = DeiTForImageClassification | DeiTForImageClassificationWithTeacher
_CLASSES: Any = (DeiTForImageClassification, DeiTForImageClassificationWithTeacher)

# Official name (facebookresearch/deit at 7e160fe, and timm) | our name with a distillation token | other names.
# `#` is the layer, `*` stands for weight and bias. LayerScale has no name of ours: it is folded into its projection.
_NAMES = (
    ("cls_token", "deit.embeddings.cls_token", "backbone.cls_token"),
    ("dist_token", "deit.embeddings.distillation_token", "backbone.dist_token"),
    ("pos_embed", "deit.embeddings.position_embeddings", "backbone.pos_embed"),
    ("patch_embed.proj.*", "deit.embeddings.patch_embeddings.projection.*", "backbone.patch_embed.projection.*"),
    ("blocks.#.norm1.*", "deit.encoder.layer.#.layernorm_before.*", "backbone.layers.#.ln1.*"),
    ("blocks.#.attn.qkv.*", "deit.encoder.layer.#.attention.attention.qkv.*", "backbone.layers.#.attn.qkv.*"),
    ("blocks.#.attn.proj.*", "deit.encoder.layer.#.attention.output.dense.*", "backbone.layers.#.attn.proj.*"),
    ("blocks.#.gamma_1", "", "backbone.layers.#.attn.gamma1.weight", "blocks.#.ls1.gamma"),
    ("blocks.#.norm2.*", "deit.encoder.layer.#.layernorm_after.*", "backbone.layers.#.ln2.*"),
    ("blocks.#.mlp.fc1.*", "deit.encoder.layer.#.intermediate.dense.*", "backbone.layers.#.ffn.layers.0.0.*"),
    ("blocks.#.mlp.fc2.*", "deit.encoder.layer.#.output.dense.*", "backbone.layers.#.ffn.layers.1.*"),
    ("blocks.#.gamma_2", "", "backbone.layers.#.ffn.gamma2.weight", "blocks.#.ls2.gamma"),
    ("norm.*", "deit.layernorm.*", "backbone.ln1.*"),
    ("head.*", "cls_classifier.*", "head.layers.head.*"),
    ("head_dist.*", "distillation_classifier.*", "head.layers.head_dist.*"),
)
_SCALE_OF = {"attn.proj": "gamma_1", "mlp.fc2": "gamma_2"}
# Tensors that every DeiT has, and that give its sizes: name and number of dimensions.
_LANDMARKS = {"cls_token": 3, "pos_embed": 3, "patch_embed.proj.weight": 4, "blocks.0.mlp.fc1.weight": 2}

# Entries of training checkpoints that hold weights. The official code evaluates `model`, so averages come last.
_WEIGHT_ENTRIES = ("model", "state_dict", "model_ema", "state_dict_ema")


def convert_checkpoint(
    checkpoint: str | Path | Mapping[str, Any] | nn.Module, *, config: DeiTConfig | None = None, **overrides: Any
) -> Classifier:
    """Converts an official, timm or mmpretrain checkpoint to a model of this package.

    Source: names of facebookresearch/deit models.py and models_v2.py, timm deit.py, mmpretrain backbones/deit.py.
    Differs: the LayerScale factors of DeiT III are multiplied into the projections before them, and its class token
    gets a position of zeros; the logits are the same (test_deit3_folds_into_a_plain_vit_with_equal_logits).

    Args:
        checkpoint: path of a `.pth` or `.safetensors` file, the state dict in it, or a timm model. Of a file only
            tensors, plain values and `argparse.Namespace` are read; no code in it is executed.
        config: used instead of the configuration inferred from the shapes of the tensors.
        overrides: arguments of `DeiTConfig` that the shapes do not show: `id2label`; `image_size=(height, width)` in
            pixels if the grid of patches is not square, and `num_attention_heads` if heads are not 64 wide (both are
            read from a timm model); `num_labels=0` for a checkpoint without a head.

    Returns:
        `DeiTForImageClassificationWithTeacher` if the checkpoint has a distillation token, else a plain
        `DeiTForImageClassification`; in float32, on the CPU, in eval mode.

    Raises:
        FileNotFoundError: no file at this path.
        TypeError: `checkpoint` is not a path, a state dict or a model.
        ValueError: the file is damaged or holds code; names or shapes are not those of a DeiT, or do not determine
            the sizes; `config` and `overrides` are both given; a timm model is not a DeiT despite its tensors.
    """
    if config is not None and overrides:
        raise ValueError(f"`config` and {', '.join(f'`{name}`' for name in overrides)} were both given; pass one")
    source, loaded = _open(checkpoint)
    state = _official_state_dict(loaded, source)
    if config is None:
        settings = _settings_of(checkpoint) if isinstance(checkpoint, nn.Module) else {}
        config = _infer_config(state, {**settings, **overrides})
    state["pos_embed"] = _with_prefix_rows(state["pos_embed"], config)
    model = _build(_our_names(_fold_layer_scale(state), config), copy.deepcopy(config))
    if isinstance(checkpoint, nn.Module):
        _check_same_logits(checkpoint, model)
        _warn_of_other_statistics(checkpoint)
    return model


def to_timm_state_dict(model: Classifier) -> dict[str, Tensor]:
    """Returns the weights under official names; timm and the official code can load them with `strict=True`.

    Returns:
        Copies on the CPU in the model's type, with query, key and value fused; `head` and `head_dist` are separate.
        Missing is what only the config holds: the number of heads, a non-square grid of patches, the norm's epsilon.

    Raises:
        TypeError: `model` is not an image classifier of this package.
        ValueError: the official code has no such model: a distillation token without its head, or no exact GELU.
    """
    if not isinstance(model, _CLASSES):
        raise TypeError(f"`model` is a {type(model).__name__}, but must be one of this package's image classifiers")
    config = model.config
    if config.use_distillation_token and isinstance(model, DeiTForImageClassification):
        raise ValueError("`model` has a distillation token without a head on it, unlike any official DeiT")
    if config.hidden_act != "gelu":
        raise ValueError(f"`hidden_act` is {config.hidden_act!r}, but must be 'gelu', as in all official DeiTs")
    state = model.state_dict()
    return {official: torch.cat([state[name] for name in ours]).cpu() for official, ours in name_table(config).items()}


def export_checkpoint(source: str | Path, path: str | Path) -> None:
    """Writes a saved model (a directory) as one safetensors file with official names, for timm.

    Raises:
        FileNotFoundError: no model at `source`.
        ValueError: it is not a DeiT or ViT, it lacks weights, or `to_timm_state_dict` refuses it.
    """
    if not Path(source, "config.json").is_file():
        raise FileNotFoundError(f"no saved model at `{source}`: there is no `{Path(source, 'config.json')}`")
    has_token = DeiTConfig.from_pretrained(source).use_distillation_token
    model, info = _CLASSES[has_token].from_pretrained(source, output_loading_info=True)
    check_complete(source, info)
    with written_aside(Path(path).parent) as part:
        save_file(to_timm_state_dict(model), part / Path(path).name, metadata={"format": "pt"})


def read_labels(path: str | Path) -> dict[int, str]:
    """Reads class names as `id2label` from a text file (one line per class) or JSON (a list, or index to name).

    Raises:
        FileNotFoundError: no file at this path.
        ValueError: there are no names, an index has no name, or a name is empty or not text.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"class names (`labels`) cannot be read from `{path}`: {error}") from error
    try:
        names = json.loads(text) if Path(path).suffix == ".json" else text.splitlines()
    except json.JSONDecodeError as error:
        raise ValueError(f"`{path}` is not valid JSON: {error}") from error
    if isinstance(names, dict):
        names = [names.get(str(index)) for index in range(len(names))]
    if not names or not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"`{path}` must list the class names in order, or by index from 0; none may be empty")
    return {index: name.strip() for index, name in enumerate(names)}


def name_table(config: DeiTConfig) -> dict[str, list[str]]:
    """Maps the official name of each tensor to our names: one, or three for the fused query, key and value."""
    absent: tuple[str, ...] = () if config.use_distillation_token else ("dist_token", "head_dist.")
    absent += () if config.num_labels else ("head.", "head_dist.")
    table = {}
    for official, ours, *_ in _rows(config.num_hidden_layers):
        if not ours or official.startswith(absent) or (official.endswith("qkv.bias") and not config.qkv_bias):
            continue
        if not config.use_distillation_token:
            ours = ours.replace("deit.", "vit.").replace("cls_classifier.", "classifier.")
        parts = ("query", "key", "value") if ".qkv." in ours else ("",)
        table[official] = [ours.replace("qkv", part) for part in parts]
    return table


def _rows(num_layers: int) -> Iterator[tuple[str, ...]]:
    """Expands `_NAMES` to one row per tensor."""
    for row in _NAMES:
        for layer in range(num_layers if "#" in row[0] else 1):
            for part in ("weight", "bias") if "*" in row[0] else ("",):
                yield tuple(name.replace("#", str(layer)).replace("*", part) for name in row)


def _open(checkpoint: Any) -> tuple[str, Any]:
    """Returns the name of a checkpoint for messages, and its content."""
    if isinstance(checkpoint, nn.Module):
        return f"the {type(checkpoint).__name__}", checkpoint.state_dict()
    if isinstance(checkpoint, Mapping):
        return "the state dict", checkpoint
    if not isinstance(checkpoint, str | Path):
        raise TypeError(f"`checkpoint` is a {type(checkpoint).__name__}, not a path, a state dict or a timm model")
    path = Path(checkpoint)
    if not path.is_file():
        raise FileNotFoundError(f"no file at `{path}`; pass a `.pth` or `.safetensors` file, not a directory")
    return f"`{path}`", read_weight_file(path)


def _official_state_dict(loaded: Any, source: str) -> dict[str, Tensor]:
    """Returns the tensors of a checkpoint in float32, under official names, without wrappers around them."""
    if isinstance(loaded, Mapping):
        loaded = next((loaded[name] for name in _WEIGHT_ENTRIES if isinstance(loaded.get(name), Mapping)), loaded)
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(x, Tensor) for x in loaded.values()):
        found = loaded if isinstance(loaded, Mapping) else [type(loaded).__name__]
        raise ValueError(f"{source} does not hold a state dict (tensors by name), but {_listed(found)}")
    # DDP and torch.compile add a prefix to each name
    state = {re.sub(r"^((module|_orig_mod)\.)+", "", name): x.detach().float().cpu() for name, x in loaded.items()}
    official_names = {other: official for official, _, *others in _rows(_depth(state)) for other in others}
    state = {official_names.get(name, name): tensor for name, tensor in state.items()}
    lacking = [name for name, ndim in _LANDMARKS.items() if name not in state or state[name].ndim != ndim]
    if lacking:
        raise ValueError(f"{source} is not a DeiT: it lacks {_listed(lacking)} and holds {_listed(state)}")
    return state


def _depth(state: Mapping[str, Tensor]) -> int:
    """Counts the layers in official or mmpretrain names."""
    return len({match[1] for name in state if (match := re.match(r"(?:blocks|backbone\.layers)\.(\d+)\.", name))})


def _listed(names: Iterable[str]) -> str:
    """Formats the first eight names and the number of the others."""
    names = [f"`{name}`" for name in names]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "nothing"


def _infer_config(state: Mapping[str, Tensor], settings: dict[str, Any]) -> DeiTConfig:
    """Infers the configuration from the shapes of the tensors; `settings` override it."""
    hidden_size, num_channels, *patch_size = state["patch_embed.proj.weight"].shape
    if hidden_size % 64 and "num_attention_heads" not in settings:
        raise ValueError(f"the width {hidden_size} is not a multiple of the head size 64; pass `num_attention_heads`")
    inferred = {
        "hidden_size": hidden_size,
        "num_attention_heads": hidden_size // 64,
        "num_channels": num_channels,
        "patch_size": _one_or_pair(patch_size),
        "image_size": _infer_image_size(state, patch_size),
        "num_hidden_layers": _depth(state),
        "intermediate_size": state["blocks.0.mlp.fc1.weight"].shape[0],
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "use_distillation_token": "dist_token" in state,
    }
    num_classes = state["head.weight"].shape[0] if "head.weight" in state else 0
    if "id2label" in settings:
        settings = {"label2id": {name: int(index) for index, name in settings["id2label"].items()}, **settings}
    elif num_classes:
        inferred["num_labels"] = num_classes
    config = DeiTConfig(**{**inferred, **settings})
    if config.num_labels != num_classes:
        raise ValueError(
            f"the head has {num_classes} classes, but `num_labels` or `id2label` has {config.num_labels}; make it "
            f"{num_classes} (`from_pretrained(..., num_labels=...)` can start a new head afterwards)"
        )
    return config


def _infer_image_size(state: Mapping[str, Tensor], patch_size: list[int]) -> int | tuple[int, int]:
    """Infers the image size of a square grid; only models with LayerScale may have no position for the class token."""
    num_rows = state["pos_embed"].shape[1]
    has_prefix_rows = "blocks.0.gamma_1" not in state or math.isqrt(num_rows) ** 2 != num_rows
    side = math.isqrt(num_rows - has_prefix_rows * (2 if "dist_token" in state else 1))
    return _one_or_pair([side * length for length in patch_size])


def _one_or_pair(size: Iterable[int]) -> int | tuple[int, int]:
    height, width = size
    return height if height == width else (height, width)


def _settings_of(model: Any) -> dict[str, Any]:
    """Returns the settings of a timm or official model that its tensors do not show."""
    return {
        "image_size": _one_or_pair(to_pair(model.patch_embed.img_size)),
        "num_attention_heads": model.blocks[0].attn.num_heads,
        "layer_norm_eps": model.blocks[0].norm1.eps,
    }


def _warn_of_other_statistics(source: Any) -> None:
    """Warns if a timm model expects another mean and std than the processor that is saved with the model."""
    cfg = getattr(source, "pretrained_cfg", None) or {}
    mean, std = (tuple(cfg.get(name) or default) for name, default in (("mean", _MEAN), ("std", _STD)))
    if (mean, std) != (_MEAN, _STD):
        logger.warning(
            "the %s expects pixels of mean %s and std %s; save `make_processor(%s, mean=%s, std=%s)` with the model",
            *(type(source).__name__, mean, std, source.patch_embed.img_size, mean, std),
        )


def _with_prefix_rows(table: Tensor, config: DeiTConfig) -> Tensor:
    """Returns the position table as (1, P + N, D): if it is (1, N, D), as in DeiT III, it gets P rows of zeros."""
    num_rows, num_patches = table.shape[1], math.prod(config.grid_size)
    if num_rows == num_patches:
        return F.pad(table, (0, 0, config.num_prefix_tokens, 0))
    if num_rows != num_patches + config.num_prefix_tokens:
        raise ValueError(
            f"the position table has {num_rows} rows, but `image_size` {config.image_size} needs {num_patches} patches"
            f" and {config.num_prefix_tokens} prefix tokens; pass the checkpoint's own `image_size=(height, width)`"
        )
    return table


def _fold_layer_scale(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Removes LayerScale without changing the output: its factors multiply the rows of the projection before it."""
    folded = {name: tensor for name, tensor in state.items() if not name.endswith(tuple(_SCALE_OF.values()))}
    for name, tensor in folded.items():
        match = re.match(r"(blocks\.\d+\.)(attn\.proj|mlp\.fc2)\.", name)
        if match and (factor := match[1] + _SCALE_OF[match[2]]) in state:
            folded[name] = tensor * state[factor].view(-1, *[1] * (tensor.ndim - 1))
    return folded


def _our_names(state: Mapping[str, Tensor], config: DeiTConfig) -> dict[str, Tensor]:
    """Returns the tensors under our names, as copies that share no memory."""
    table = name_table(config)
    lacking, unknown = [name for name in table if name not in state], [name for name in state if name not in table]
    if lacking or unknown:
        raise ValueError(
            f"the checkpoint is not a {'distilled' if config.use_distillation_token else 'plain'} DeiT of "
            f"{config.num_hidden_layers} layers; missing: {_listed(lacking)}; unknown: {_listed(unknown)}"
        )
    return {
        name: part.clone(memory_format=torch.contiguous_format)
        for official, ours in table.items()
        for name, part in zip(ours, state[official].tensor_split(len(ours)), strict=True)
    }


def _build(state: dict[str, Tensor], config: DeiTConfig) -> Classifier:
    """Builds the model around these tensors, without a copy."""
    with torch.device("meta"):  # saves the time for initial values, and keeps the random state
        model = _CLASSES[config.use_distillation_token](config)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:  # the names are right, so it is a shape
        raise ValueError(f"shapes do not fit the configuration: {str(error).splitlines()[1].strip()}") from error
    return model.eval()


@torch.no_grad()
def _check_same_logits(source: nn.Module, model: Classifier) -> None:
    """Compares the logits of one image, because pooling, activation and block order do not show in the tensors."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    image = torch.randn(1, config.num_channels, *to_pair(config.image_size), generator=generator, dtype=torch.float64)
    expected = copy.deepcopy(source).cpu().double().eval()(image)
    logits = copy.deepcopy(model).double()(image).logits
    if logits.shape != expected.shape or not torch.allclose(logits, expected, rtol=1e-5, atol=1e-5):
        raise ValueError(f"the {type(source).__name__} is not a DeiT: its pooling, activation or blocks differ")
