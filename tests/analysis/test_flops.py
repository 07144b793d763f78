"""Multiply-adds, compared with products written out by hand."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deit_hf.analysis.flops import multiply_adds


class OneAttention(nn.Module):
    """A patch embedding and an attention without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, kernel_size=4, stride=4)

    def forward(self, pixel_values: Tensor) -> Tensor:
        tokens = self.patches(pixel_values).flatten(2).transpose(1, 2)[:, None]  # (B, 1, 6, 8)
        return F.scaled_dot_product_attention(tokens, tokens, tokens)


def test_convolution_and_attention_count():
    patches = 6 * 8 * (3 * 4 * 4)
    attention = 2 * 6 * 6 * 8  # scores, and the weighted sum
    model = OneAttention().eval()
    assert multiply_adds(model, torch.zeros(1, 3, 8, 12)) == patches + attention
    assert multiply_adds(model, torch.zeros(2, 3, 8, 12)) == 2 * (patches + attention)
