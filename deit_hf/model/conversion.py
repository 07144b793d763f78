"""Checkpoints of the official code, timm and mmpretrain in, models of this package out, and official names back.

A converted model computes what its source computes: the models of arXiv:2012.12877, and DeiT III as a plain DeiT.
Checkpoints of transformers need no conversion: `from_pretrained` reads them (modeling_deit.py).
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
from .safe_loading import read_weight_file

logger = logging.getLogger(__name__)

Classifier = DeiTForImageClassification | DeiTForImageClassificationWithTeacher
_CLASSES: Any = (DeiTForImageClassification, DeiTForImageClassificationWithTeacher)

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
_SCALE_OF = {"attn.proj": "gamma_1", "mlp.fc2": "gamma_2"}
# What every DeiT has, and its sizes are read from: name and number of dimensions.
_LANDMARKS = {"cls_token": 3, "pos_embed": 3, "patch_embed.proj.weight": 4, "blocks.0.mlp.fc1.weight": 2}

# Where training checkpoints keep the weights. The official evaluation is that of `model`, so averages are last.
_WEIGHT_ENTRIES = ("model", "state_dict", "model_ema", "state_dict_ema")


def convert_checkpoint(
    checkpoint: str | Path | Mapping[str, Any] | nn.Module, *, config: DeiTConfig | None = None, **overrides: Any
) -> Classifier:
    """A model of this package, with the weights of an official, timm or mmpretrain checkpoint.

    Source: names of facebookresearch/deit models.py and models_v2.py, timm deit.py, mmpretrain backbones/deit.py.
    Differs: LayerScale of DeiT III is multiplied into the projections before it, and its class token gets a position
    of zeros; the logits are the same (test_deit3_folds_into_a_plain_vit_with_equal_logits).

    Args:
        checkpoint: path of a `.pth` or `.safetensors` file, the state dict in it, or a timm model. Of a file only
            tensors, plain values and `argparse.Namespace` are read; nothing in it is run.
        config: used instead of the one that the shapes of the tensors tell.
        overrides: arguments of `DeiTConfig` that shapes do not tell: `id2label`; `image_size=(height, width)` in
            pixels if the grid of patches is not square, `num_attention_heads` if heads are not 64 wide (a timm model
            tells both); `num_labels=0` for a checkpoint without a head.

    Returns:
        `DeiTForImageClassificationWithTeacher` if the checkpoint has a distillation token, else a plain
        `DeiTForImageClassification`; in float32, on the CPU, in eval mode.

    Raises:
        FileNotFoundError: no file at this path.
        TypeError: `checkpoint` is none of the three kinds.
        ValueError: the file is damaged or holds code; names or shapes are not those of a DeiT, or leave a size open;
            `config` and `overrides` are both given; a timm model does not compute what its tensors say.
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
        _say_other_statistics(checkpoint)
    return model


def to_timm_state_dict(model: Classifier) -> dict[str, Tensor]:
    """The weights under official names, with query, key and value fused; timm and the official code load it strictly.

    Returns:
        Copies on the CPU in the model's type, `head` and `head_dist` apart. What the config alone says is not in them:
        the number of heads, a grid of patches that is not square, the norm's epsilon.

    Raises:
        TypeError: another kind of model.
        ValueError: the official code has no such model: a distillation token without its head, or no exact GELU.
    """
    if not isinstance(model, _CLASSES):
        raise TypeError(f"`model` is a {type(model).__name__}, but must be one of this package's image classifiers")
    config = model.config
    if config.use_distillation_token and isinstance(model, DeiTForImageClassification):
        raise ValueError("`model` has a distillation token without a head on it, which no official DeiT has")
    if config.hidden_act != "gelu":
        raise ValueError(f"`hidden_act` is {config.hidden_act!r}, but official DeiTs compute 'gelu'")
    state = model.state_dict()
    return {official: torch.cat([state[name] for name in ours]).cpu() for official, ours in name_table(config).items()}


