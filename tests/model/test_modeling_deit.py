"""The model: equal outputs and files as in transformers, resizing, losses and training behaviour.

The oracle is transformers' own classes with the same random weights (no tensor at a special value); timm is the
oracle of test_conversion.py.
"""

import copy
import inspect
import json
import logging
import math
import pickle
import subprocess
import sys
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from deit_hf import DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher, DeiTModel
from deit_hf.model.layers import DeiTPatchEmbeddings, resize_position_table
from deit_hf.model.variants import VARIANTS

SIZES: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_labels": 5,
}


@dataclass(frozen=True)
class Kind:
    """One of our classes, with or without distillation token, and the transformers class that reads its files."""

    ours: Any
    native: Any
    distilled: bool


KINDS = {
    "distilled": Kind(
        DeiTForImageClassificationWithTeacher, transformers.DeiTForImageClassificationWithTeacher, distilled=True
    ),
    "token unread": Kind(DeiTForImageClassification, transformers.DeiTForImageClassification, distilled=True),
    "plain": Kind(DeiTForImageClassification, transformers.ViTForImageClassification, distilled=False),
    "distilled features": Kind(DeiTModel, transformers.DeiTModel, distilled=True),
    "plain features": Kind(DeiTModel, transformers.ViTModel, distilled=False),
}
CLASSIFIERS = {name: kind for name, kind in KINDS.items() if "features" not in name}
every_class = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
every_classifier = pytest.mark.parametrize("kind", CLASSIFIERS.values(), ids=CLASSIFIERS)
both_designs = pytest.mark.parametrize(
    "kind", [KINDS["distilled"], KINDS["plain"]], ids=["with distillation token", "without"]
)


