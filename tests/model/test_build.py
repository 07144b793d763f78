"""Students built from options: a variant from scratch, saved weights, or a model of timm."""

import copy
from pathlib import Path

import pytest
import timm
import torch
from support.models import NAMES, labels, make_model, save
from transformers import (
    PreTrainedModel,
    ResNetForImageClassification,
    TimmWrapperForImageClassification,
)

from deit_hf import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
)
from deit_hf.model.arguments import ModelArguments
from deit_hf.model.build import build_student, load_classifier
from deit_hf.model.image_processing_deit import crop_size, make_processor

TINY = {"patch_size": 8, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40, "num_hidden_layers": 3}


def build(names: list[str] = NAMES, **options) -> tuple[PreTrainedModel, object]:
    return build_student(ModelArguments(**options), labels(names))


def build_variant(variant: str, **options) -> tuple[PreTrainedModel, object]:
    return build(**{"variant": variant, "image_size": 32, "config_overrides": TINY, **options})


def assert_same(model: PreTrainedModel, other: PreTrainedModel, but: tuple[str, ...] = ()) -> None:
    """Asserts that shared weights are equal, and that only weights with a name in `but` are not shared."""
    left, right = model.state_dict(), other.state_dict()
    shared = {name for name in left.keys() & right.keys() if not any(part in name for part in but)}
    assert all(torch.equal(left[name], right[name]) for name in shared)
    assert all(any(part in name for part in but) for name in left.keys() ^ right.keys())
    assert shared


# ---- a student from scratch ----


@pytest.mark.parametrize(
    ("variant", "student_class", "model_type"),
    [
        ("deit_tiny_distilled_patch16_224", DeiTForImageClassificationWithTeacher, "deit"),
        ("deit_tiny_patch16_224", DeiTForImageClassification, "vit"),
    ],
)
def test_variant_starts_a_student_with_the_datas_labels(variant: str, student_class: type, model_type: str):
    student, processor = build_variant(variant, drop_path_rate=0.2)
    assert type(student) is student_class
    assert student.config.to_dict()["model_type"] == model_type
    assert student.config.id2label == dict(enumerate(NAMES))
    assert (student.config.drop_path_rate, student.config.hidden_size) == (0.2, 24)
    assert crop_size(processor) == (32, 32)
    assert student(pixel_values=torch.zeros(1, 3, 32, 32)).logits.shape == (1, 5)


def test_flag_wins_over_an_override_of_the_same_name():
    student, processor = build_variant("deit_tiny_patch16_224", config_overrides={**TINY, "image_size": 64})
    assert (student.config.image_size, crop_size(processor)) == (32, (32, 32))


@pytest.mark.parametrize(
    ("crop", "size"),
    [({}, {"shortest_edge": 32}), ({"crop_ratio": 0.8}, {"shortest_edge": 40}), ({"eval_crop": "squash"}, None)],
    ids=["paper", "ratio", "squash"],
)
@pytest.mark.parametrize("kind", ["variant", "deit", "resnet"])
def test_student_is_saved_with_the_crop_that_is_asked_for(tmp_path: Path, tiny_config, kind: str, crop: dict, size):
    if kind == "variant":
        _, processor = build_variant("deit_tiny_patch16_224", **crop)
    else:
        _, processor = build(
            model_name_or_path=save(make_model("plain" if kind == "deit" else kind, tiny_config), tmp_path), **crop
        )
    assert dict(processor.size) == (size or {"height": 32, "width": 32})
    assert processor.do_center_crop == (size is not None)
    assert crop_size(processor) == (32, 32)


def test_overrides_may_name_more_classes_than_the_rows_show():
    model_args = ModelArguments(
        variant="deit_tiny_patch16_224", image_size=32, config_overrides={**TINY, "num_labels": 7}
    )
    student, _ = build_student(model_args, {"num_labels": 5})
    assert student.config.num_labels == 7


def test_unknown_variant_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="`deit_huge` is not a published DeiT; choose one of: deit_tiny_patch16_224"):
        build_variant("deit_huge")


# ---- a student from saved weights ----


@pytest.mark.parametrize(
    ("kind", "student_class"),
    [
        ("distilled", DeiTForImageClassificationWithTeacher),
        ("plain", DeiTForImageClassification),
        ("one head", DeiTForImageClassification),
        ("resnet", ResNetForImageClassification),
    ],
)
def test_saved_weights_start_a_student_of_their_own_kind(tmp_path: Path, tiny_config, kind: str, student_class: type):
    saved = make_model(kind, tiny_config)
    student, processor = build(model_name_or_path=save(saved, tmp_path / "model"))
    assert type(student) is student_class
    assert_same(student, saved)
    assert crop_size(processor) == (32, 32)
    assert type(load_classifier(str(tmp_path / "model"))[0]) is student_class


