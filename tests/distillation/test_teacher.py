"""The teacher: its own normalisation and image size, the student's label order, and always eval mode."""

import copy
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModelForImageClassification,
    ResNetConfig,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from deit_hf import DeiTConfig, DeiTForImageClassification, Teacher
from deit_hf.model.image_processing_deit import make_processor
from deit_hf.model.timm_models import create_timm_model

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Recorder(nn.Module):
    """A model that returns fixed logits and stores its input pixels."""

    def __init__(self, num_classes: int = 3):
        super().__init__()
        self.logits = nn.Parameter(torch.arange(float(num_classes)))

    def forward(self, pixel_values: Tensor) -> Tensor:
        self.pixel_values = pixel_values
        return self.logits.expand(len(pixel_values), -1)


def config_with_names(*names: str) -> DeiTConfig:
    return DeiTConfig(id2label=dict(enumerate(names)))


def make_teacher(num_classes: int = 3, **options) -> Teacher:
    options = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "image_size": 16, **options}
    return Teacher(Recorder(num_classes), **options)


def test_teacher_sees_pixels_in_its_own_normalisation():
    pixels = torch.rand(2, 3, 16, 16)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    teacher = make_teacher(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    teacher((pixels - mean) / std)
    expected = (pixels - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / torch.tensor([0.4, 0.5, 0.6]).view(
        1, 3, 1, 1
    )
    torch.testing.assert_close(teacher.module.pixel_values, expected, rtol=0, atol=1e-5)


def test_teacher_sees_pixels_at_its_own_resolution():
    pixels = torch.rand(2, 3, 24, 24)
    teacher = make_teacher(mean=IMAGENET_MEAN, std=IMAGENET_STD, image_size=(16, 12))
    teacher(pixels)
    expected = F.interpolate(pixels, (16, 12), mode="bicubic", align_corners=False, antialias=True)
    torch.testing.assert_close(teacher.module.pixel_values, expected, rtol=0, atol=1e-6)


def test_teacher_stays_in_eval_mode_and_frozen_after_train(tiny_teacher: Teacher, toy_images: Tensor):
    before = copy.deepcopy(tiny_teacher.state_dict())
    first = tiny_teacher.train()(toy_images)
    second = nn.ModuleList([tiny_teacher]).train()[0](toy_images)
    assert not any(module.training for module in tiny_teacher.modules())
    assert not any(parameter.requires_grad for parameter in tiny_teacher.parameters())
    assert torch.equal(first, second)  # dropout would differ
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_teacher.state_dict().items())
    assert not first.requires_grad


def test_labels_are_matched_by_name_into_the_students_order():
    teacher = make_teacher(4, id2label={0: "cat", 1: "Big_Dog", 2: "fish", 3: "owl"})
    teacher.match_labels(config_with_names("owl", "cat", "big dog"))
    assert teacher(torch.zeros(1, 3, 16, 16)).tolist() == [[3.0, 0.0, 1.0]]


def test_equal_names_in_equal_order_need_no_mapping_even_if_repeated():
    teacher = make_teacher(3, id2label={0: "crane", 1: "owl", 2: "crane"})
    teacher.match_labels(config_with_names("crane", "owl", "crane"))
    assert teacher(torch.zeros(1, 3, 16, 16)).tolist() == [[0.0, 1.0, 2.0]]


def test_equal_counts_without_names_are_accepted_and_said(caplog: pytest.LogCaptureFixture):
    make_teacher(3).match_labels(config_with_names("a", "b", "c"))
    assert "teacher `teacher` has no class names: the class indices of the student and of teacher" in caplog.text


def test_same_labels_are_matched_and_said_only_once(caplog: pytest.LogCaptureFixture):
    teacher = make_teacher(3)
    for _ in range(2):  # a teacher loaded for a student is matched again by the trainer
        teacher.match_labels(config_with_names("a", "b", "c"))
    assert caplog.text.count("are assumed to be equal") == 1


@pytest.mark.parametrize(
    ("teacher_names", "student", "message"),
    [
        (
            None,
            DeiTConfig(num_labels=5),
            "the student has 5 classes but teacher `teacher` has 3, and they cannot be matched by name",
        ),
        (
            ("a", "b", "c"),
            config_with_names("a", "z"),
            r"teacher `teacher` lacks 1 of the classes of the student \(z\).*has 3 classes \(a, b, c\); use",
        ),
        (("a", "a", "c"), config_with_names("c", "a"), "several classes named a"),
    ],
)
def test_teacher_of_other_labels_is_refused_with_both_sides(teacher_names, student: DeiTConfig, message: str):
    teacher = make_teacher(3, id2label=None if teacher_names is None else dict(enumerate(teacher_names)))
    with pytest.raises(ValueError, match=message):
        teacher.match_labels(student)


def test_names_for_another_number_of_classes_are_refused_at_construction():
    with pytest.raises(ValueError, match="has 3 classes but 2 names"):
        make_teacher(3, id2label={0: "a", 1: "b"})


def test_something_that_is_no_module_is_refused():
    with pytest.raises(TypeError, match="the teacher is a str, but must be a torch.nn.Module"):
        Teacher("resnet18", mean=(0.5,) * 3, std=(0.5,) * 3)  # type: ignore[arg-type]


# ---- settings read from the model ----


@pytest.mark.parametrize("kind", ["timm", "timm, built for another size", "wrapper", "wrapper of the Hub"])
def test_model_of_timm_tells_mean_std_and_size_itself(kind: str):
    size = {"img_size": 64} if "another size" in kind else {}
    module: nn.Module = timm.create_model("test_vit", **size)
    expected = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (64, 64) if size else (160, 160))  # test_vit's, not ImageNet's
    if "wrapper" in kind:
        options = {"pretrained_cfg": {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "input_size": (3, 160, 160)}}
        config = TimmWrapperConfig(architecture="test_vit", num_labels=4, **(options if "Hub" in kind else {}))
        module = TimmWrapperForImageClassification(config)
        expected = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (160, 160)) if "Hub" in kind else expected
    recorder = Recorder()
    teacher = Teacher(module)
    assert teacher.image_size == expected[2]
    explicit = Teacher(recorder, mean=expected[0], std=expected[1])
    torch.testing.assert_close(teacher.pixel_scale, explicit.pixel_scale)
    torch.testing.assert_close(teacher.pixel_shift, explicit.pixel_shift)


