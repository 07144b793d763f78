"""The cosine of class token and distillation token, compared with the states of the model."""

import pytest
import torch

from deit_hf import DeiTConfig, DeiTForImageClassificationWithTeacher
from deit_hf.analysis.token_similarity import token_cosines


@pytest.fixture
def model() -> DeiTForImageClassificationWithTeacher:
    torch.manual_seed(0)
    config = DeiTConfig.from_variant(
        "deit_tiny_distilled_patch16_224", image_size=32, num_hidden_layers=2, num_labels=3
    )
    return DeiTForImageClassificationWithTeacher(config).eval()


def cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first @ second / first.norm() / second.norm()).item()


def test_cosines_are_those_of_the_tokens_the_states_and_the_features(model):
    pixels = torch.randn(3, 3, 32, 32)
    found = token_cosines(model, pixels)
    embeddings = model.base_model.embeddings
    assert found["input"] == pytest.approx(cosine(embeddings.cls_token[0, 0], embeddings.distillation_token[0, 0]))
    with torch.no_grad():
        outputs = model.base_model(pixel_values=pixels, output_hidden_states=True)
    last = outputs.last_hidden_state
    assert found["output"] == pytest.approx(sum(cosine(each[0], each[1]) for each in last) / 3, abs=1e-6)
    assert len(found["layers"]) == 2
    for value, states in zip(found["layers"], outputs.hidden_states[1:], strict=True):
        assert value == pytest.approx(sum(cosine(each[0], each[1]) for each in states) / 3, abs=1e-6)


def test_equal_tokens_have_cosine_one(model):
    embeddings = model.base_model.embeddings
    with torch.no_grad():
        embeddings.distillation_token.copy_(embeddings.cls_token)
        embeddings.position_embeddings[:, 1] = embeddings.position_embeddings[:, 0]
    found = token_cosines(model, torch.randn(2, 3, 32, 32))
    assert [found["input"], found["output"], *found["layers"]] == pytest.approx([1] * 4, abs=1e-5)