def test_plain_weights_get_a_distillation_token_when_there_is_a_teacher(tmp_path: Path, tiny_config: DeiTConfig):
    saved = make_model("plain", tiny_config)
    source = save(saved, tmp_path / "model")
    student, _ = build(model_name_or_path=source, teacher_model_name_or_path="teacher")
    assert type(student) is DeiTForImageClassificationWithTeacher
    assert torch.equal(student.cls_classifier.weight, saved.classifier.weight)
    saved_layers, layers = saved.vit.encoder.state_dict(), student.deit.encoder.state_dict()
    assert all(torch.equal(layers[name], tensor) for name, tensor in saved_layers.items())


def test_the_token_can_be_left_out_for_usual_distillation(tmp_path: Path, tiny_config: DeiTConfig):
    options = {"teacher_model_name_or_path": "teacher", "use_distillation_token": False}
    for kind in ("plain", "distilled", "one head"):
        source = save(make_model(kind, copy.deepcopy(tiny_config)), tmp_path / kind)
        student, _ = build(model_name_or_path=source, **options)
        assert type(student) is DeiTForImageClassification
        assert not student.config.use_distillation_token
        assert student.vit.embeddings.position_embeddings.shape == (1, 17, 24)


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("source", ["resnet", "timm:test_resnet", "timm:test_vit"])
def test_models_that_can_have_no_token_refuse_the_option(tmp_path: Path, tiny_config, source: str, wanted: bool):
    if source == "resnet":
        source = save(make_model("resnet", tiny_config), tmp_path / "model")
    with pytest.raises(ValueError, match="`use_distillation_token` can be set only for a DeiT, but `.*; leave it out"):
        build(model_name_or_path=source, use_distillation_token=wanted)


def test_loaded_student_takes_another_size_and_stochastic_depth(tmp_path: Path, tiny_config: DeiTConfig):
    source = save(make_model("distilled", tiny_config), tmp_path / "model")
    student, processor = build(model_name_or_path=source, image_size=48, drop_path_rate=0.3)
    assert (student.config.image_size, student.config.drop_path_rate) == (48, 0.3)
    assert student.deit.embeddings.position_embeddings.shape == (1, 2 + 36, 24)
    assert crop_size(processor) == (48, 48)


@pytest.mark.parametrize("kind", ["distilled", "plain", "resnet"])
def test_another_number_of_classes_gets_new_heads_and_keeps_the_rest(tmp_path: Path, tiny_config, kind: str):
    saved = make_model(kind, tiny_config)
    student, _ = build(["yes", "no"], model_name_or_path=save(saved, tmp_path / "model"))
    assert student.config.id2label == {0: "yes", 1: "no"}
    assert student.config.label2id == {"yes": 0, "no": 1}
    heads = {name: tensor for name, tensor in student.state_dict().items() if "classifier" in name}
    assert {len(tensor) for tensor in heads.values()} == {2}
    assert_same(student, saved, but=("classifier",))


@pytest.mark.parametrize("options", [{"image_size": 48}, {"drop_path_rate": 0.1}])
def test_options_of_a_deit_are_refused_for_another_model(tmp_path: Path, tiny_config: DeiTConfig, options: dict):
    source = save(make_model("resnet", tiny_config), tmp_path / "model")
    with pytest.raises(
        ValueError, match=f"`{next(iter(options))}` can be set only for a DeiT, but `.*model` is of another"
    ):
        build(model_name_or_path=source, **options)


def test_missing_weights_are_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no directory `.*none`; name a saved model, or a Hub id"):
        build(model_name_or_path=str(tmp_path / "none"))


# ---- a student of timm ----


def test_timm_name_starts_a_random_model_with_its_own_statistics():
    student, processor = build(model_name_or_path="timm:test_resnet")
    assert type(student) is TimmWrapperForImageClassification
    assert student.config.id2label == dict(enumerate(NAMES))
    assert processor.image_mean == processor.image_std == (0.5, 0.5, 0.5)  # test_resnet's, not ImageNet's
    assert crop_size(processor) == (160, 160)
    assert student(pixel_values=torch.zeros(1, 3, 160, 160)).logits.shape == (1, 5)
    assert crop_size(build(model_name_or_path="timm:test_resnet", image_size=32)[1]) == (32, 32)