def randomise(model: Any) -> Any:
    """Sets every parameter to random values, so that no zero or one hides a mistake; sets eval mode."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return model.eval()


def build(kind: Kind, **overrides: Any) -> Any:
    return randomise(kind.ours(DeiTConfig(**{**SIZES, "use_distillation_token": kind.distilled, **overrides})))


def build_native(kind: Kind, **overrides: Any) -> Any:
    return randomise(kind.native(kind.native.config_class(**{**SIZES, **overrides})))


@torch.no_grad()
def assert_same_answers(ours: Any, native: Any, images: Tensor) -> None:
    """Asserts equal logits, features, hidden states and attentions, also when only prefix tokens are computed."""
    expected = native(images, output_hidden_states=True, output_attentions=True)
    complete = ours(images, output_hidden_states=True, output_attentions=True)
    short = ours(images)
    assert {"hidden_states", "attentions"} < set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(complete[name], value, rtol=0, atol=1e-5)
        assert name in {"hidden_states", "attentions"} or torch.allclose(short[name], value, rtol=0, atol=1e-5), name


def assert_no_key_is_left_over(info: dict[str, Any]) -> None:
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]


# --- The files are those of plain transformers ---


@every_class
def test_saved_model_loads_in_plain_transformers_with_equal_answers(kind: Kind, tmp_path: Path, toy_images: Tensor):
    """Red when heads are swapped, a norm is misplaced, a key is misnamed or the wrong native class is named."""
    ours = build(kind)
    ours.save_pretrained(tmp_path)
    auto = transformers.AutoModel if "Model" in kind.native.__name__ else transformers.AutoModelForImageClassification
    native, info = auto.from_pretrained(tmp_path, attn_implementation="eager", output_loading_info=True)
    assert type(native) is kind.native
    assert_no_key_is_left_over(info)
    assert_same_answers(ours, native, toy_images)


@every_class
def test_model_saved_by_plain_transformers_loads_here_with_equal_answers(
    kind: Kind, tmp_path: Path, toy_images: Tensor
):
    """Red when a Hub checkpoint loads with random parts, or with another norm epsilon than in its training."""
    native = build_native(kind, layer_norm_eps=1e-3, attn_implementation="eager")
    native.save_pretrained(tmp_path)
    ours, info = kind.ours.from_pretrained(tmp_path, output_loading_info=True)
    assert_no_key_is_left_over(info)
    assert not ours.training
    assert_same_answers(ours, native, toy_images)


@every_class
def test_config_on_disk_names_the_native_class(kind: Kind, tmp_path: Path):
    """Red when `AutoModelForImageClassification` would pick the wrong class, or a pipeline the wrong activation."""
    build(kind).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == [kind.native.__name__]
    assert config["model_type"] == ("deit" if kind.distilled else "vit")
    assert config["problem_type"] == "single_label_classification"


@every_class
def test_names_on_disk_are_the_hubs_and_those_of_the_modules(kind: Kind, tmp_path: Path):
    """Red when names change on save or load: a resumed run would start from random weights."""
    ours = build(kind)
    ours.save_pretrained(tmp_path / "ours")
    build_native(kind).save_pretrained(tmp_path / "native")
    names = {
        side: set(safetensors.torch.load_file(tmp_path / side / "model.safetensors")) for side in ("ours", "native")
    }
    assert names["ours"] == names["native"] == set(ours.state_dict())
    prefix = "" if kind.ours is DeiTModel else "deit." if kind.distilled else "vit."
    assert prefix + "encoder.layer.0.attention.attention.query.weight" in names["ours"]
    assert prefix + "encoder.layer.2.attention.output.dense.bias" in names["ours"]
    assert prefix + "embeddings.patch_embeddings.projection.weight" in names["ours"]


@both_designs
def test_sharded_save_loads_on_both_sides(kind: Kind, tmp_path: Path, toy_images: Tensor):
    """Red when the index of a sharded checkpoint and the names in its shards differ."""
    ours = build(kind)
    ours.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded = kind.ours.from_pretrained(tmp_path)
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)
    assert_same_answers(loaded, kind.native.from_pretrained(tmp_path, attn_implementation="eager"), toy_images)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)], ids=["bf16", "fp16"])
@both_designs
def test_half_precision_load_answers_as_plain_transformers_does(
    kind: Kind, dtype: torch.dtype, atol: float, tmp_path: Path, toy_images: Tensor
):
    """Red when a parameter stays in float32, or the images of a processor (float32) do not fit the weights."""
    build(kind).save_pretrained(tmp_path)
    ours, native = (side.from_pretrained(tmp_path, dtype=dtype) for side in (kind.ours, kind.native))
    assert {parameter.dtype for parameter in ours.parameters()} == {dtype}
    with torch.no_grad():
        logits = ours(toy_images).logits
        torch.testing.assert_close(logits, native(toy_images.to(dtype)).logits, rtol=0, atol=atol)


def test_automatic_device_map_loads_and_resizes_every_weight(tmp_path: Path):
    """Red when resizing at load meets parameters that are still on the meta device."""
    ours = build(KINDS["distilled"])
    ours.save_pretrained(tmp_path)
    loaded, info = type(ours).from_pretrained(tmp_path, device_map="auto", image_size=48, output_loading_info=True)
    assert_no_key_is_left_over(info)
    assert loaded.config.image_size == 48
    ours.resize_position_embeddings(48)
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name].cpu(), tensor, rtol=0, atol=0)


def test_new_number_of_classes_replaces_the_heads_and_nothing_else(tmp_path: Path):
    """Red when a transfer run loses pretrained weights, or starts from heads at zero."""
    ours = build(KINDS["distilled"])
    ours.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="ignore_mismatched_sizes"):
        type(ours).from_pretrained(tmp_path, num_labels=7)
    loaded = type(ours).from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    for name, tensor in loaded.state_dict().items():
        if "classifier" not in name:
            torch.testing.assert_close(tensor, ours.state_dict()[name], rtol=0, atol=0)
    assert loaded.config.num_labels == len(loaded.config.id2label) == 7
    for head in (loaded.cls_classifier, loaded.distillation_classifier):
        assert head.weight.shape == (7, 24)
        assert 0.01 < head.weight.std() < 0.03


@pytest.mark.parametrize("native_config", [transformers.DeiTConfig, transformers.ViTConfig])
def test_native_configuration_is_refused_by_the_constructor(native_config: Any):
    """Red when a configuration of transformers, which lacks our fields, causes an AttributeError later."""
    with pytest.raises(TypeError, match=r"transformers.*must be a `deit_hf.DeiTConfig`"):
        DeiTForImageClassification(native_config(**SIZES))


# --- A student that starts from a plain checkpoint ---


@pytest.fixture
def plain_checkpoint(tmp_path: Path) -> Path:
    """A plain DeiT as stored on the Hub: a `vit`."""
    build_native(KINDS["plain"]).save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def test_student_starts_with_all_weights_of_a_plain_checkpoint(plain_checkpoint: Path, caplog: Any):
    """Red when plain weights are lost, or when new parameters are zero: both tokens would stay equal."""
    plain = build_native(KINDS["plain"])
    with caplog.at_level(logging.WARNING, logger="deit_hf"):
        student = DeiTForImageClassificationWithTeacher.from_pretrained(plain_checkpoint)
    assert "no distillation token: the token, its position and its head are initialised at random" in caplog.text
    kept = safetensors.torch.load_file(plain_checkpoint / "model.safetensors")
    state = student.state_dict()
    positions = state["deit.embeddings.position_embeddings"]
    torch.testing.assert_close(positions[:, [0, *range(2, 18)]], kept.pop("vit.embeddings.position_embeddings"))
    for name, tensor in kept.items():
        ours = name.replace("vit.", "deit.").replace("classifier.", "cls_classifier.")
        torch.testing.assert_close(state[ours], tensor, rtol=0, atol=0)
    for fresh in (
        positions[:, 1],
        state["deit.embeddings.distillation_token"],
        state["distillation_classifier.weight"],
    ):
        assert 0.01 < fresh.std() < 0.03
    assert not student.training
    assert student.config.layer_norm_eps == plain.config.layer_norm_eps


def test_loading_info_of_such_a_student_names_what_is_fresh(plain_checkpoint: Path):
    """Red when the missing keys do not list the parameters that are random."""
    _, info = DeiTForImageClassificationWithTeacher.from_pretrained(plain_checkpoint, output_loading_info=True)
    head = {"distillation_classifier.weight", "distillation_classifier.bias"}
    assert info["missing_keys"] == {"deit.embeddings.distillation_token", *head}


def test_such_a_student_takes_new_classes_and_another_size(plain_checkpoint: Path):
    """Red when options of `from_pretrained` are lost because the plain model is loaded first."""
    student = DeiTForImageClassificationWithTeacher.from_pretrained(
        plain_checkpoint, num_labels=7, ignore_mismatched_sizes=True, image_size=48, dtype=torch.bfloat16
    )
    assert student.cls_classifier.out_features == student.distillation_classifier.out_features == 7
    kept = safetensors.torch.load_file(plain_checkpoint / "model.safetensors")
    expected = bicubic(kept["vit.embeddings.position_embeddings"][0, 1:].bfloat16(), (4, 4), (6, 6))
    positions = student.deit.embeddings.position_embeddings
    assert positions.dtype == torch.bfloat16
    torch.testing.assert_close(positions[0, 2:].double(), expected, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("config_class", [DeiTConfig, transformers.ViTConfig])
def test_such_a_student_takes_a_given_configuration(config_class: Any, plain_checkpoint: Path):
    """Red when the given configuration is changed, or its fields are lost."""
    config = config_class(**{**SIZES, "image_size": 48}, hidden_dropout_prob=0.2)
    before = config.to_dict()
    student = DeiTForImageClassificationWithTeacher.from_pretrained(plain_checkpoint, config=config)
    assert config.to_dict() == before
    assert student.config.use_distillation_token
    assert (student.config.image_size, student.config.hidden_dropout_prob) == (48, 0.2)
    assert student.deit.embeddings.position_embeddings.shape == (1, 2 + 36, 24)


def test_such_a_student_is_saved_as_a_distilled_model(plain_checkpoint: Path, tmp_path: Path, toy_images: Tensor):
    """Red when the student is still saved as a `vit`."""
    student = DeiTForImageClassificationWithTeacher.from_pretrained(plain_checkpoint)
    student.save_pretrained(tmp_path / "student")
    native = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "student", attn_implementation="eager"
    )
    assert type(native) is transformers.DeiTForImageClassificationWithTeacher
    assert_same_answers(student, native, toy_images)


def test_training_such_a_student_leaves_the_plain_model_alone():
    """Red when both models share memory, or the plain model's configuration gets the distillation token."""
    plain = build(KINDS["plain"])
    before = copy.deepcopy(plain.state_dict())
    student = DeiTForImageClassificationWithTeacher.from_plain(plain)
    for parameter in student.parameters():
        parameter.data.add_(1)
    assert not plain.config.use_distillation_token
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_student_without_distillation_token_is_refused():
    with pytest.raises(ValueError, match="`use_distillation_token` is False, but this class needs the token"):
        DeiTForImageClassificationWithTeacher(DeiTConfig(**SIZES, use_distillation_token=False))


