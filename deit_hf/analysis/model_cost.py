"""Size and cost of the eight published models (arXiv:2012.12877 table 1), printed by `python -m deit_hf`.

Models are built on torch's meta device, so no weights or memory are needed.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..model.configuration_deit import VARIANTS, DeiTConfig, to_pair
from ..model.modeling_deit import (
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DeiTPreTrainedModel,
)

NORM_COST = 5  # multiply-adds per normalised element; fvcore's estimate


class ModelCost(NamedTuple):
    """Size and cost of one model.

    Attributes:
        num_parameters: of the whole model, including the heads.
        multiply_adds: for the features of one image, see `count_multiply_adds`.
    """

    num_parameters: int
    multiply_adds: int


def model_cost(config: DeiTConfig) -> ModelCost:
    """Counts parameters and multiply-adds of a DeiT; with a distillation token it has two heads."""
    deit = DeiTForImageClassificationWithTeacher if config.use_distillation_token else DeiTForImageClassification
    with torch.device("meta"):
        model = deit(config).eval()
    return ModelCost(model.num_parameters(), count_multiply_adds(model))


def count_multiply_adds(model: DeiTPreTrainedModel) -> int:
    """Counts the multiply-adds for the features of one image: all tokens in all layers, without the heads.

    Each multiply-add of a convolution or matrix product counts once, and each element of a LayerNorm counts five.
    Softmax, GELU, biases and residual sums are not counted. The heads would add 0.01 % to 0.03 %.

    Source: the "FLOPs" in mmpretrain's tables are counted this way (its tools/analysis_tools/get_flops.py at ee7f2e88
    lets fvcore count `extract_feat`, which has no head).
    Differs: our models with heads need 7 % less, because their last layer computes only the prefix tokens.

    Args:
        model: on the meta device, in eval mode.
    """
    height, width = to_pair(model.config.image_size)
    pixel_values = torch.empty(1, model.config.num_channels, height, width, device=model.device)
    # torch counts a multiply-add as two operations, and does not count norms
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.native_layer_norm: _norm_flops})
    with counter, torch.no_grad():
        model.base_model(pixel_values)
    return counter.get_total_flops() // 2


def _norm_flops(input_shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    return 2 * NORM_COST * math.prod(input_shape)


def model_table() -> str:
    """Formats the eight published models as a table, one line per model."""
    sizes = " ".join(f"{word:>6}" for word in ("image", "width", "heads", "layers"))
    lines = [f"{'variant':33} {'params (M)':>10} {'FLOPs (G)':>10} {sizes}"]
    for name in VARIANTS:
        config = DeiTConfig.from_variant(name)
        cost = model_cost(config)
        numbers = (config.image_size, config.hidden_size, config.num_attention_heads, config.num_hidden_layers)
        sizes = " ".join(f"{number:6}" for number in numbers)
        lines.append(f"{name:33} {cost.num_parameters / 1e6:10.2f} {cost.multiply_adds / 1e9:10.2f} {sizes}")
    return "\n".join(lines)