@pytest.mark.parametrize(("names", "keeps_head"), [(NAMES, True), (["yes", "no"], False)])
def test_timm_file_starts_a_model_with_its_weights(tmp_path: Path, names: list[str], keeps_head: bool):
    module = timm.create_model("test_resnet", num_classes=5)
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    student, _ = build(names, model_name_or_path=f"timm:test_resnet@{tmp_path / 'weights.pth'}")
    weights = student.timm_model.state_dict()
    loaded = {name for name, tensor in module.state_dict().items() if torch.equal(weights[name], tensor)}
    assert module.state_dict().keys() - loaded == (set() if keeps_head else {"fc.weight", "fc.bias"})
    assert weights["fc.weight"].shape[0] == len(names)


# ---- a DeiT of timm ----


@pytest.fixture(scope="module")
def timm_deits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.nn.Module]:
    """Two timm DeiTs with five classes, keyed by the source name of their saved weights."""
    folder, models = tmp_path_factory.mktemp("timm"), {}
    for name in ("deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224"):
        torch.manual_seed(0)
        module = timm.create_model(name, num_classes=5).eval()
        torch.save(module.state_dict(), folder / f"{name}.pth")
        models[f"timm:{name}@{folder / name}.pth"] = module
    return models


@pytest.mark.parametrize("distilled", [True, False])
def test_deit_weights_of_timm_start_a_student_of_this_package(timm_deits, distilled: bool):
    source, module = list(timm_deits.items())[0 if distilled else 1]
    student, processor = build(model_name_or_path=source, drop_path_rate=0.2)
    assert type(student) is (DeiTForImageClassificationWithTeacher if distilled else DeiTForImageClassification)
    pixels = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(student(pixels).logits, module(pixels), rtol=0, atol=1e-4)
    assert student.config.id2label == dict(enumerate(NAMES))
    assert (student.config.drop_path_rate, crop_size(processor)) == (0.2, (224, 224))


def test_deit_of_timm_takes_other_classes_another_size_and_a_token_by_the_rules_of_saved_weights(timm_deits, caplog):
    distilled, plain = timm_deits
    student, processor = build(["yes", "no"], model_name_or_path=distilled, image_size=64)
    assert student(torch.zeros(1, 3, 64, 64)).distillation_logits.shape == (1, 2)
    assert crop_size(processor) == (64, 64)
    assert f"`{distilled}` has 5 classes and the data 2: the classifier is initialised at random" in caplog.text
    assert torch.equal(student.deit.embeddings.cls_token, timm_deits[distilled].cls_token)
    with_token, _ = build(model_name_or_path=plain, teacher_model_name_or_path="teacher")
    assert type(with_token) is DeiTForImageClassificationWithTeacher
    assert torch.equal(with_token.cls_classifier.weight, timm_deits[plain].head.weight)
    without, _ = build(model_name_or_path=distilled, use_distillation_token=False)
    assert torch.equal(without.vit.embeddings.position_embeddings[:, 1:], timm_deits[distilled].pos_embed[:, 2:])
    assert torch.equal(without.classifier.weight, timm_deits[distilled].head.weight)


def test_deit_of_timm_without_weights_says_variant():
    with pytest.raises(ValueError, match="from scratch with `--variant deit_tiny_distilled_patch16_224`"):
        build(model_name_or_path="timm:deit_tiny_distilled_patch16_224")


def test_weights_of_another_deit_are_refused_with_the_command_that_converts_them(timm_deits):
    file = list(timm_deits)[1].partition("@")[2]
    with pytest.raises(ValueError, match="do not fit timm's `deit_small_patch16_224`; .*deit-hf convert .*pth DIR"):
        build(model_name_or_path=f"timm:deit_small_patch16_224@{file}")


def test_file_of_weights_as_a_student_says_how_to_convert_it(timm_deits):
    file = list(timm_deits)[1].partition("@")[2]
    with pytest.raises(ValueError, match="is a file, .* with deit-hf convert .*pth DIR"):
        build(model_name_or_path=file)


@pytest.mark.parametrize("content", ["hello", "", "\x80\x02}q"])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_file_that_holds_no_weights_is_named(tmp_path: Path, ending: str, content: str):
    file = tmp_path / f"weights.{ending}"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=f"`{file}` is not a file of weights .*; name a `.safetensors` or `.pth`"):
        build(model_name_or_path=f"timm:test_resnet@{file}")