# --- Other image sizes ---


def cubic_weights(old: int, new: int) -> Tensor:
    """Weights (new, old) of cubic convolution with a = -0.75, aligned pixel centres and repeated borders."""
    weights = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        for tap in range(math.floor(centre) - 1, math.floor(centre) + 3):
            x, a = abs(centre - tap), -0.75
            inner, outer = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
            weights[i, min(max(tap, 0), old - 1)] += inner if x <= 1 else outer
    return weights


def bicubic(patches: Tensor, grid_size: tuple[int, int], new_grid_size: tuple[int, int]) -> Tensor:
    rows, columns = (cubic_weights(old, new) for old, new in zip(grid_size, new_grid_size, strict=True))
    grid = patches.double().unflatten(0, grid_size)
    return torch.einsum("ir,jc,rcd->ijd", rows, columns, grid).flatten(0, 1)


@pytest.mark.parametrize(
    ("image_size", "new_grid_size"),
    [(48, (6, 6)), ((40, 64), (5, 8)), ([64, 24], (8, 3)), (16, (2, 2))],
    ids=["larger", "wide", "tall", "smaller"],
)
@both_designs
def test_position_table_is_resized_bicubically_at_load(
    kind: Kind, image_size: Any, new_grid_size: tuple[int, int], tmp_path: Path
):
    """Red for bilinear resizing, aligned corners, swapped axes, or a prefix token treated as a patch."""
    ours = build(kind)
    ours.save_pretrained(tmp_path)
    loaded = kind.ours.from_pretrained(tmp_path, image_size=image_size)
    before, after = (model.base_model.embeddings.position_embeddings[0] for model in (ours, loaded))
    num_prefix_tokens = 2 if kind.distilled else 1
    torch.testing.assert_close(after[:num_prefix_tokens], before[:num_prefix_tokens], rtol=0, atol=0)
    expected = bicubic(before[num_prefix_tokens:], (4, 4), new_grid_size)
    torch.testing.assert_close(after[num_prefix_tokens:].double(), expected, rtol=0, atol=1e-5)
    assert loaded.config.image_size == image_size


