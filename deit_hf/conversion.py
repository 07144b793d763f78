"""Checkpoints of the official code, timm and mmpretrain in, models of this package out, and official names back.

A converted model computes what its source computes: the models of arXiv:2012.12877, and DeiT III as a plain DeiT.
Checkpoints of transformers need no conversion: `from_pretrained` reads them (modeling_deit.py).
"""

import argparse
import copy
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_deit import DeiTConfig, to_pair
from .modeling_deit import DeiTForImageClassification, DeiTForImageClassificationWithTeacher

Classifier = DeiTForImageClassification | DeiTForImageClassificationWithTeacher
_CLASSES = (DeiTForImageClassification, DeiTForImageClassificationWithTeacher)

# Official name (facebookresearch/deit at 7e160fe, and timm) | ours with a distillation token | other names of it.
# `#` is the layer, `*` stands for weight and bias. LayerScale has no name here: it is folded into its projection.
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
_SCALED_BY = {"gamma_1": "attn.proj", "gamma_2": "mlp.fc2"}

# What every DeiT has and its sizes are read from, with the number of dimensions.
_LANDMARKS = {"cls_token": 3, "pos_embed": 3, "patch_embed.proj.weight": 4, "blocks.0.mlp.fc1.weight": 2}

# Where training checkpoints keep the weights: official main.py:331-339, timm, mmpretrain. The official evaluation reads
# `model`, so averaged weights are taken only where there are no others.
_WEIGHT_ENTRIES = ("model", "state_dict", "model_ema", "state_dict_ema")

# Official training checkpoints carry their arguments, with a path in them when they ran under a scheduler. A pure path
# touches no files and exists on every system.
_HARMLESS = [
    argparse.Namespace,
    (PurePosixPath, "pathlib.PosixPath"),
    (PurePosixPath, "pathlib._local.PosixPath"),
]


def convert_checkpoint(
    checkpoint: str | os.PathLike[str] | Mapping[str, Any] | nn.Module,
    *,
    config: DeiTConfig | None = None,
    **overrides: Any,
) -> Classifier:
    """A model of this package, with the weights of an official, timm or mmpretrain checkpoint.

    Source: names of facebookresearch/deit models.py and models_v2.py, timm models/deit.py, and
    open-mmlab/mmpretrain models/backbones/deit.py; the order class token, distillation token, patches is the same.
    Differs: LayerScale of DeiT III is multiplied into the projections before it, and its class token gets a position
    of zeros; the logits are the same (test_deit3_with_layer_scale_gives_equal_logits).

    Args:
        checkpoint: path of a `.pth` or `.safetensors` file, the state dict in it, or a timm model. Files are never
            unpickled freely: tensors, plain values and `argparse.Namespace` are all that is read.
        config: used instead of the configuration read from the shapes of the tensors.
        overrides: arguments of `DeiTConfig` that shapes cannot tell: `id2label`; `image_size=(height, width)` in
            pixels when the grid of patches is not square; `num_attention_heads` when heads are not 64 wide (both are
            known for a timm model); `num_labels=0` for a checkpoint without a head.

    Returns:
        `DeiTForImageClassificationWithTeacher` if the checkpoint has a distillation token, else a plain
        `DeiTForImageClassification`; in float32, on the CPU, in eval mode.

    Raises:
        FileNotFoundError: no file at this path.
        TypeError: `checkpoint` is none of the four kinds.
        ValueError: the file is damaged, or holds code; names or shapes are not those of a DeiT; a size cannot be
            told; `config` and `overrides` are both given; a timm model does not compute what its tensors say.
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
    return model


def to_timm_state_dict(model: Classifier) -> dict[str, Tensor]:
    """The weights under official names, with query, key and value fused; timm and the official code load it strictly.

    Args:
        model: plain, or with teacher. Its number of heads, image size and norm epsilon are in its config alone.

    Returns:
        Copies on the CPU, in the model's type; for a model with teacher `head` and `head_dist` are both there.

    Raises:
        TypeError: another kind of model.
        ValueError: the official code has no such model: a distillation token without its head, or no exact GELU.
    """
    if not isinstance(model, _CLASSES):
        raise TypeError(f"`model` is a {type(model).__name__}, but must be one of this package's image classifiers")
    config = model.config
    if config.use_distillation_token and isinstance(model, DeiTForImageClassification):
        raise ValueError(
            "`model` has a distillation token but no distillation head, which official DeiTs do not come in; "
            "convert a DeiTForImageClassificationWithTeacher, or a model with `use_distillation_token=False`"
        )
    if config.hidden_act != "gelu":
        raise ValueError(f"`hidden_act` is {config.hidden_act!r}, but official DeiTs compute 'gelu'")
    state = model.state_dict()
    return {
        official: torch.cat([state[name] for name in ours]).to("cpu", copy=True)
        for official, ours in name_table(config).items()
    }


def export_checkpoint(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Writes a saved model (directory or Hub id) as one safetensors file with official names, for timm.

    Args:
        source: saved by this package or by transformers.
        path: the file to write.

    Raises:
        OSError: no model at `source`.
        ValueError: it is no DeiT or ViT classifier, some of its weights are missing, or `to_timm_state_dict` refuses.
    """
    architecture = (DeiTConfig.from_pretrained(source).architectures or ["unknown"])[0].replace("ViT", "DeiT", 1)
    classes = {cls.__name__: cls for cls in _CLASSES}
    if architecture not in classes:
        raise ValueError(f"`{source}` holds a `{architecture}`, but must hold an image classifier")
    model, info = classes[architecture].from_pretrained(source, output_loading_info=True)
    if info["missing_keys"]:
        raise ValueError(f"`{source}` is not complete: it lacks {_listed(info['missing_keys'])}")
    save_file(to_timm_state_dict(model), path, metadata={"format": "pt"})


