"""What the class token and the distillation token attend to, and what positions and patch filters a DeiT has learned.

Numbers only: attention_figures.py draws them, attention_page.py puts them on a page.

Shapes: B batch, C classes, D width, H heads, P prefix tokens (class, distillation), N patches, T = P + N tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..model.configuration_deit import DeiTConfig
from .token_similarity import token_cosines

TOKENS = ("class token", "distillation token")  # the prefix tokens, in the order of the sequence
# What a model returns -> name of the head, in the order in which they are shown.
HEADS = {"cls_logits": "class head", "distillation_logits": "distillation head", "logits": "mean of both heads"}


class ImageAttention(NamedTuple):
    """What the prefix tokens of a model attend to in one image. All tensors are float32 on the CPU.

    Attributes:
        last_layer: (P, H, rows, columns), attention of each prefix token to each patch in the last layer; the rest of
            1 is its attention to the prefix tokens.
        rollout: (P, rows, columns), of all layers, from `attention_rollout`.
        logits: (C,) by name of the head; a model with one head has only `class head`.
        cosines: of both tokens, from `token_cosines`; None for a model with one token.
    """

    last_layer: Tensor
    rollout: Tensor
    logits: dict[str, Tensor]
    cosines: dict[str, Any] | None

    @property
    def mean_of_heads(self) -> Tensor:
        """(P, rows, columns): the attention of the last layer, averaged over the heads."""
        return self.last_layer.mean(dim=1)


def check_attends(model: PreTrainedModel, source: str) -> None:
    """Checks that a model is a DeiT or a ViT.

    Raises:
        ValueError: it is another model; the message has its type.
    """
    if not isinstance(model.config, DeiTConfig):
        raise ValueError(
            f"`{source}` is of type `{model.config.model_type}`, which has no class token that attends to patches; "
            "name a DeiT or a ViT (type `deit` or `vit`)"
        )


@torch.no_grad()
def image_attention(model: PreTrainedModel, pixel_values: Tensor) -> ImageAttention:
    """Computes what the prefix tokens of a model attend to in one image.

    Args:
        model: a DeiT of this package with one head or two, in evaluation mode.
        pixel_values: (channels, height, width), normalised as by the model's image processor.
    """
    config: Any = model.config
    batch = pixel_values[None].to(model.device)
    output: Any = model(pixel_values=batch, output_attentions=True)
    attentions = [layer.float() for layer in output.attentions]  # (1, H, T, T) each
    num_tokens = config.num_prefix_tokens
    patches = attentions[-1][0, :, :num_tokens, num_tokens:].transpose(0, 1)  # (P, H, N)
    rollout = attention_rollout(attentions, num_queries=num_tokens)[0, :, num_tokens:]  # (P, N)
    heads = HEADS if "cls_logits" in output else {"logits": "class head"}
    return ImageAttention(
        last_layer=patches.unflatten(-1, config.grid_size).cpu(),
        rollout=rollout.unflatten(-1, config.grid_size).cpu(),
        logits={name: output[key][0].float().cpu() for key, name in heads.items()},
        cosines=token_cosines(model, batch) if config.use_distillation_token else None,
    )


def attention_rollout(attentions: Sequence[Tensor], *, num_queries: int) -> Tensor:
    """How much of each input token arrives in the first tokens of the last layer, along all paths of attention.

    Source: Abnar & Zuidema 2020, arXiv:2005.00928 sec. 3, equation 1: the product over the layers of 0.5 W + 0.5 I,
    where W is the attention averaged over the heads, and I stands for the residual connection.

    Args:
        attentions: of the first layer to the last, (B, H, T, T) each; rows are queries and sum to 1.
        num_queries: Q, number of tokens to return.

    Returns:
        (B, Q, T); rows sum to 1.
    """
    rollout = torch.eye(num_queries, attentions[0].shape[-1], device=attentions[0].device)  # (Q, T)
    for attention in reversed(attentions):
        rollout = 0.5 * rollout @ attention.float().mean(dim=1) + 0.5 * rollout  # (B, Q, T)
    return rollout


def difference(maps: Tensor) -> Tensor:
    """Class token minus distillation token, each as a share of its attention to all patches.

    Args:
        maps: (2, rows, columns), attention of both tokens to the patches.

    Returns:
        (rows, columns); the sum is 0.
    """
    shares = maps / maps.sum(dim=(1, 2), keepdim=True)
    return shares[0] - shares[1]


def overlap(maps: Tensor) -> float:
    """The share in [0, 1] of the attention to patches that both tokens have in common: 1 if their maps are equal.

    Args:
        maps: (2, rows, columns), attention of both tokens to the patches.
    """
    return 1 - difference(maps).abs().sum().item() / 2


@torch.no_grad()
def position_similarity(model: PreTrainedModel) -> Tensor:
    """The cosine of the position embedding of each patch with that of every other.

    Source: Dosovitskiy et al. 2020, arXiv:2010.11929, figure 7 (centre).

    Args:
        model: a DeiT of this package.

    Returns:
        (rows, columns, rows, columns), in [-1, 1]: first the patch, then the patch that it is compared with.
    """
    config: Any = model.config
    table = model.base_model.embeddings.position_embeddings[0, config.num_prefix_tokens :].float().cpu()  # (N, D)
    unit = F.normalize(table, dim=-1)
    return (unit @ unit.T).unflatten(1, config.grid_size).unflatten(0, config.grid_size)


class PatchFilters(NamedTuple):
    """What the patch embedding of a model reacts to.

    Attributes:
        filters: (count, channels, height, width), in the order in which they are shown.
        shares: (count,), share in [0, 1] of the variance of all filters that each component explains, largest first;
            None if the filters themselves are given.
    """

    filters: Tensor
    shares: Tensor | None


@torch.no_grad()
def patch_filters(model: PreTrainedModel, *, max_filters: int = 28) -> PatchFilters:
    """The filters of the patch embedding; if there are many, their first principal components.

    Source: Dosovitskiy et al. 2020, arXiv:2010.11929, figure 7 (left), which shows 28 components.

    Args:
        model: a DeiT of this package.
        max_filters: largest number to return. A component has no sign; its entry of largest size is positive here.
    """
    projection = model.base_model.embeddings.patch_embeddings.projection
    weight = projection.weight.detach().float().cpu()  # (D, channels, height, width)
    if len(weight) <= max_filters:
        return PatchFilters(weight, None)
    flat = weight.flatten(1).double()
    _, sizes, components = torch.linalg.svd(flat - flat.mean(dim=0), full_matrices=False)
    components = components[:max_filters]  # (count, channels * h * w)
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    variance = sizes.square()
    shares = variance[:max_filters] / variance.sum().clamp_min(torch.finfo(variance.dtype).tiny)
    return PatchFilters((components * largest.sign()).float().unflatten(1, weight.shape[1:]), shares.float())