def test_what_is_given_wins_over_what_the_model_tells():
    teacher = Teacher(timm.create_model("test_resnet"), mean=(0.1, 0.2, 0.3), image_size=32)
    explicit = Teacher(Recorder(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5))
    assert torch.equal(teacher.pixel_shift, explicit.pixel_shift)
    assert teacher.image_size == (32, 32)


def test_model_of_transformers_tells_its_size_and_not_its_statistics(tiny_config: DeiTConfig):
    module = DeiTForImageClassification(tiny_config)
    assert Teacher(module, mean=IMAGENET_MEAN, std=IMAGENET_STD).image_size == (32, 32)
    with pytest.raises(
        ValueError, match=r"a DeiTForImageClassification does not define them; pass both \(`image_mean`"
    ):
        Teacher(module)
    with pytest.raises(ValueError, match="`mean` or `std` of teacher `teacher` is missing"):
        Teacher(module, mean=IMAGENET_MEAN)


@pytest.mark.parametrize(
    ("statistics", "error", "message"),
    [
        ({"mean": 0.5}, TypeError, "`mean` of teacher `teacher` is 0.5, but must be numbers"),
        ({"std": ("x", "y", "z")}, TypeError, "`std` of teacher `teacher` is .*, but must be numbers"),
        ({"std": (0.5, 0.0, 0.5)}, ValueError, "`std` of teacher `teacher` is .*, but must be greater than 0"),
        ({"student_std": (-1, 1, 1)}, ValueError, "`student_std` of teacher `teacher` .* must be greater than 0"),
        ({"mean": (0.5,)}, ValueError, "have 1, 3, 3, 3 channels, but must have the same number"),
    ],
)
def test_statistics_that_are_none_are_refused_by_name(statistics: dict, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make_teacher(**statistics)


def test_something_that_is_no_configuration_is_refused():
    with pytest.raises(TypeError, match="`student_config` is a dict, but must be the student's configuration"):
        make_teacher().match_labels({"num_labels": 3})  # type: ignore[arg-type]


def test_half_precision_teacher_answers_in_float32(toy_images: Tensor):
    teacher = Teacher(Recorder().to(torch.bfloat16), mean=IMAGENET_MEAN, std=IMAGENET_STD, image_size=32)
    assert teacher(toy_images).dtype == torch.float32
    assert teacher.module.pixel_values.dtype == torch.bfloat16


def test_transformers_directory_brings_its_own_statistics_size_and_labels(tmp_path: Path, toy_images: Tensor):
    config = ViTConfig(
        image_size=24,
        patch_size=8,
        hidden_size=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        intermediate_size=16,
        id2label={0: "x", 1: "y", 2: "z"},
    )
    model = ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    make_processor(24, mean=(0.5,) * 3, std=(0.5,) * 3).save_pretrained(tmp_path)
    teacher = Teacher.from_pretrained(tmp_path, student_config=config_with_names("z", "x", "y"))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = F.interpolate(
        (toy_images * std + mean - 0.5) / 0.5, (24, 24), mode="bicubic", align_corners=False, antialias=True
    )
    expected = model(pixels).logits[:, [2, 0, 1]]
    torch.testing.assert_close(teacher(toy_images), expected, rtol=0, atol=1e-4)


def test_our_own_saves_can_teach(tmp_path: Path, tiny_config: DeiTConfig, toy_images: Tensor):
    tiny_config.use_distillation_token = False
    model = DeiTForImageClassification(tiny_config).eval()
    model.save_pretrained(tmp_path)
    make_processor(32).save_pretrained(tmp_path)
    teacher = Teacher.from_pretrained(tmp_path, student_config=tiny_config)
    torch.testing.assert_close(teacher(toy_images), model(toy_images).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_timm_file_keeps_its_own_number_of_classes(tmp_path: Path, suffix: str, wrapped: bool, toy_images: Tensor):
    model = timm.create_model("test_byobnet", num_classes=7).eval()
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        from safetensors.torch import save_file

        save_file(model.state_dict(), path)
    else:  # the official teacher's file has its weights in the entry `model`
        torch.save({"model": model.state_dict()} if wrapped else model.state_dict(), path)
    teacher = Teacher.from_pretrained(f"timm:test_byobnet@{path}", student_config=DeiTConfig(num_labels=7))
    cfg = model.pretrained_cfg
    direct = Teacher(model, mean=cfg["mean"], std=cfg["std"], image_size=cfg["input_size"][1:])
    torch.testing.assert_close(teacher(toy_images), direct(toy_images), rtol=0, atol=1e-6)


def test_new_classifier_is_started_for_another_number_of_classes(tmp_path: Path):
    torch.save(timm.create_model("test_byobnet", num_classes=7).state_dict(), tmp_path / "weights.pth")
    assert create_timm_model(f"timm:test_byobnet@{tmp_path}/weights.pth", 4).num_classes == 4


def test_unknown_timm_name_suggests_others():
    with pytest.raises(ValueError, match="has no model `resnet19`"):
        Teacher.from_pretrained("timm:resnet19", student_config=DeiTConfig())


def test_missing_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no weights at `.*nothing.pth`"):
        Teacher.from_pretrained(f"timm:test_byobnet@{tmp_path}/nothing.pth", student_config=DeiTConfig())


def test_weights_of_another_model_are_refused(tmp_path: Path):
    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="the weights do not fit timm's `test_byobnet`"):
        Teacher.from_pretrained(f"timm:test_byobnet@{tmp_path}/weights.pth", student_config=DeiTConfig())


def test_file_that_carries_code_is_refused_and_not_run(tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="evil.pth` is not a file of weights that can be read safely"):
        Teacher.from_pretrained(f"timm:test_byobnet@{tmp_path}/evil.pth", student_config=DeiTConfig())
    assert not (tmp_path / "ran").exists()


def test_untrained_head_is_refused(tmp_path: Path):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=3)
    AutoModelForImageClassification.from_config(config).resnet.save_pretrained(tmp_path)
    make_processor(32).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is not a trained classifier: it has no weights for classifier"):
        Teacher.from_pretrained(tmp_path, student_config=DeiTConfig(num_labels=3))


def test_missing_directory_is_named():
    with pytest.raises(FileNotFoundError, match="no directory `/no/such/teacher`"):
        Teacher.from_pretrained("/no/such/teacher", student_config=DeiTConfig())
