"""The layers of DeiT (arXiv:2012.12877 sec. 3-4, figure 2): tokens, positions, attention, block, encoder.

Modules have the same names as in the checkpoints on the Hub. The models built from them are in modeling_deit.py.

Shapes: B batch, D width, H heads, P prefix tokens (class, distillation), N patches, T = P + N tokens.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_deit import DeiTConfig, to_pair


def at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def resize_position_table(
    table: Tensor, *, num_prefix_tokens: int, grid_size: tuple[int, int], new_grid_size: tuple[int, int]
) -> Tensor:
    """Resizes a position table to another number of patches: bicubic over the grid, prefix tokens unchanged.

    Source: arXiv:2012.12877 sec. 6 (bicubic nearly keeps the norm of the vectors); official main.py:288-306.

    Args:
        table: (1, P + rows * columns, D); half precision is computed in float32 and returned in its own type.
        num_prefix_tokens: P, the number of rows before the first patch.
        grid_size: (rows, columns) of `table`.
        new_grid_size: (rows, columns) of the result.

    Returns:
        (1, P + new rows * new columns, D).
    """
    if new_grid_size == grid_size:
        return table
    prefix, patches = table[:, :num_prefix_tokens], table[:, num_prefix_tokens:]
    patches = patches.unflatten(1, grid_size).permute(0, 3, 1, 2)  # (1, D, rows, columns)
    patches = F.interpolate(at_least_float32(patches), size=new_grid_size, mode="bicubic", align_corners=False)
    return torch.cat([prefix, patches.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


class DeiTPatchEmbeddings(nn.Module):
    """Cuts an image into patches and projects each to `hidden_size`."""

    def __init__(self, config: DeiTConfig):
        super().__init__()
        patch_size = to_pair(config.patch_size)
        self.projection = nn.Conv2d(config.num_channels, config.hidden_size, patch_size, stride=patch_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.projection(pixel_values).flatten(2).transpose(1, 2)  # (B, N, D)


class DeiTEmbeddings(nn.Module):
    """Class token, distillation token if any, and patches, plus learned positions (sec. 4, figure 2)."""

    def __init__(self, config: DeiTConfig):
        super().__init__()
        self.config = config
        rows, columns = config.grid_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.distillation_token = (
            nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if config.use_distillation_token else None
        )
        self.position_embeddings = nn.Parameter(
            torch.zeros(1, config.num_prefix_tokens + rows * columns, config.hidden_size)
        )
        self.patch_embeddings = DeiTPatchEmbeddings(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def positions_for(self, height: int, width: int, interpolate: bool) -> Tensor:
        """Returns the position table (1, T, D) for an input of this size in pixels."""
        expected = to_pair(self.config.image_size)
        if not interpolate and (height, width) != expected:
            raise ValueError(
                f"input image is {height}x{width} but the model expects {expected[0]}x{expected[1]}; resize the "
                "image, pass `interpolate_pos_encoding=True`, or load the model with `from_pretrained(..., "
                f"image_size=({height}, {width}))`"
            )
        patch_height, patch_width = to_pair(self.config.patch_size)
        return resize_position_table(
            self.position_embeddings,
            num_prefix_tokens=self.config.num_prefix_tokens,
            grid_size=self.config.grid_size,
            new_grid_size=(height // patch_height, width // patch_width),
        )

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        batch_size, num_channels, height, width = pixel_values.shape
        if num_channels != self.config.num_channels:
            raise ValueError(
                f"input has {num_channels} channels but the model expects {self.config.num_channels}; "
                "convert the image, for example with `image.convert('RGB')`"
            )
        prefix = [self.cls_token] if self.distillation_token is None else [self.cls_token, self.distillation_token]
        patches = self.patch_embeddings(pixel_values)
        tokens = torch.cat([token.expand(batch_size, -1, -1) for token in prefix] + [patches], dim=1)  # (B, T, D)
        return self.dropout(tokens + self.positions_for(height, width, interpolate_pos_encoding))


class DeiTDense(nn.Module):
    """A linear layer, named `dense` as in the checkpoints on the Hub."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.dense = nn.Linear(in_features, out_features)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.dense(hidden_states)


