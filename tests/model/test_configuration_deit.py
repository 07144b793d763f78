"""DeiTConfig: the published variants, the two model types on disk, and invalid values."""

import copy
import dataclasses
import inspect
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import transformers

from deit_hf import DeiTConfig
from deit_hf.model.variants import VARIANTS

# arXiv:2012.12877 table 1 and its sections on distilled and 384-pixel models.
PUBLISHED = {
    # name: (width, heads, image size, distillation token)
    "deit_tiny_patch16_224": (192, 3, 224, False),
    "deit_tiny_distilled_patch16_224": (192, 3, 224, True),
    "deit_small_patch16_224": (384, 6, 224, False),
    "deit_small_distilled_patch16_224": (384, 6, 224, True),
    "deit_base_patch16_224": (768, 12, 224, False),
    "deit_base_distilled_patch16_224": (768, 12, 224, True),
    "deit_base_patch16_384": (768, 12, 384, False),
    "deit_base_distilled_patch16_384": (768, 12, 384, True),
}

# Every field of transformers' own class, at a value that is not its default.
ALL_FIELDS: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.2,
    "initializer_range": 0.03,
    "layer_norm_eps": 1e-5,
    "image_size": [48, 32],
    "patch_size": [16, 8],
    "num_channels": 1,
    "qkv_bias": False,
    "encoder_stride": 8,
    "pooler_output_size": 12,
    "pooler_act": "relu",
}


def write_config(directory: Path, **values: Any) -> Path:
    (directory / "config.json").write_text(json.dumps(values))
    return directory


@pytest.mark.parametrize("name", PUBLISHED)
def test_variant_has_the_dimensions_of_the_paper(name: str):
    """Red when a row of the table of variants is wrong or missing."""
    width, heads, image_size, distilled = PUBLISHED[name]
    config = DeiTConfig.from_variant(name)
    assert set(VARIANTS) == set(PUBLISHED)
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (width, heads, 4 * width)
    assert (config.num_hidden_layers, config.patch_size, config.image_size) == (12, 16, image_size)
    assert (config.use_distillation_token, config.num_labels, config.qkv_bias) == (distilled, 1000, True)


def test_defaults_for_training_are_those_of_the_paper():
    """Red when stochastic depth or the norm's eps falls back to transformers' values."""
    config = DeiTConfig.from_variant("deit_tiny_patch16_224")
    assert (config.drop_path_rate, config.layer_norm_eps, config.initializer_range) == (0.1, 1e-6, 0.02)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0, 0)


def test_unknown_variant_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"`deit_huge` is not a published DeiT.*deit_base_distilled_patch16_384"):
        DeiTConfig.from_variant("deit_huge")


def test_overrides_win_over_the_variant():
    """Red when the values of the table, or the default of 1000 classes, replace the caller's arguments."""
    config = DeiTConfig.from_variant(
        "deit_tiny_patch16_224", num_labels=10, image_size=32, use_distillation_token=True, drop_path_rate=0
    )
    assert (config.num_labels, config.image_size, config.use_distillation_token) == (10, 32, True)
    assert (config.drop_path_rate, config.hidden_size) == (0, 192)


def test_label_names_decide_the_number_of_classes_of_a_variant():
    """Red when 1000 classes are forced on a variant whose labels are named."""
    names = {0: "daisy", 1: "rose", 2: "tulip"}
    config = DeiTConfig.from_variant("deit_tiny_patch16_224", id2label=names)
    assert (config.num_labels, config.id2label) == (3, names)


def test_defaults_equal_those_of_transformers_but_for_the_documented_ones():
    """Red when a default drifts away from transformers' without being listed in the class docstring."""
    ours, native = DeiTConfig().to_dict(), transformers.DeiTConfig().to_dict()
    differing = {name for name in ours if name not in native or ours[name] != native[name]}
    assert differing == {"drop_path_rate", "use_distillation_token", "layer_norm_eps", "problem_type"}
    assert set(native) <= set(ours)