def test_non_square_table_is_resized_along_the_right_axes():
    """Red when a stored table of 3 rows and 5 columns is read as 5 rows and 3 columns."""
    table = torch.randn(1, 2 + 15, 4, dtype=torch.float64)
    resized = resize_position_table(table, num_prefix_tokens=2, grid_size=(3, 5), new_grid_size=(6, 4))
    torch.testing.assert_close(resized[0, 2:], bicubic(table[0, 2:], (3, 5), (6, 4)), rtol=0, atol=1e-12)
    same = resize_position_table(table, num_prefix_tokens=2, grid_size=(3, 5), new_grid_size=(3, 5))
    torch.testing.assert_close(same, table, rtol=0, atol=0)


@both_designs
def test_model_resized_from_224_to_384_is_read_at_384_by_plain_transformers(kind: Kind, tmp_path: Path):
    """Red when the old table or the old size is saved: a pipeline does not pass `interpolate_pos_encoding`."""
    build(kind, image_size=224, patch_size=16, num_hidden_layers=1).save_pretrained(tmp_path / "224")
    resized = kind.ours.from_pretrained(tmp_path / "224", image_size=384)
    resized.save_pretrained(tmp_path / "384")
    native = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "384", attn_implementation="eager"
    )
    assert native.config.image_size == 384
    assert_same_answers(resized, native, torch.randn(1, 3, 384, 384))


@pytest.mark.parametrize("config_class", [DeiTConfig, transformers.DeiTConfig])
def test_given_configuration_decides_the_size(config_class: Any, tmp_path: Path):
    """Red when a table of the stored size is loaded into a model of the given size, or the given config is changed."""
    ours = build(KINDS["distilled"])
    ours.save_pretrained(tmp_path)
    config = config_class(**{**SIZES, "image_size": (48, 32)}, hidden_dropout_prob=0.2)
    before = config.to_dict()
    loaded = type(ours).from_pretrained(tmp_path, config=config)
    assert config.to_dict() == before
    assert (*loaded.config.image_size, loaded.config.hidden_dropout_prob) == (48, 32, 0.2)
    ours.resize_position_embeddings((48, 32))
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)
    wins = type(ours).from_pretrained(tmp_path, config=config, image_size=16)
    assert wins.config.image_size == 16
    assert wins.deit.embeddings.position_embeddings.shape == (1, 2 + 4, 24)


def test_resizing_below_one_patch_is_refused_and_changes_nothing():
    """Red when a refused resize leaves a configuration that no longer fits the table."""
    ours = build(KINDS["distilled"])
    with pytest.raises(ValueError, match="`image_size` 4 is smaller than `patch_size` 8"):
        ours.resize_position_embeddings(4)
    assert ours.config.image_size == 32
    assert ours.deit.embeddings.position_embeddings.shape == (1, 2 + 16, 24)


@both_designs
def test_interpolation_in_forward_equals_plain_transformers_and_the_resized_model(kind: Kind, tmp_path: Path):
    """Red when interpolation in `forward` and a model loaded at that size give different outputs."""
    ours = build(kind)
    ours.save_pretrained(tmp_path)
    square, wide = torch.randn(2, 3, 48, 48), torch.randn(2, 3, 40, 64)
    native = kind.native.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = native(square, interpolate_pos_encoding=True).logits
        torch.testing.assert_close(ours(square, interpolate_pos_encoding=True).logits, expected, rtol=0, atol=1e-5)
        expected = kind.ours.from_pretrained(tmp_path, image_size=(40, 64))(wide).logits
        torch.testing.assert_close(ours(wide, interpolate_pos_encoding=True).logits, expected, rtol=0, atol=1e-6)


def test_interpolation_at_the_models_own_size_changes_nothing(tiny_student: Any, toy_images: Tensor):
    tiny_student.eval()
    expected = tiny_student(toy_images).logits
    torch.testing.assert_close(
        tiny_student(toy_images, interpolate_pos_encoding=True).logits, expected, rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 32, 48), r"image is 32x48 but the model expects 32x32.*image_size=\(32, 48\)"),
        ((1, 1, 32, 32), "input has 1 channels but the model expects 3"),
    ],
    ids=["size", "channels"],
)
def test_image_that_does_not_fit_is_refused(shape: tuple[int, ...], message: str, tiny_student: Any):
    with pytest.raises(ValueError, match=message):
        tiny_student(torch.zeros(shape))


# --- Initialisation ---


def constructed(config: DeiTConfig) -> Any:
    return DeiTForImageClassificationWithTeacher(config)


def loaded_without_weights(config: DeiTConfig) -> Any:
    return DeiTForImageClassificationWithTeacher.from_pretrained(None, config=config, state_dict={})


def initialised_in_place(config: DeiTConfig) -> Any:
    with torch.device("meta"):
        model = DeiTForImageClassificationWithTeacher(config)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.fill_(7)
    model.init_weights()
    return model


@pytest.mark.parametrize("make", [constructed, loaded_without_weights, initialised_in_place])
def test_weights_start_as_in_the_official_code(make: Any):
    """Red when a token or the position table starts at zero, as in transformers, or stays uninitialised memory."""
    model = make(DeiTConfig(image_size=64, patch_size=8, hidden_size=192, num_attention_heads=3, num_hidden_layers=1))
    patch_bound = 1 / math.sqrt(3 * 8 * 8)
    for name, parameter in model.state_dict().items():
        if "projection" in name:
            assert parameter.abs().max() <= patch_bound, name
            assert parameter.std() == pytest.approx(patch_bound / math.sqrt(3), rel=0.2), name
        elif "layernorm" in name or name.endswith("bias"):
            assert parameter.unique().tolist() == [1.0 if name.endswith("weight") else 0.0], name
        else:
            assert parameter.std() == pytest.approx(0.02, rel=0.2), name
            assert abs(parameter.mean()) < 0.005, name