def read_labels(path: str | os.PathLike[str]) -> dict[int, str]:
    """Class names by index, as `id2label`, from a text file (a line per class) or JSON (a list, or index to name).

    Raises:
        FileNotFoundError: no file at this path.
        ValueError: no names, an index without a name, or a name that is empty or no text.
    """
    text = Path(path).read_text(encoding="utf-8")
    try:
        names = json.loads(text) if Path(path).suffix == ".json" else text.splitlines()
        if isinstance(names, dict):
            names = [names[str(index)] for index in range(len(names))]
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"`{path}` is no list of names, and no table of names by index 0, 1, ...: {error}") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"`{path}` must hold a name for each class, in the order of the classes, and none empty")
    return {index: name.strip() for index, name in enumerate(names)}


def name_table(config: DeiTConfig) -> dict[str, list[str]]:
    """Official name of each tensor of such a model -> ours; three for the fused query, key and value."""
    table = {}
    for official, ours, *_ in _rows(config.num_hidden_layers):
        is_absent = (
            not ours
            or (not config.use_distillation_token and official.startswith(("dist_token", "head_dist")))
            or (not config.qkv_bias and official.endswith("qkv.bias"))
            or (config.num_labels == 0 and official.startswith("head"))
        )
        if is_absent:
            continue
        if not config.use_distillation_token:
            ours = ours.replace("deit.", "vit.").replace("cls_classifier.", "classifier.")
        table[official] = [ours.replace(".qkv.", f".{part}.") for part in ("query", "key", "value")]
        table[official] = list(dict.fromkeys(table[official]))
    return table


def _rows(num_layers: int) -> Iterator[tuple[str, ...]]:
    """`_NAMES`, a row per tensor."""
    for row in _NAMES:
        for layer in range(num_layers if "#" in row[0] else 1):
            for part in ("weight", "bias") if "*" in row[0] else ("",):
                yield tuple(name.replace("#", str(layer)).replace("*", part) for name in row)


def _open(checkpoint: Any) -> tuple[str, Any]:
    """What to call the checkpoint in messages, and what it holds."""
    if isinstance(checkpoint, nn.Module):
        return f"the {type(checkpoint).__name__}", checkpoint.state_dict()
    if isinstance(checkpoint, Mapping):
        return "the state dict", checkpoint
    if not isinstance(checkpoint, str | os.PathLike):
        raise TypeError(
            f"`checkpoint` is a {type(checkpoint).__name__}, but must be a path, a state dict or a timm model"
        )
    path = Path(checkpoint)
    if path.is_dir():
        raise ValueError(f"`{path}` is a directory; pass the file in it (`from_pretrained` reads transformers' own)")
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at `{path}`")
    return f"`{path}`", _read_file(path)