def export_checkpoint(source: str | Path, path: str | Path) -> None:
    """Writes a saved model (a directory) as one safetensors file with official names, for timm.

    Raises:
        FileNotFoundError: no model at `source`.
        ValueError: it is no DeiT or ViT, lacks weights, or `to_timm_state_dict` refuses.
    """
    if not Path(source, "config.json").is_file():
        raise FileNotFoundError(f"no saved model at `{source}`: there is no `{Path(source, 'config.json')}`")
    has_token = DeiTConfig.from_pretrained(source).use_distillation_token
    model, info = _CLASSES[has_token].from_pretrained(source, output_loading_info=True)
    if info["missing_keys"]:
        raise ValueError(f"`{source}` is no complete classifier: it lacks {_listed(sorted(info['missing_keys']))}")
    with written_aside(Path(path).parent) as part:
        save_file(to_timm_state_dict(model), part / Path(path).name, metadata={"format": "pt"})


def read_labels(path: str | Path) -> dict[int, str]:
    """Class names by index, as `id2label`, from a text file (a line per class) or JSON (a list, or index to name).

    Raises:
        FileNotFoundError: no file at this path.
        ValueError: no names, an index without a name, or a name that is empty or no text.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"class names (`labels`) cannot be read from `{path}`: {error}") from error
    try:
        names = json.loads(text) if Path(path).suffix == ".json" else text.splitlines()
    except json.JSONDecodeError as error:
        raise ValueError(f"`{path}` is no JSON: {error}") from error
    if isinstance(names, dict):
        names = [names.get(str(index)) for index in range(len(names))]
    if not names or not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"`{path}` must name each class in order, or by index from 0 on, and leave none empty")
    return {index: name.strip() for index, name in enumerate(names)}


def name_table(config: DeiTConfig) -> dict[str, list[str]]:
    """Official name of each tensor of such a model -> ours; three for the fused query, key and value."""
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
    if not isinstance(checkpoint, str | Path):
        raise TypeError(f"`checkpoint` is a {type(checkpoint).__name__}, not a path, a state dict or a timm model")
    path = Path(checkpoint)
    if not path.is_file():
        raise FileNotFoundError(f"no file at `{path}`; pass a `.pth` or `.safetensors` file, no directory")
    return f"`{path}`", read_weight_file(path)


def _official_state_dict(loaded: Any, source: str) -> dict[str, Tensor]:
    """The tensors in float32, under official names, from whatever a checkpoint is wrapped in."""
    if isinstance(loaded, Mapping):
        loaded = next((loaded[name] for name in _WEIGHT_ENTRIES if isinstance(loaded.get(name), Mapping)), loaded)
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(x, Tensor) for x in loaded.values()):
        found = loaded if isinstance(loaded, Mapping) else [type(loaded).__name__]
        raise ValueError(f"{source} holds no state dict (tensors by name), but {_listed(found)}")
    # wrappers for several processes and compiled models put their own name first
    state = {re.sub(r"^((module|_orig_mod)\.)+", "", name): x.detach().float().cpu() for name, x in loaded.items()}
    official_names = {other: official for official, _, *others in _rows(_depth(state)) for other in others}
    state = {official_names.get(name, name): tensor for name, tensor in state.items()}
    lacking = [name for name, ndim in _LANDMARKS.items() if name not in state or state[name].ndim != ndim]
    if lacking:
        raise ValueError(f"{source} is no DeiT: it lacks {_listed(lacking)} and holds {_listed(state)}")
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
    if hidden_size % 64 and "num_attention_heads" not in settings:
        raise ValueError(f"a width of {hidden_size} is not made of heads 64 wide; pass `num_attention_heads`")
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
            f"the head has {num_classes} classes, but `num_labels` or `id2label` says {config.num_labels}; make it "
            f"{num_classes} (`from_pretrained(..., num_labels=...)` can start another head afterwards)"
        )
    return config


def _infer_image_size(state: Mapping[str, Tensor], patch_size: list[int]) -> int | tuple[int, int]:
    """Pixels of a square grid of patches; only models with LayerScale may have no position for their class token."""
    num_rows = state["pos_embed"].shape[1]
    has_prefix_rows = "blocks.0.gamma_1" not in state or math.isqrt(num_rows) ** 2 != num_rows
    side = math.isqrt(num_rows - has_prefix_rows * (2 if "dist_token" in state else 1))
    return _one_or_pair([side * length for length in patch_size])


def _one_or_pair(size: Iterable[int]) -> int | tuple[int, int]:
    height, width = size
    return height if height == width else (height, width)


def _settings_of(model: Any) -> dict[str, Any]:
    """What a timm or official model knows beyond its tensors."""
    return {
        "image_size": _one_or_pair(to_pair(model.patch_embed.img_size)),
        "num_attention_heads": model.blocks[0].attn.num_heads,
        "layer_norm_eps": model.blocks[0].norm1.eps,
    }


def _say_other_statistics(source: Any) -> None:
    """The processor saved beside the model would be DeiT's; some ViTs of timm want other pixels."""
    cfg = getattr(source, "pretrained_cfg", None) or {}
    mean, std = (tuple(cfg.get(name) or default) for name, default in (("mean", _MEAN), ("std", _STD)))
    if (mean, std) != (_MEAN, _STD):
        logger.warning(
            "the %s expects pixels of mean %s and std %s; save `make_processor(%s, mean=%s, std=%s)` beside the model",
            *(type(source).__name__, mean, std, source.patch_embed.img_size, mean, std),
        )