def test_every_argument_of_transformers_is_accepted_with_its_meaning():
    """Red when an argument of transformers' DeiTConfig is dropped or changed here."""
    own_fields = set(inspect.get_annotations(transformers.DeiTConfig)) - {"model_type"}
    assert set(ALL_FIELDS) == own_fields, "transformers has other fields now: adapt ALL_FIELDS"
    ours, native = DeiTConfig(**ALL_FIELDS).to_dict(), transformers.DeiTConfig(**ALL_FIELDS).to_dict()
    assert {name for name in native if ours[name] != native[name]} == {"problem_type"}


def test_all_values_have_a_non_default_in_the_tests_above():
    """Red when a round trip could pass because a field has its default value."""
    defaults = {field.name: field.default for field in dataclasses.fields(transformers.DeiTConfig)}
    assert not [name for name, value in ALL_FIELDS.items() if defaults[name] == value]


@pytest.mark.parametrize("distilled", [True, False], ids=["distilled", "plain"])
def test_saving_and_loading_keeps_every_value(distilled: bool, tmp_path: Path):
    """Red when a field is lost on disk, or when the plain model type does not come back as ours."""
    config = DeiTConfig(**ALL_FIELDS, use_distillation_token=distilled, drop_path_rate=0.3, num_labels=7)
    config.save_pretrained(tmp_path)
    loaded = DeiTConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert (loaded.use_distillation_token, loaded.drop_path_rate, loaded.num_labels) == (distilled, 0.3, 7)


@pytest.mark.parametrize(
    ("distilled", "native_class"),
    [(True, transformers.DeiTConfig), (False, transformers.ViTConfig)],
    ids=["distilled", "plain"],
)
def test_saved_file_is_read_by_plain_transformers(distilled: bool, native_class: type, tmp_path: Path):
    """Red when the file needs this package: a wrong model type, or values that transformers reads differently."""
    config = DeiTConfig(**ALL_FIELDS, use_distillation_token=distilled, drop_path_rate=0.3, num_labels=7)
    config.save_pretrained(tmp_path)
    native = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(native) is native_class
    assert {name: getattr(native, name) for name in ALL_FIELDS} == ALL_FIELDS
    assert (native.num_labels, native.problem_type) == (7, "single_label_classification")
    assert native.drop_path_rate == 0.3, "training fields ride along"


@pytest.mark.parametrize(
    ("native", "distilled"),
    [(transformers.DeiTConfig, True), (transformers.ViTConfig, False)],
    ids=["distilled", "plain"],
)
def test_configuration_of_transformers_is_read_with_its_own_values(
    native: Any, distilled: bool, tmp_path: Path, caplog: Any
):
    """Red when a file or object of transformers is read with this package's defaults, or a `vit` causes a warning."""
    original = native(**ALL_FIELDS, num_labels=7)
    original.save_pretrained(tmp_path)
    for config in (DeiTConfig.from_pretrained(tmp_path), DeiTConfig.from_dict(original.to_dict())):
        assert {name: getattr(config, name) for name in ALL_FIELDS} == ALL_FIELDS
        assert (config.num_labels, config.use_distillation_token) == (7, distilled)
        assert config.model_type == "deit"
    assert not caplog.text


def test_norm_eps_is_the_papers_for_new_models_and_the_files_for_loaded_ones(tmp_path: Path):
    """Red when loading an older file, which lacks the field, changes its norms from 1e-12 to 1e-6."""
    assert DeiTConfig().layer_norm_eps == 1e-6
    assert DeiTConfig.from_pretrained(write_config(tmp_path, model_type="deit")).layer_norm_eps == 1e-12
    assert DeiTConfig.from_pretrained(write_config(tmp_path, model_type="vit")).layer_norm_eps == 1e-12
    written = write_config(tmp_path, model_type="deit", layer_norm_eps=1e-5)
    assert DeiTConfig.from_pretrained(written).layer_norm_eps == 1e-5
    assert DeiTConfig.from_pretrained(written, layer_norm_eps=1e-4).layer_norm_eps == 1e-4