def test_class_and_distillation_features_differ_from_the_start(tiny_config: DeiTConfig, toy_images: Tensor):
    """Red when both tokens have equal initial values: their features would be equal, too."""
    features = DeiTModel(tiny_config).eval()(toy_images)
    assert (features.cls_features - features.distillation_features).abs().mean() > 0.1


def test_norm_eps_of_the_configuration_reaches_every_norm(tmp_path: Path):
    """Red when a norm keeps torch's 1e-5 (the logits hardly change), or the value of a loaded file is replaced."""
    assert {module.eps for module in build(KINDS["distilled"]).modules() if isinstance(module, nn.LayerNorm)} == {1e-6}
    build_native(KINDS["distilled"]).save_pretrained(tmp_path)
    loaded = DeiTForImageClassificationWithTeacher.from_pretrained(tmp_path)
    assert {module.eps for module in loaded.modules() if isinstance(module, nn.LayerNorm)} == {1e-12}


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("deit_tiny_patch16_224", 5.72),
        ("deit_tiny_distilled_patch16_224", 5.91),
        ("deit_small_patch16_224", 22.05),
        ("deit_small_distilled_patch16_224", 22.44),
        ("deit_base_patch16_224", 86.57),
        ("deit_base_distilled_patch16_224", 87.34),
        ("deit_base_patch16_384", 86.86),
        ("deit_base_distilled_patch16_384", 87.63),
    ],
)
def test_variant_has_the_published_number_of_parameters(name: str, millions: float):
    """Red when a layer is missing, doubled or of another width."""
    with torch.device("meta"):
        config = DeiTConfig.from_variant(name)
        model_class = CLASSIFIERS["distilled" if config.use_distillation_token else "plain"].ours
        count = sum(parameter.numel() for parameter in model_class(config).parameters())
    assert round(count / 1e6, 2) == millions
    assert name in VARIANTS


# --- Heads, loss and outputs ---


def test_each_head_reads_its_own_token_and_the_answer_is_their_mean(tiny_student: Any, toy_images: Tensor):
    """Red when heads or tokens are swapped, or the answer is the sum of both."""
    randomise(tiny_student)
    tokens = tiny_student.deit(toy_images).last_hidden_state
    head, distillation_head = tiny_student.cls_classifier, tiny_student.distillation_classifier
    cls_logits = tokens[:, 0] @ head.weight.T + head.bias
    distillation_logits = tokens[:, 1] @ distillation_head.weight.T + distillation_head.bias
    output = tiny_student(toy_images)
    torch.testing.assert_close(output.cls_logits, cls_logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.distillation_logits, distillation_logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.logits, (cls_logits + distillation_logits) / 2, rtol=0, atol=1e-5)


def test_model_without_classes_answers_with_features(toy_images: Tensor):
    """Red when a model with zero classes has an empty head instead of no head."""
    ours = build(KINDS["plain"], num_labels=0)
    torch.testing.assert_close(ours(toy_images).logits, ours.vit(toy_images).cls_features, rtol=0, atol=1e-5)


@every_classifier
def test_loss_is_the_mean_cross_entropy_over_heads_and_images(kind: Kind, toy_images: Tensor):
    """Red when a head is left out, the loss is a sum, or labels change the problem type (a sigmoid later)."""
    ours, labels = build(kind).double().requires_grad_(False), torch.tensor([0, 4, 2, 2])
    output = ours(toy_images, labels=labels)
    heads = [output.cls_logits, output.distillation_logits] if "cls_logits" in output else [output.logits]
    nll = [
        -math.log(row.exp()[label] / row.exp().sum())
        for head in heads
        for row, label in zip(head, labels, strict=True)
    ]
    assert output.loss.item() == pytest.approx(sum(nll) / len(nll), abs=1e-12)
    assert ours.config.problem_type == "single_label_classification"


@every_classifier
def test_loss_of_mixed_targets_is_their_cross_entropy(kind: Kind, toy_images: Tensor):
    """Red when mixed targets silently become a binary cross-entropy, as in transformers."""
    model = build(kind)
    targets = torch.rand(4, 5, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)
    outputs = model(toy_images, labels=targets)
    heads = [outputs.cls_logits, outputs.distillation_logits] if "cls_logits" in outputs else [outputs.logits]
    nll = [-(targets * head.log_softmax(dim=-1)).sum(dim=-1).mean().item() for head in heads]
    assert outputs.loss.item() == pytest.approx(sum(nll) / len(nll), rel=1e-5)
    with pytest.raises(ValueError, match=r"`labels` are torch.float32 of shape \(4,\), but must be class indices"):
        model(toy_images, labels=torch.zeros(4))


