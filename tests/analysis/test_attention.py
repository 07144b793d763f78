"""What the tokens attend to, positions and filters, compared with values worked out by hand or from the layers."""

import math

import pytest
import torch
from support.models import make_model

from deit_hf import DeiTConfig
from deit_hf.analysis.attention import (
    attention_rollout,
    check_attends,
    difference,
    image_attention,
    overlap,
    patch_filters,
    position_similarity,
)


def test_rollout_of_three_tokens_is_the_one_worked_out_by_hand():
    # the mean of the heads of the first layer is [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    first = torch.tensor(
        [[[0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]], [[-0.5, 1.5, 0], [0, -0.5, 1.5], [1.5, 0, -0.5]]]
    )
    second = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 0, 1]]).expand(2, 3, 3)
    # half of each token is kept: layer 1 is [[1, 1, 0], [0, 1, 1], [1, 0, 1]] / 2, and layer 2 begins with the rows
    # [2, 0, 0] / 2 and [1, 1, 0] / 2
    expected = torch.tensor([[2, 2, 0], [1, 2, 1]]) / 4  # layer 2 times layer 1
    found = attention_rollout([first[None], second[None]], num_queries=2)
    torch.testing.assert_close(found, expected[None], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("kind", "num_tokens"), [("distilled", 2), ("one head", 2), ("plain", 1)])
def test_attention_of_the_last_layer_is_that_of_its_queries_and_keys(
    kind: str, num_tokens: int, tiny_config: DeiTConfig
):
    tiny_config.image_size = (24, 40)  # 3 x 5 patches
    model = make_model(kind, tiny_config).eval()
    pixels = torch.randn(3, 24, 40)
    found = image_attention(model, pixels)
    assert (found.last_layer.shape, found.rollout.shape) == ((num_tokens, 3, 3, 5), (num_tokens, 3, 5))
    with torch.no_grad():
        output = model(pixel_values=pixels[None], output_hidden_states=True)
        layer = model.base_model.encoder.layer[-1]
        states = layer.layernorm_before(output.hidden_states[-2])[0]
        query, key = layer.attention.attention.query(states), layer.attention.attention.key(states)
    for head in range(3):
        part = slice(8 * head, 8 * head + 8)
        weights = (query[:, part] @ key[:, part].T / math.sqrt(8)).softmax(dim=-1)
        for token in range(num_tokens):
            for row in range(3):
                expected = weights[token, num_tokens + 5 * row : num_tokens + 5 * row + 5]
                torch.testing.assert_close(found.last_layer[token, head, row], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.mean_of_heads, sum(found.last_layer[:, head] for head in range(3)) / 3)
    assert (found.cosines is None) == (num_tokens == 1)


def test_rows_of_the_rollout_of_a_model_sum_to_one(tiny_student):
    output = tiny_student.eval()(pixel_values=torch.randn(2, 3, 32, 32), output_attentions=True)
    rollout = attention_rollout(output.attentions, num_queries=18)
    torch.testing.assert_close(rollout.sum(dim=-1), torch.ones(2, 18), atol=1e-5, rtol=0)
    some = attention_rollout(output.attentions, num_queries=2)
    torch.testing.assert_close(some, rollout[:, :2])


def test_both_heads_and_their_mean_keep_their_names(tiny_config: DeiTConfig):
    model = make_model("distilled", tiny_config).eval()
    pixels = torch.randn(3, 32, 32)
    found = image_attention(model, pixels).logits
    with torch.no_grad():
        output = model(pixel_values=pixels[None])
    assert list(found) == ["class head", "distillation head", "mean of both heads"]
    for name, expected in zip(found, (output.cls_logits, output.distillation_logits, output.logits), strict=True):
        torch.testing.assert_close(found[name], expected[0], atol=1e-4, rtol=1e-4)


def test_difference_compares_shares_of_the_attention_to_patches():
    maps = torch.tensor([[[0.1, 0.3]], [[0.3, 0.3]]])  # shares 1/4, 3/4 and 1/2, 1/2
    torch.testing.assert_close(difference(maps), torch.tensor([[-0.25, 0.25]]))
    assert overlap(maps) == pytest.approx(0.75)
    assert overlap(maps[:1].repeat(2, 1, 1)) == pytest.approx(1)


def test_position_similarity_compares_patches_and_leaves_out_the_tokens(tiny_config: DeiTConfig):
    tiny_config.image_size = (16, 24)  # 2 x 3 patches
    model = make_model("distilled", tiny_config)
    table = model.base_model.embeddings.position_embeddings.detach()[0]
    found = position_similarity(model)
    assert found.shape == (2, 3, 2, 3)
    first, second = table[2 + 0 * 3 + 2], table[2 + 1 * 3 + 0]
    expected = (first @ second / first.norm() / second.norm()).item()
    assert [found[0, 2, 1, 0].item(), found[1, 0, 0, 2].item()] == pytest.approx([expected] * 2, abs=1e-6)
    assert found[1, 2, 1, 2].item() == pytest.approx(1)


def test_few_filters_are_returned_as_they_are(tiny_student):
    weight = tiny_student.deit.embeddings.patch_embeddings.projection.weight
    found = patch_filters(tiny_student)
    assert found.shares is None
    assert torch.equal(found.filters, weight)


def test_components_of_many_filters_are_their_directions_with_the_largest_entry_positive(tiny_student):
    weight = tiny_student.deit.embeddings.patch_embeddings.projection.weight  # (24, 3, 8, 8)
    directions = torch.zeros(2, 3, 8, 8)
    directions[0, 1, 2, 3], directions[0, 0, 0, 0] = -0.8, 0.6
    directions[1, 2, 7, 7] = 1
    sizes = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).repeat(6, 1)  # variances 9 and 1
    with torch.no_grad():
        weight.copy_(torch.einsum("ij,jabc->iabc", sizes, directions) + 0.5)  # the mean does not count
    found = patch_filters(tiny_student, max_filters=2)
    torch.testing.assert_close(found.filters, directions * torch.tensor([-1, 1]).view(2, 1, 1, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.shares, torch.tensor([0.9, 0.1]), atol=1e-5, rtol=0)


def test_a_convnet_is_refused_with_its_type(tiny_config: DeiTConfig):
    check_attends(make_model("plain", tiny_config), "model")
    with pytest.raises(ValueError, match="`photos` is of type `resnet`.*name a DeiT or a ViT"):
        check_attends(make_model("resnet", tiny_config), "photos")