def test_file_with_soft_labels_problem_type_warns_and_is_read_as_single_label(tmp_path: Path, caplog: Any):
    """Red when a file with the problem type of soft labels is refused, or keeps it: a pipeline would use a sigmoid."""
    source = write_config(tmp_path, model_type="deit", problem_type="multi_label_classification")
    with caplog.at_level(logging.WARNING, logger="deit_hf"):
        config = DeiTConfig.from_pretrained(source)
    assert "'multi_label_classification'; 'single_label_classification' is used instead" in caplog.text
    assert config.problem_type == "single_label_classification"


def test_configuration_of_another_model_is_refused(tmp_path: Path):
    """Red when a BERT checkpoint becomes a DeiT with default values."""
    source = write_config(tmp_path, model_type="bert")
    with pytest.raises(ValueError, match="type `bert`, but DeiT classes read only `deit` and `vit`"):
        DeiTConfig.from_pretrained(source)
    with pytest.raises(ValueError, match="type `bert`, but DeiT classes read only `deit` and `vit`"):
        DeiTConfig.from_dict(transformers.BertConfig().to_dict())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"drop_path_rate": 1.0}, r"`drop_path_rate` is 1.0, but must be in \[0, 1\)"),
        ({"drop_path_rate": -0.1}, "`drop_path_rate` is -0.1"),
        ({"hidden_size": 100}, "`hidden_size` is 100, but must be a multiple of `num_attention_heads` 12"),
        ({"image_size": 8}, "`image_size` 8 is smaller than `patch_size` 16"),
        ({"image_size": (224, 8)}, r"`image_size` \(224, 8\) is smaller"),
        ({"problem_type": "regression"}, "only 'single_label_classification' is supported"),
        ({"num_labels": 1}, "`num_labels` is 1, but must be at least 2"),
    ],
)
def test_values_that_cannot_work_are_refused_at_construction_and_at_load(values: Any, message: str, tmp_path: Path):
    """Red when an invalid value is found only in the first training step, or only by constructor or load."""
    with pytest.raises(ValueError, match=message):
        DeiTConfig(**values)
    DeiTConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="num_labels" if "num_labels" in values else message):
        DeiTConfig.from_pretrained(tmp_path, **values)


def test_values_given_at_load_override_those_of_the_file(tmp_path: Path):
    """Red when overrides are lost, or when unused arguments are not returned on request."""
    DeiTConfig(num_labels=5).save_pretrained(tmp_path)
    config, unused = DeiTConfig.from_pretrained(
        tmp_path, num_labels=7, drop_path_rate=0.3, other=1, return_unused_kwargs=True
    )
    assert (config.num_labels, len(config.id2label), config.drop_path_rate, unused) == (7, 7, 0.3, {"other": 1})


@pytest.mark.parametrize("pair", [tuple, list], ids=["as built", "as read from JSON"])
def test_grid_counts_whole_patches_of_each_axis(pair: type):
    """Red when height and width are swapped, or a partial patch is counted."""
    config = DeiTConfig(image_size=pair((50, 32)), patch_size=pair((16, 8)))
    assert config.grid_size == (3, 4)


def test_prefix_tokens_are_class_and_distillation_token():
    """Red when the plain model counts a token that it does not have."""
    assert DeiTConfig().num_prefix_tokens == 2
    assert DeiTConfig(use_distillation_token=False).num_prefix_tokens == 1


@pytest.mark.parametrize("distilled", [True, False], ids=["distilled", "plain"])
def test_copies_equal_the_original(distilled: bool):
    """Red when a copy loses `use_distillation_token`, which is stored as the model type."""
    config = DeiTConfig(**ALL_FIELDS, use_distillation_token=distilled, num_labels=7)
    for duplicate in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), DeiTConfig(**config.to_dict())):
        assert duplicate.to_dict() == config.to_dict()
        assert duplicate.use_distillation_token is distilled