@every_classifier
def test_every_parameter_gets_a_gradient(kind: Kind, toy_images: Tensor):
    """Red when a part is detached: it would never learn, and distributed training would stop."""
    ours = build(kind, drop_path_rate=0.0).train()
    ours(toy_images, labels=torch.tensor([0, 1, 2, 3])).loss.backward()
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any() or name.endswith("key.bias"), name  # softmax is invariant to a shift of all keys


@every_class
def test_tuple_holds_the_fields_of_the_dataclass_in_order(kind: Kind, toy_images: Tensor):
    """Red when `return_dict=False`, by argument or configuration, drops or reorders a value."""
    ours = build(kind)
    arguments = {"output_hidden_states": True, "output_attentions": True}
    if kind.ours is not DeiTModel:
        assert ours(toy_images).loss is None
        arguments["labels"] = torch.tensor([0, 1, 2, 3])
    expected = ours(toy_images, **arguments)
    by_argument = ours(toy_images, return_dict=False, **arguments)
    ours.config.return_dict = False
    by_configuration = ours(toy_images, **arguments)
    for answer in (by_argument, by_configuration):
        assert type(answer) is tuple
        torch.testing.assert_close(answer, tuple(expected.values()), rtol=0, atol=0)


@both_designs
def test_configuration_can_ask_for_hidden_states_and_attentions(kind: Kind, toy_images: Tensor):
    """Red when `forward` ignores the defaults of the configuration."""
    asked = build(kind, output_hidden_states=True, output_attentions=True)(toy_images)
    expected = build(kind)(toy_images, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(asked.hidden_states, expected.hidden_states, rtol=0, atol=0)
    torch.testing.assert_close(asked.attentions, expected.attentions, rtol=0, atol=0)


@every_class
def test_hidden_states_run_from_the_embeddings_to_before_the_last_norm(kind: Kind, toy_images: Tensor):
    """Red when a layer's output is missing, repeated, or already normalised."""
    ours = build(kind)
    output = ours(toy_images, output_hidden_states=True, output_attentions=True)
    num_tokens = 16 + (2 if kind.distilled else 1)
    assert [tuple(states.shape) for states in output.hidden_states] == [(4, num_tokens, 24)] * 4
    assert [tuple(maps.shape) for maps in output.attentions] == [(4, 3, num_tokens, num_tokens)] * 3
    states = ours.base_model.embeddings(toy_images)
    for layer, expected in zip(ours.base_model.encoder.layer, output.hidden_states[:-1], strict=True):
        torch.testing.assert_close(states, expected, rtol=0, atol=1e-5)
        states, _ = layer(states)
    torch.testing.assert_close(states, output.hidden_states[-1], rtol=0, atol=1e-5)
    features = ours.base_model(toy_images).last_hidden_state
    torch.testing.assert_close(ours.base_model.layernorm(states), features, rtol=0, atol=1e-5)


def test_attentions_are_distributions_and_both_implementations_agree(toy_images: Tensor):
    """Red when the fused kernel scales or masks differently from the eager attention."""
    fused = build(KINDS["distilled"], attn_implementation="sdpa")
    written_out = build(KINDS["distilled"], attn_implementation="eager")
    for attentions in fused(toy_images, output_attentions=True).attentions:
        torch.testing.assert_close(attentions.sum(-1), torch.ones(4, 3, 18), rtol=0, atol=1e-6)
    assert (fused.config._attn_implementation, written_out.config._attn_implementation) == ("sdpa", "eager")
    torch.testing.assert_close(fused(toy_images).logits, written_out(toy_images).logits, rtol=0, atol=1e-5)


def test_gradients_reach_hidden_states_and_attentions(tiny_student: Any, toy_images: Tensor):
    """Red when hidden states or attentions are detached: attribution methods need their gradients."""
    output = tiny_student.eval()(toy_images, output_hidden_states=True, output_attentions=True)
    watched = [*output.hidden_states, *output.attentions]
    for tensor in watched:
        tensor.retain_grad()
    output.logits[:, 0].sum().backward()
    assert all(tensor.grad.any() for tensor in watched)


@every_classifier
def test_evaluation_by_the_trainer_keeps_the_logits_alone(kind: Kind, toy_images: Tensor):
    """Red when a new output field is gathered over the evaluation set, or when metrics get a tuple."""
    ours = build(kind)
    output = ours(toy_images, labels=torch.tensor([0, 1, 2, 3]), output_hidden_states=True, output_attentions=True)
    assert set(output) - set(ours.config.keys_to_ignore_at_inference) == {"loss", "logits"}


@every_classifier
def test_trainer_finds_the_labels_and_divides_the_loss_itself(kind: Kind):
    """Red when `Trainer`, which reads the signature, drops `labels`, or accumulation multiplies the gradient."""
    parameters = inspect.signature(kind.ours.forward).parameters
    assert list(parameters)[:3] == ["self", "pixel_values", "labels"]
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    assert kind.ours.accepts_loss_kwargs is False


def test_half_precision_model_takes_a_processors_images_and_has_a_float32_loss(tiny_student: Any, toy_images: Tensor):
    """Red when the caller must cast images, or the loss is computed in bfloat16."""
    labels = torch.tensor([0, 1, 2, 3])
    expected = randomise(tiny_student)(toy_images, labels=labels)
    output = tiny_student.to(torch.bfloat16)(toy_images, labels=labels)
    assert (output.logits.dtype, output.loss.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(output.logits.float(), expected.logits, rtol=0, atol=0.1)


# --- Training ---


def test_stochastic_depth_rises_linearly_with_depth():
    """Red when all layers have the same rate, or the last layer does not have the configured one."""
    layers = build(KINDS["distilled"], num_hidden_layers=4, drop_path_rate=0.3).deit.encoder.layer
    assert [layer.drop_path.p for layer in layers] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_stochastic_depth_drops_per_image():
    """Red when a whole batch is dropped at once: for equal images, all outputs would be equal."""
    ours = build(KINDS["distilled"], drop_path_rate=0.5).train()
    logits = ours(torch.randn(1, 3, 32, 32).expand(32, -1, -1, -1)).logits
    assert len({round(value, 4) for value in logits[:, 0].tolist()}) > 4


@pytest.mark.parametrize(
    "rates",
    [
        {"drop_path_rate": 0.9},
        {"hidden_dropout_prob": 0.5},
        {"attention_probs_dropout_prob": 0.5, "attn_implementation": "sdpa"},
        {"attention_probs_dropout_prob": 0.5, "attn_implementation": "eager"},
    ],
    ids=["stochastic depth", "dropout", "attention dropout", "attention dropout written out"],
)
def test_regularisation_acts_in_training_and_never_in_evaluation(rates: dict[str, Any], toy_images: Tensor):
    """Red when a dropout rate is ignored in training, or applied in evaluation."""
    ours = build(KINDS["distilled"], **{"drop_path_rate": 0.0, **rates})
    expected = build(KINDS["distilled"], drop_path_rate=0.0)(toy_images).logits
    torch.testing.assert_close(ours(toy_images).logits, expected, rtol=0, atol=1e-5)
    ours.train()
    assert (ours(toy_images).logits - ours(toy_images).logits).abs().max() > 1e-3


def gradients(model: Any, images: Tensor, **arguments: Any) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(3)
    model(images, labels=torch.arange(len(images)), **arguments).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@every_classifier
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_last_layer_without_patches_gives_the_same_logits_and_gradients(
    kind: Kind, training: bool, toy_images: Tensor
):
    """Red when computing only prefix tokens in the last layer changes the logits; hidden states need all tokens."""
    ours, images = build(kind, drop_path_rate=0.0).double().train(training), toy_images.double()
    for name, value in ours(images, output_hidden_states=True).items():
        if name.endswith("logits"):
            torch.testing.assert_close(ours(images)[name], value, rtol=0, atol=1e-12)
    expected = gradients(ours, images, output_hidden_states=True)
    for name, gradient in gradients(ours, images).items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-12)


def test_last_layer_without_patches_saves_seven_percent_of_all_operations():
    """Red when the last layer computes outputs that no head reads; the saving is counted by hand below."""
    width, tokens, patches = 192, 198, 196
    config = DeiTConfig.from_variant("deit_tiny_distilled_patch16_224", attn_implementation="eager")
    with torch.device("meta"):
        model, images = DeiTForImageClassificationWithTeacher(config).eval(), torch.empty(1, 3, 224, 224)
    operations = []
    for output_hidden_states in (True, False):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(images, output_hidden_states=output_hidden_states)
        operations.append(counter.get_total_flops())
    query_and_output, scores_and_values, mlp = 4 * width**2, 4 * tokens * width, 16 * width**2  # of one patch
    assert operations[0] - operations[1] == patches * (query_and_output + scores_and_values + mlp)
    assert 1 - operations[1] / operations[0] == pytest.approx(0.07, abs=0.002)


def test_features_of_prefix_tokens_alone_equal_those_of_the_whole_model(tiny_config: DeiTConfig, toy_images: Tensor):
    """Red when the option changes values, or overrides `output_hidden_states`."""
    ours = randomise(DeiTModel(tiny_config))
    expected = ours(toy_images)
    short = ours(toy_images, prefix_tokens_only=True)
    torch.testing.assert_close(short.last_hidden_state, expected.last_hidden_state[:, :2], rtol=0, atol=1e-6)
    torch.testing.assert_close(short.pooler_output, expected.pooler_output, rtol=0, atol=1e-6)
    complete = ours(toy_images, prefix_tokens_only=True, output_hidden_states=True)
    torch.testing.assert_close(complete.last_hidden_state, expected.last_hidden_state, rtol=0, atol=1e-6)


def test_inference_frees_each_layers_output(toy_images: Tensor):
    """Red when hidden states or attentions are kept without request: 13 times the activations of a batch."""
    ours = build(KINDS["distilled"], attn_implementation="eager")
    first, _, last = ours.deit.encoder.layer
    outputs: list[weakref.ref] = []
    alive: list[bool] = []
    first.register_forward_hook(lambda module, inputs, output: outputs.extend(map(weakref.ref, output)))
    last.register_forward_pre_hook(lambda module, inputs: alive.extend(ref() is not None for ref in outputs[-2:]))
    with torch.no_grad():
        ours(toy_images)
        ours(toy_images, output_hidden_states=True)
        ours(toy_images, output_attentions=True)
    assert alive == [False, False, True, False, False, True]


def test_gradient_checkpointing_recomputes_layers_and_gives_the_same_gradients(toy_images: Tensor):
    """Red when gradient checkpointing is ignored, or the second pass draws another stochastic depth."""
    ours = build(KINDS["distilled"], drop_path_rate=0.5).train()
    passes: list[int] = []
    ours.deit.encoder.layer[0].intermediate.register_forward_hook(lambda module, inputs, output: passes.append(1))
    expected = gradients(ours, toy_images)
    assert len(passes) == 1
    ours.gradient_checkpointing_enable()
    actual = gradients(ours, toy_images)
    assert len(passes) == 3, "one pass more, in the backward"
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-6)