class DeiTSelfAttention(nn.Module):
    """Multi-head attention of the first `num_queries` tokens to all tokens, without the output projection."""

    def __init__(self, config: DeiTConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.head_size = config.hidden_size // config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.key = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.value = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)

    def split_heads(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (self.num_heads, self.head_size)).transpose(1, 2)  # (B, H, tokens, D / H)

    def forward(
        self, hidden_states: Tensor, num_queries: int | None, output_attentions: bool
    ) -> tuple[Tensor, Tensor | None]:
        query = self.split_heads(self.query(hidden_states[:, :num_queries]))  # (B, H, Q, D / H)
        key = self.split_heads(self.key(hidden_states))
        value = self.split_heads(self.value(hidden_states))
        dropout_rate = self.config.attention_probs_dropout_prob if self.training else 0.0
        attentions = None
        if output_attentions or self.config._attn_implementation == "eager":
            scores = query @ key.transpose(2, 3) / math.sqrt(self.head_size)  # (B, H, Q, T)
            attentions = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
            attended = F.dropout(attentions, dropout_rate) @ value
        else:
            attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout_rate)
        return attended.transpose(1, 2).flatten(2), attentions  # (B, Q, D)


class DeiTAttention(nn.Module):
    """Self-attention and its output projection, named as in the checkpoints on the Hub."""

    def __init__(self, config: DeiTConfig):
        super().__init__()
        self.attention = DeiTSelfAttention(config)
        self.output = DeiTDense(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: Tensor, num_queries: int | None, output_attentions: bool
    ) -> tuple[Tensor, Tensor | None]:
        attended, attentions = self.attention(hidden_states, num_queries, output_attentions)
        return self.output(attended), attentions


class DeiTLayer(GradientCheckpointingLayer):
    """Pre-norm transformer block with stochastic depth on both branches."""

    def __init__(self, config: DeiTConfig, drop_path_rate: float):
        super().__init__()
        self.attention = DeiTAttention(config)
        self.intermediate = DeiTDense(config.hidden_size, config.intermediate_size)
        self.output = DeiTDense(config.intermediate_size, config.hidden_size)
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path = StochasticDepth(drop_path_rate, mode="row")

    def forward(
        self, hidden_states: Tensor, num_queries: int | None = None, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Returns (B, Q, D) for the first `num_queries` tokens (default: all), and attentions (B, H, Q, T) or None."""
        attended, attentions = self.attention(self.layernorm_before(hidden_states), num_queries, output_attentions)
        hidden_states = hidden_states[:, :num_queries] + self.drop_path(self.dropout(attended))  # (B, Q, D)
        expanded = self.activation(self.intermediate(self.layernorm_after(hidden_states)))
        return hidden_states + self.drop_path(self.dropout(self.output(expanded))), attentions


class DeiTEncoder(nn.Module):
    """The stack of layers; the stochastic depth rate rises linearly with depth."""

    def __init__(self, config: DeiTConfig):
        super().__init__()
        rates = torch.linspace(0, config.drop_path_rate, config.num_hidden_layers, device="cpu").tolist()
        self.layer = nn.ModuleList(DeiTLayer(config, rate) for rate in rates)

    def forward(
        self, hidden_states: Tensor, num_queries: int | None, output_hidden_states: bool, output_attentions: bool
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Returns the last layer's output for `num_queries` tokens, and the requested tensors of all layers.

        Tensors that are not requested are not kept, so inference holds one layer's activations at a time.
        """
        all_hidden_states, all_attentions = [], []
        for i, layer in enumerate(self.layer):
            if output_hidden_states:
                all_hidden_states.append(hidden_states)
            is_last = i == len(self.layer) - 1
            hidden_states, attentions = layer(hidden_states, num_queries if is_last else None, output_attentions)
            if output_attentions:
                all_attentions.append(attentions)
        if output_hidden_states:
            all_hidden_states.append(hidden_states)
        return hidden_states, all_hidden_states, all_attentions


class DeiTPooler(nn.Module):
    """transformers' pooler on the class token; not part of the paper, but some checkpoints contain one."""

    def __init__(self, config: DeiTConfig):
        super().__init__()
        assert config.pooler_output_size is not None  # the configuration sets it to `hidden_size`
        self.dense = nn.Linear(config.hidden_size, config.pooler_output_size)
        self.activation = ACT2FN[config.pooler_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.activation(self.dense(hidden_states[:, 0]))
