"""Size and cost of the published models (arXiv:2012.12877 table 1), printed by `deit-hf models`.

They are computed by formula, without torch. The tests compare the formulas with the real models.
"""

from typing import NamedTuple

from ..model.variants import VARIANTS

NORM_COST = 5  # multiply-adds per normalised element; fvcore's estimate
NUM_LAYERS, PATCH_SIZE, NUM_CHANNELS, NUM_LABELS = 12, 16, 3, 1000  # of all published models


class ModelCost(NamedTuple):
    """Size and cost of one model.

    Attributes:
        num_parameters: of the whole model, including the heads.
        multiply_adds: for the features of one image: all tokens in all layers, without the heads. Each multiply-add of
            a convolution or matrix product counts once, and each element of a LayerNorm counts five. Softmax, GELU,
            biases and residual sums are not counted. The heads would add 0.01 % to 0.03 %.
    """

    num_parameters: int
    multiply_adds: int


def model_cost(
    *,
    image_size: int,
    hidden_size: int,
    intermediate_size: int,
    use_distillation_token: bool,
    num_hidden_layers: int = NUM_LAYERS,
    patch_size: int = PATCH_SIZE,
    num_labels: int = NUM_LABELS,
) -> ModelCost:
    """Size and cost of a DeiT with square images and patches; with a distillation token it has two heads.

    Source: the "FLOPs" in mmpretrain's tables are counted this way (its tools/analysis_tools/get_flops.py at ee7f2e88
    lets fvcore count `extract_feat`, which has no head).
    Differs: our models with heads need 7 % less, because their last layer computes only the prefix tokens.

    Args:
        image_size: side of the image in pixels.
        hidden_size: width D of a token.
        intermediate_size: width of the MLP.
        use_distillation_token: whether there are two prefix tokens and two heads instead of one.
        num_hidden_layers: number of blocks.
        patch_size: side of a patch in pixels.
        num_labels: number of classes.
    """
    num_prefixes = 2 if use_distillation_token else 1
    num_patches = (image_size // patch_size) ** 2
    tokens = num_patches + num_prefixes
    patch = NUM_CHANNELS * patch_size**2 * hidden_size
    attention, mlp = 4 * hidden_size**2, 2 * hidden_size * intermediate_size  # q, k, v, output; up, down
    norms = 2 * num_hidden_layers + 1
    layer_biases = 4 * hidden_size + intermediate_size + hidden_size
    num_parameters = (
        patch
        + hidden_size  # its bias
        + (num_prefixes + tokens) * hidden_size  # prefix tokens and position table
        + num_hidden_layers * (attention + mlp + layer_biases)
        + norms * 2 * hidden_size
        + num_prefixes * (hidden_size + 1) * num_labels
    )
    attend = 2 * tokens**2 * hidden_size  # attention scores, and the weighted sum of the values
    multiply_adds = (
        num_patches * patch
        + num_hidden_layers * (tokens * (attention + mlp) + attend)
        + norms * NORM_COST * tokens * hidden_size
    )
    return ModelCost(num_parameters, multiply_adds)


def variant_cost(name: str) -> ModelCost:
    """Size and cost of a published model by its name, with heads for 1000 classes."""
    return model_cost(**{field: value for field, value in VARIANTS[name].items() if field != "num_attention_heads"})


def model_table() -> str:
    """Formats the eight published models as a table, one line per model."""
    sizes = " ".join(f"{word:>6}" for word in ("image", "width", "heads", "layers"))
    lines = [f"{'variant':33} {'params (M)':>10} {'FLOPs (G)':>10} {sizes}"]
    for name, fields in VARIANTS.items():
        cost = variant_cost(name)
        numbers = (fields["image_size"], fields["hidden_size"], fields["num_attention_heads"], NUM_LAYERS)
        sizes = " ".join(f"{number:6}" for number in numbers)
        lines.append(f"{name:33} {cost.num_parameters / 1e6:10.2f} {cost.multiply_adds / 1e9:10.2f} {sizes}")
    return "\n".join(lines)