def test_answers_do_not_depend_on_the_rest_of_the_batch(toy_images: Tensor):
    """Red when outputs in evaluation depend on batch statistics or on state."""
    ours = build(KINDS["distilled"])
    together = ours(toy_images).logits
    for image, logits in zip(toy_images, together, strict=True):
        torch.testing.assert_close(ours(image[None]).logits[0], logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours(toy_images).logits, together, rtol=0, atol=0)


# --- Use by other libraries ---


@every_class
def test_copies_answer_equally(kind: Kind, toy_images: Tensor):
    """Red when deepcopy (averaged weights) or pickle (worker processes) loses weights or the base model's name."""
    ours = build(kind)
    for duplicate in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert duplicate.base_model is not ours.base_model
        torch.testing.assert_close(duplicate(toy_images).to_tuple(), ours(toy_images).to_tuple(), rtol=0, atol=0)


@every_class
def test_input_embeddings_can_be_read_and_replaced(kind: Kind, toy_images: Tensor):
    """Red when adapters cannot replace the patch projection, or cannot enable gradients at a frozen model's input."""
    ours = build(kind)
    other = randomise(DeiTPatchEmbeddings(ours.config))
    before = ours(toy_images)[0]
    assert isinstance(ours.get_input_embeddings(), DeiTPatchEmbeddings)
    ours.set_input_embeddings(other)
    assert ours.get_input_embeddings() is other
    assert (ours(toy_images)[0] - before).abs().max() > 1e-3
    ours.requires_grad_(False)
    ours.enable_input_require_grads()
    assert ours(toy_images)[0].requires_grad


