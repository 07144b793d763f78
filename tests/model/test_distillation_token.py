"""Distilled weights loaded without their token, compared with a plain model built by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import make_model
from transformers import AutoModelForImageClassification

from deit_hf import DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher, DeiTModel

TOKEN = "deit.embeddings.distillation_token"
POSITIONS = "deit.embeddings.position_embeddings"


@pytest.fixture(params=["distilled", "one head"])
def weights(request: Any, tmp_path: Path, tiny_config: DeiTConfig) -> tuple[str, dict[str, torch.Tensor]]:
    model = make_model(request.param, tiny_config)
    model.save_pretrained(tmp_path / "saved")
    return str(tmp_path / "saved"), model.state_dict()


@pytest.mark.parametrize("by", ["option", "config"])
def test_distilled_weights_without_the_token_are_a_plain_model_with_all_other_weights(weights, tiny_config, by: str):
    source, saved = weights
    tiny_config.use_distillation_token, tiny_config.layer_norm_eps = False, 1e-3
    asked = {"use_distillation_token": False} if by == "option" else {"config": tiny_config}
    model = DeiTForImageClassification.from_pretrained(source, **asked)
    assert (model.config.use_distillation_token, model.config.to_dict()["model_type"]) == (False, "vit")
    assert (model.config.layer_norm_eps == 1e-3) == (by == "config")
    expected = {
        name.replace("deit.", "vit.").replace("cls_classifier", "classifier"): tensor
        for name, tensor in saved.items()
        if name != TOKEN and "distillation_classifier" not in name
    }
    rows = saved[POSITIONS]
    expected["vit.embeddings.position_embeddings"] = torch.cat([rows[:, 0:1], rows[:, 2:]], dim=1)
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_such_a_model_is_read_by_plain_transformers(weights, tmp_path: Path, toy_images: torch.Tensor):
    model = DeiTForImageClassification.from_pretrained(weights[0], use_distillation_token=False)
    model.save_pretrained(tmp_path / "plain")
    native = AutoModelForImageClassification.from_pretrained(tmp_path / "plain")
    assert type(native).__name__ == "ViTForImageClassification"
    torch.testing.assert_close(native(toy_images).logits, model(toy_images).logits, rtol=0, atol=1e-5)


def test_what_is_dropped_is_said_in_one_line(weights, caplog: pytest.LogCaptureFixture):
    _, info = DeiTForImageClassification.from_pretrained(
        weights[0], use_distillation_token=False, output_loading_info=True
    )
    messages = [record.getMessage() for record in caplog.records if record.name == "deit_hf.model.distillation_token"]
    assert len(messages) == 1
    assert f"the distillation token of `{weights[0]}` is dropped, with its row of the position table" in messages[0]
    has_head = any("distillation_classifier" in name for name in weights[1])
    assert ("its head (`distillation_classifier`)" in messages[0]) == has_head
    assert info["missing_keys"] == set()
    assert info["unexpected_keys"] == {name for name in weights[1] if "distillation_" in name}


def test_features_lose_the_token_and_keep_their_pooler(tmp_path: Path, tiny_config: DeiTConfig):
    saved = DeiTModel(tiny_config)
    saved.save_pretrained(tmp_path)
    model = DeiTModel.from_pretrained(tmp_path, use_distillation_token=False)
    assert torch.equal(model.pooler.dense.weight, saved.pooler.dense.weight)
    assert model.embeddings.position_embeddings.shape == (1, 17, 24)
    assert DeiTModel.from_pretrained(tmp_path, use_distillation_token=False, add_pooling_layer=False).pooler is None


def test_token_leaves_with_other_classes_and_another_size(weights):
    model = DeiTForImageClassification.from_pretrained(
        weights[0], use_distillation_token=False, image_size=48, num_labels=7, ignore_mismatched_sizes=True
    )
    assert model(torch.zeros(1, 3, 48, 48)).logits.shape == (1, 7)
    assert model.vit.embeddings.position_embeddings.shape == (1, 37, 24)


@pytest.mark.parametrize("model_class", [DeiTForImageClassification, DeiTModel])
def test_token_that_plain_weights_do_not_have_is_refused_with_the_class_that_gives_one(
    tmp_path: Path, tiny_config: DeiTConfig, model_class: type
):
    make_model("plain", tiny_config).save_pretrained(tmp_path)
    message = "`use_distillation_token` is True, but `.*` has no such token; .*DeiTForImageClassificationWithTeacher"
    with pytest.raises(ValueError, match=message):
        model_class.from_pretrained(tmp_path, use_distillation_token=True)


@pytest.mark.parametrize("kind", ["distilled", "plain"])
def test_class_that_needs_the_token_refuses_to_be_without(tmp_path: Path, tiny_config: DeiTConfig, kind: str):
    make_model(kind, tiny_config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`use_distillation_token` is False, but this class needs the token"):
        DeiTForImageClassificationWithTeacher.from_pretrained(tmp_path, use_distillation_token=False)


def test_text_for_the_option_is_refused(tmp_path: Path, tiny_config: DeiTConfig):
    make_model("distilled", tiny_config).save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="`use_distillation_token` is 'no', but must be True or False"):
        DeiTForImageClassification.from_pretrained(tmp_path, use_distillation_token="no")