def _with_prefix_rows(table: Tensor, config: DeiTConfig) -> Tensor:
    """Position table (1, P + N, D), with rows of zeros for the prefix tokens where it is (1, N, D), as in DeiT III."""
    num_rows, num_patches = table.shape[1], math.prod(config.grid_size)
    if num_rows == num_patches:
        return F.pad(table, (0, 0, config.num_prefix_tokens, 0))
    if num_rows != num_patches + config.num_prefix_tokens:
        raise ValueError(
            f"the position table has {num_rows} rows, but `image_size` {config.image_size} makes {num_patches} patches"
            f" and {config.num_prefix_tokens} prefix tokens; pass the checkpoint's own `image_size=(height, width)`"
        )
    return table


def _fold_layer_scale(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same function without LayerScale: each factor multiplies the rows of the projection before it."""
    folded = {name: tensor for name, tensor in state.items() if not name.endswith(tuple(_SCALE_OF.values()))}
    for name, tensor in folded.items():
        match = re.match(r"(blocks\.\d+\.)(attn\.proj|mlp\.fc2)\.", name)
        if match and (factor := match[1] + _SCALE_OF[match[2]]) in state:
            folded[name] = tensor * state[factor].view(-1, *[1] * (tensor.ndim - 1))
    return folded


def _our_names(state: Mapping[str, Tensor], config: DeiTConfig) -> dict[str, Tensor]:
    """The tensors under our names; each is a copy that shares memory with no other."""
    table = name_table(config)
    lacking, unknown = [name for name in table if name not in state], [name for name in state if name not in table]
    if lacking or unknown:
        raise ValueError(
            f"the checkpoint is no {'distilled' if config.use_distillation_token else 'plain'} DeiT of "
            f"{config.num_hidden_layers} layers: it lacks {_listed(lacking)}, and has {_listed(unknown)} too many"
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
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:  # the names are right, so it is a shape
        raise ValueError(f"shapes do not fit the configuration: {str(error).splitlines()[1].strip()}") from error
    return model.eval()


@torch.no_grad()
def _check_same_logits(source: nn.Module, model: Classifier) -> None:
    """Pooling, activation or order of a block leave no trace in the tensors, so one image goes through both."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    image = torch.randn(1, config.num_channels, *to_pair(config.image_size), generator=generator, dtype=torch.float64)
    expected = copy.deepcopy(source).cpu().double().eval()(image)
    logits = copy.deepcopy(model).double()(image).logits
    if logits.shape != expected.shape or not torch.allclose(logits, expected, rtol=1e-5, atol=1e-5):
        raise ValueError(f"the {type(source).__name__} is no DeiT: its pooling, activation or blocks are other ones")