@every_class
def test_whole_model_moves_to_another_device(kind: Kind):
    """Red when a tensor is neither a parameter nor a buffer, so `.to()` does not move it."""
    ours = build(kind).to("meta")
    assert ours(torch.empty(2, 3, 32, 32, device="meta"))[0].device.type == "meta"


@every_classifier
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "non-strict"])
def test_exported_program_answers_for_any_batch_size(kind: Kind, strict: bool, toy_images: Tensor):
    """Red when a Python branch or a fixed size breaks torch.export."""
    ours = build(kind, num_hidden_layers=1)
    exported = torch.export.export(
        ours,
        (),
        {"pixel_values": toy_images[:2]},
        dynamic_shapes={"pixel_values": {0: torch.export.Dim.DYNAMIC}},
        strict=strict,
    )
    logits = exported.module()(pixel_values=toy_images).logits
    torch.testing.assert_close(logits, ours(toy_images).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@both_designs
def test_compiled_model_is_one_graph_and_answers_equally(kind: Kind, backend: str, toy_images: Tensor):
    """Red when the graph breaks, also with labels and stochastic depth."""
    ours = build(kind, num_hidden_layers=2)
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(toy_images).logits, ours(toy_images).logits, rtol=0, atol=1e-5)
    ours.train()
    compiled(toy_images, labels=torch.tensor([0, 1, 2, 3])).loss.backward()
    assert all(parameter.grad is not None for parameter in ours.parameters())


IMPORT_CHECK = """
import random
import numpy, torch, torchvision, transformers
from transformers.models.auto import configuration_auto, image_processing_auto, modeling_auto

def outside():
    mappings = [configuration_auto.CONFIG_MAPPING, image_processing_auto.IMAGE_PROCESSOR_MAPPING]
    mappings += [getattr(modeling_auto, name) for name in dir(modeling_auto) if name.endswith("_MAPPING")]
    classes = [transformers.PreTrainedModel, transformers.DeiTForImageClassificationWithTeacher, transformers.Trainer]
    return [
        [dict(mapping._extra_content) for mapping in mappings],
        [dict(vars(one)) for one in [*classes, transformers.DeiTConfig, torch.nn.Linear, torch.nn.Module]],
        (random.getstate(), torch.get_rng_state().tolist(), repr(numpy.random.get_state())),
        (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()),
    ]

before = outside()
import deit_hf
after = outside()
assert before == after, [i for i in range(len(before)) if before[i] != after[i]]
assert type(transformers.AutoConfig.for_model("deit")) is transformers.DeiTConfig
"""


def test_import_changes_nothing_outside_the_package():
    """Red when a class is registered over transformers' own `deit`, a class is patched, or a seed is set."""
    finished = subprocess.run([sys.executable, "-c", IMPORT_CHECK], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