def _read_file(path: Path) -> Any:
    """What a file holds, read without running anything in it."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"`{path}` is damaged, or no safetensors file: {error}") from error
    except Exception as error:  # bytes of any kind come here: a damaged pickle fails in a dozen ways
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise ValueError(
                f"`{path}` holds `{refused[1]}`, which is not weights and could run code: it was not opened; if you "
                "trust its source, have the weights alone saved there (`torch.save(model.state_dict(), path)`)"
            ) from error
        raise ValueError(f"`{path}` is damaged, or no PyTorch checkpoint ({type(error).__name__})") from error


def _official_state_dict(loaded: Any, source: str) -> dict[str, Tensor]:
    """The tensors in float32, under official names, from whatever a checkpoint is wrapped in."""
    if isinstance(loaded, Mapping):
        nested = [loaded[name] for name in _WEIGHT_ENTRIES if isinstance(loaded.get(name), Mapping)]
        loaded = nested[0] if nested else loaded
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(x, Tensor) for x in loaded.values()):
        holds = _listed(loaded) if isinstance(loaded, Mapping) else f"a {type(loaded).__name__}"
        raise ValueError(f"{source} holds no state dict (tensors by name), but {holds}")
    # wrappers for several processes and compiled models put their own name first
    state = {re.sub(r"^((module|_orig_mod)\.)+", "", name): x.float().cpu() for name, x in loaded.items()}
    others = {other: official for official, _, *names in _rows(_depth(state)) for other in names}
    state = {others.get(name, name): tensor for name, tensor in state.items()}
    lacking = [name for name, ndim in _LANDMARKS.items() if name not in state or state[name].ndim != ndim]
    if lacking:
        raise ValueError(
            f"{source} is no official, timm or mmpretrain DeiT: it lacks {_listed(lacking)}; it holds {_listed(state)}"
        )
    return state


def _depth(state: Mapping[str, Tensor]) -> int:
    """The number of layers with a tensor, by official or mmpretrain names."""
    return len({match[1] for name in state if (match := re.match(r"(?:blocks|backbone\.layers)\.(\d+)\.", name))})


def _listed(names: Iterable[str]) -> str:
    """The first eight names and the count of the others."""
    names = [f"`{name}`" for name in names]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "nothing"


def _infer_config(state: Mapping[str, Tensor], settings: dict[str, Any]) -> DeiTConfig:
    """The configuration that the shapes tell; `settings` are known otherwise and win."""
    hidden_size, num_channels, *patch_size = state["patch_embed.proj.weight"].shape
    inferred = {
        "hidden_size": hidden_size,
        "num_channels": num_channels,
        "patch_size": _one_or_pair(patch_size),
        "num_hidden_layers": _depth(state),
        "intermediate_size": state["blocks.0.mlp.fc1.weight"].shape[0],
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "use_distillation_token": "dist_token" in state,
    }
    if "num_attention_heads" not in settings:
        inferred["num_attention_heads"] = _infer_num_heads(hidden_size)
    if "image_size" not in settings:
        inferred["image_size"] = _infer_image_size(state, patch_size)
    if "id2label" in settings:
        settings = {"label2id": {name: index for index, name in settings["id2label"].items()}, **settings}
    elif "num_labels" not in settings:
        inferred["num_labels"] = _num_classes(state)
    return DeiTConfig(**{**inferred, **settings})


def _infer_num_heads(hidden_size: int) -> int:
    if hidden_size % 64:
        raise ValueError(
            f"the checkpoint is {hidden_size} wide, no multiple of the 64 dimensions a head of the published DeiTs; "
            "pass `num_attention_heads`"
        )
    return hidden_size // 64


def _infer_image_size(state: Mapping[str, Tensor], patch_size: list[int]) -> int | tuple[int, int]:
    """Pixels of a square grid of patches; only models with LayerScale may have no position for their class token."""
    num_rows, num_prefix_tokens = state["pos_embed"].shape[1], 2 if "dist_token" in state else 1
    has_layer_scale = "blocks.0.gamma_1" in state
    for num_patches in (
        (num_rows, num_rows - num_prefix_tokens) if has_layer_scale else (num_rows - num_prefix_tokens,)
    ):
        side = math.isqrt(max(num_patches, 0))
        if side and side**2 == num_patches:
            return _one_or_pair([side * length for length in patch_size])
    raise ValueError(
        f"the position table has {num_rows} rows, which is no square grid of patches and {num_prefix_tokens} prefix "
        "token(s); pass `image_size=(height, width)`"
    )


def _num_classes(state: Mapping[str, Tensor]) -> int:
    if "head.weight" not in state:
        raise ValueError(
            "the checkpoint has no classification head (`head.weight`), only features; pass `num_labels=0` for a "
            "model without a head (`from_pretrained(..., num_labels=10)` then starts a new one)"
        )
    return state["head.weight"].shape[0]


def _one_or_pair(size: Iterable[int]) -> int | tuple[int, int]:
    height, width = size
    return height if height == width else (height, width)


def _settings_of(model: Any) -> dict[str, Any]:
    """What a timm or official model knows beyond its tensors."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    return {
        "image_size": _one_or_pair(to_pair(model.patch_embed.img_size)),
        "num_attention_heads": model.blocks[0].attn.num_heads,
        "layer_norm_eps": model.blocks[0].norm1.eps,
    }