def test_timm_name_without_a_file_after_the_at_sign_is_refused():
    with pytest.raises(ValueError, match="`timm:test_resnet@` has no file after `@`"):
        build(model_name_or_path="timm:test_resnet@")


def test_size_that_a_timm_student_cannot_take_is_refused_with_its_own():
    with pytest.raises(
        ValueError, match="`image_size` is 33, which `timm:test_vit` does not support .*its own size is 160 x 160"
    ):
        build(model_name_or_path="timm:test_vit", image_size=33)


def test_timm_student_is_saved_for_plain_transformers(tmp_path: Path):
    student, processor = build(model_name_or_path="timm:test_resnet", image_size=32)
    student.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, loaded_processor = load_classifier(str(tmp_path))
    pixel_values = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded(pixel_values).logits, student.eval()(pixel_values).logits, rtol=0, atol=1e-5)
    assert_same(loaded, student)
    assert loaded_processor.to_dict() == processor.to_dict()


def test_stochastic_depth_for_a_timm_student_is_refused_and_not_ignored():
    with pytest.raises(ValueError, match="`drop_path_rate` can be set only for a DeiT, but `timm:test_resnet`"):
        build(model_name_or_path="timm:test_resnet", drop_path_rate=0.1)


@pytest.fixture
def saved(tmp_path: Path, tiny_config):
    """Saves a model of the given kind with the classes NAMES."""
    return lambda kind: save(make_model(kind, tiny_config), tmp_path / "saved")


@pytest.mark.parametrize("kind", ["distilled", "plain", "resnet"])
def test_heads_of_the_same_classes_are_kept_in_their_order(saved, kind: str, caplog):
    source = saved(kind)
    student, _ = build(NAMES[::-1], model_name_or_path=source)
    assert student.config.id2label == dict(enumerate(NAMES))  # the trainer maps the data's labels to these
    assert student.config.label2id["bee"] == 1
    assert_same(student, load_classifier(source)[0])
    assert "matched to those of" in caplog.text


@pytest.mark.parametrize("kind", ["distilled", "plain", "resnet"])
def test_heads_of_other_classes_start_anew_although_there_are_as_many(saved, kind: str, caplog):
    source, others = saved(kind), ["ant", "bee", "cow", "dog", "elk"]
    trained = load_classifier(source)[0].state_dict()
    student, _ = build(others, model_name_or_path=source)
    assert student.config.id2label == dict(enumerate(others))
    changed = {name for name, tensor in student.state_dict().items() if not torch.equal(tensor, trained[name])}
    heads = {name.rpartition(".")[0] for name in changed}
    expected = {"distilled": {"cls_classifier", "distillation_classifier"}, "plain": {"classifier"}}
    assert heads == expected.get(kind, {"classifier.1"})
    assert f"`{source}` lacks 2 of the classes of the data (cow, elk)" in caplog.text
    assert "The classifier is initialised at random for the classes of the data" in caplog.text


def test_heads_without_names_are_kept_and_that_is_said(tmp_path: Path, tiny_student, caplog):
    source = save(tiny_student, tmp_path / "saved")
    student, _ = build(NAMES, model_name_or_path=source)
    assert_same(student, tiny_student)
    assert student.config.id2label == dict(enumerate(NAMES))
    assert "has no class names" in caplog.text
    assert "the classifier is kept" in caplog.text


@pytest.mark.parametrize(("kind", "mean"), [("plain", 0.5), ("distilled", 0.485)])
def test_a_vit_keeps_the_normalisation_that_it_was_trained_with(tmp_path: Path, tiny_config, kind: str, mean: float):
    """A ViT of the Hub often has 0.5; a processor with 0.5 next to a DeiT is a known mistake."""
    source = save(make_model(kind, tiny_config), tmp_path / "model")
    make_processor(32, mean=(0.5,) * 3, std=(0.5,) * 3).save_pretrained(source)
    _, processor = build_student(ModelArguments(model_name_or_path=source), labels(NAMES))
    assert processor.image_mean[0] == pytest.approx(mean)


# ---- weights without a classifier ----


@pytest.mark.parametrize("kind", ["plain", "distilled", "resnet"])
def test_weights_without_a_classifier_can_be_trained_but_do_not_answer(tmp_path: Path, tiny_config, kind: str):
    backbone = make_model(kind, tiny_config).base_model
    source = save(backbone, tmp_path)
    with pytest.raises(ValueError, match=r"not a trained classifier: it has no weights for \S*classifier.*train it"):
        load_classifier(source)
    student, _ = build(model_name_or_path=source)
    assert_same(student.base_model, backbone)