def _with_prefix_rows(table: Tensor, config: DeiTConfig) -> Tensor:
    """Position table (1, P + N, D), with rows of zeros for the prefix tokens where it is (1, N, D), as in DeiT III."""
    num_patches, num_prefix_tokens = math.prod(config.grid_size), config.num_prefix_tokens
    if table.shape[1] == num_patches:
        return F.pad(table, (0, 0, num_prefix_tokens, 0))
    if table.shape[1] != num_patches + num_prefix_tokens:
        raise ValueError(
            f"the position table has {table.shape[1]} rows, but `image_size` {config.image_size} makes {num_patches} "
            f"patches, with {num_prefix_tokens} prefix token(s); pass the `image_size` of the checkpoint "
            "(`resize_position_embeddings` changes it afterwards)"
        )
    return table


def _fold_layer_scale(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same function without LayerScale: each factor multiplies the rows of the projection before it."""
    folded = dict(state)
    for name, scale in state.items():
        block, _, kind = name.rpartition(".")
        if kind in _SCALED_BY:
            projection = f"{block}.{_SCALED_BY[kind]}"
            folded[f"{projection}.weight"] = folded[f"{projection}.weight"] * scale[:, None]
            folded[f"{projection}.bias"] = folded[f"{projection}.bias"] * scale
            del folded[name]
    return folded


def _our_names(state: Mapping[str, Tensor], config: DeiTConfig) -> dict[str, Tensor]:
    """The tensors under our names; each is a copy that shares memory with no other."""
    table = name_table(config)
    lacking, unknown = [name for name in table if name not in state], [name for name in state if name not in table]
    if lacking or unknown:
        kind = "distilled" if config.use_distillation_token else "plain"
        raise ValueError(
            f"the checkpoint does not fit a {kind} DeiT of {config.num_hidden_layers} layers: "
            f"it lacks {_listed(lacking)}; it has, but should not, {_listed(unknown)}"
        )
    return {
        name: part.clone(memory_format=torch.contiguous_format)
        for official, ours in table.items()
        for name, part in zip(ours, state[official].tensor_split(len(ours)), strict=True)
    }


def _build(state: dict[str, Tensor], config: DeiTConfig) -> Classifier:
    """The model of this configuration around these very tensors."""
    with torch.device("meta"):  # no time spent on initial values, and the random state stays as it was
        model = _CLASSES[config.use_distillation_token](config)
    for name, expected in model.state_dict().items():
        if state[name].shape != expected.shape:
            raise ValueError(
                f"`{name}` is {tuple(state[name].shape)} in the checkpoint, but {tuple(expected.shape)} by the "
                "configuration; leave out the field that differs (`num_labels`, `id2label`, a size)"
            )
    model.load_state_dict(state, assign=True)
    return model.eval()


@torch.no_grad()
def _check_same_logits(source: nn.Module, model: Classifier) -> None:
    """Pooling, activation or order of a block leave no trace in the tensors, so one image goes through both."""
    config = model.config
    image = torch.randn(
        1, config.num_channels, *to_pair(config.image_size), generator=torch.Generator().manual_seed(0)
    )
    expected = copy.deepcopy(source).cpu().float().eval()(image)
    logits = model(image).logits
    if logits.shape != expected.shape or not torch.allclose(logits, expected, rtol=1e-4, atol=1e-4):
        raise ValueError(
            f"the {type(source).__name__} does not compute what a DeiT with its weights computes; its pooling, "
            "activation or blocks are other ones"
        )
