"""A processor is saved with every model, and processors that are known to be wrong for DeiT cause a warning."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.transforms import Normalize
from transformers import AutoImageProcessor, DeiTImageProcessor, pipeline
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

from deit_hf import DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher, DeiTModel, Teacher
from deit_hf.model.build import load_classifier
from deit_hf.model.image_processing_deit import (
    checked_processor,
    crop_size,
    make_processor,
    savable_processor,
    statistics_of,
    with_crop,
)

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
# like earlier revisions of the facebook/deit repositories, but for a model of 32 pixels
FAULTY = {
    "plain base": {"size": 32, "do_center_crop": False, **HALF},
    "384": {"size": 36, "do_center_crop": True, "crop_size": 32, **IMAGENET},
    "tiny": {"size": 32, "do_center_crop": True, "crop_size": 32, **IMAGENET},
    "transformers' default": {**json.loads(DeiTImageProcessor().to_json_string()), "crop_size": 32},
}
FAULTY = {name: {"do_resize": True, "do_normalize": True, **settings} for name, settings in FAULTY.items()}
SQUASHES, HALVES = "squashes images to a square", "normalises with 0.5 instead of ImageNet's mean and std"


@pytest.mark.parametrize("model_class", [DeiTForImageClassificationWithTeacher, DeiTForImageClassification, DeiTModel])
@pytest.mark.parametrize(("size", "short_side"), [(32, 32), (48, 54)])
def test_every_save_brings_the_papers_processor(
    model_class: Any, size: int, short_side: int, tiny_config: DeiTConfig, tmp_path: Path
):
    """Red when a pipeline prepares images differently from the paper's evaluation."""
    model_class(tiny_config).save_pretrained(tmp_path / "trained")
    model_class.from_pretrained(tmp_path / "trained", image_size=size).save_pretrained(tmp_path / "saved")
    settings = json.loads((tmp_path / "saved" / "preprocessor_config.json").read_text())
    assert settings["size"] == {"shortest_edge": short_side}
    assert settings["crop_size"] == {"height": size, "width": size}
    assert (settings["image_mean"], settings["image_std"]) == (IMAGENET["image_mean"], IMAGENET["image_std"])
    assert settings["resample"] == Image.Resampling.BICUBIC
    if model_class is not DeiTModel:
        assert len(pipeline("image-classification", model=str(tmp_path / "saved"))(Image.new("RGB", (70, 50)))) == 5


def test_saved_384_model_resizes_to_438_before_the_crop():
    assert make_processor(384).size == {"shortest_edge": 438}


@pytest.mark.parametrize("backend", ["pil", "torchvision"])
@pytest.mark.parametrize("size", [8, 28, 32])
def test_picture_of_a_small_size_is_neither_resized_nor_cropped(size: int, backend: str, tmp_path: Path):
    """Official datasets.py:80: up to 32 pixels only `ToTensor` and `Normalize`; the same in a pipeline."""
    make_processor(size).save_pretrained(tmp_path)
    levels = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
    image = Image.fromarray(levels.permute(1, 2, 0).numpy())
    expected = Normalize(IMAGENET["image_mean"], IMAGENET["image_std"])(levels / 255)
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    pixels = processor(image, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)
    assert processor(image.resize((50, 90)), return_tensors="pt")["pixel_values"].shape == (1, 3, size, size)


def test_crop_that_is_named_holds_for_small_sizes_too():
    assert make_processor(33).size == {"shortest_edge": 37}
    assert make_processor(32, crop_ratio=0.875).size == {"shortest_edge": 36}
    assert with_crop(make_processor(32), crop_ratio=0.5).size == {"shortest_edge": 64}
    assert with_crop(make_processor(32, crop_ratio=0.5), eval_crop="center").size == {"shortest_edge": 32}
    assert not with_crop(make_processor(32), eval_crop="squash").do_center_crop


def test_processor_that_is_there_is_kept(tiny_student: DeiTForImageClassificationWithTeacher, tmp_path: Path):
    make_processor(32, mean=(0.1, 0.2, 0.3)).save_pretrained(tmp_path)
    tiny_student.save_pretrained(tmp_path)
    assert AutoImageProcessor.from_pretrained(tmp_path).image_mean[0] == 0.1


def test_model_of_other_channels_gets_no_processor_of_three_colours(tiny_config: DeiTConfig, tmp_path: Path):
    tiny_config.num_channels = 1
    DeiTModel(tiny_config).save_pretrained(tmp_path)
    assert not (tmp_path / "preprocessor_config.json").exists()


@pytest.fixture
def saved(tiny_student: DeiTForImageClassificationWithTeacher, tmp_path: Path) -> Path:
    tiny_student.save_pretrained(tmp_path)
    return tmp_path


LOADERS: dict[str, Any] = {
    "from_pretrained": lambda source: DeiTForImageClassificationWithTeacher.from_pretrained(source),
    "scripts": lambda source: load_classifier(str(source)),
    "teacher": lambda source: Teacher.from_pretrained(source, student_config=DeiTConfig(num_labels=5)),
}


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("faulty", FAULTY)
def test_known_wrong_processor_is_said_once_with_what_to_do(saved: Path, faulty: str, load: Any, caplog):
    (saved / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "DeiTImageProcessor", **FAULTY[faulty]})
    )
    with caplog.at_level(logging.WARNING, "deit_hf"):
        load(saved)
    (message,) = [
        record.getMessage() for record in caplog.records if "preprocessor_config.json" in record.getMessage()
    ]
    assert message.startswith(f"preprocessor_config.json of `{saved}` ")
    assert SQUASHES in message
    assert (HALVES in message) == (faulty in ("plain base", "transformers' default"))
    assert "make_processor(32)`, and save it in the same directory with its `save_pretrained`" in message


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_right_processor_is_taken_in_silence(saved: Path, load: Any, caplog):
    load(saved)
    assert "preprocessor_config" not in caplog.text


def test_mended_processor_gives_the_pixels_of_the_paper(saved: Path):
    """Red when following the advice of the warning does not fix the processor."""
    (saved / "preprocessor_config.json").write_text(json.dumps(FAULTY["plain base"]))
    make_processor(32).save_pretrained(saved)
    image = Image.effect_noise((60, 40), 90).convert("RGB")
    pixels = AutoImageProcessor.from_pretrained(saved)(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels, make_processor(32)(image, return_tensors="pt")["pixel_values"])


def test_processor_that_is_no_json_is_named(saved: Path):
    (saved / "preprocessor_config.json").write_text("{")
    with pytest.raises(ValueError, match="preprocessor_config.json` is not valid JSON"):
        DeiTForImageClassificationWithTeacher.from_pretrained(saved)


# ---- processors of other kinds ----


def timms_processor(**view: Any) -> TimmWrapperImageProcessor:
    cfg = {"input_size": (3, 48, 64), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_pct": 0.8, **view}
    return TimmWrapperImageProcessor(pretrained_cfg=cfg)


def test_timms_processor_tells_its_statistics_and_is_replaced_by_one_that_can_be_saved(caplog, tmp_path: Path):
    processor = timms_processor(interpolation="bilinear")
    assert statistics_of(processor) == {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    savable = savable_processor(processor)
    savable.save_pretrained(tmp_path)
    assert (crop_size(savable), dict(savable.size)) == ((48, 64), {"shortest_edge": 80})  # 64 / 0.8
    assert statistics_of(savable) == statistics_of(processor)
    assert "bicubic interpolation in evaluation, not with timm's bilinear" in caplog.text
    assert not savable_processor(timms_processor(crop_mode="squash", interpolation="bicubic")).do_center_crop
    own = make_processor(32)
    assert savable_processor(own) is own


def test_processor_without_statistics_is_refused():
    with pytest.raises(ValueError, match=r"the SegGptImageProcessor has no mean and std \(`image_mean`"):
        statistics_of(type("SegGptImageProcessor", (), {})())


@pytest.mark.parametrize("processor", [object(), "facebook/deit", {"size": 32}])
def test_something_that_is_no_processor_is_refused_by_its_kind(processor: Any, tiny_student):
    message = (
        f"`processing_class` is a {type(processor).__name__}, but must be an image processor of transformers; load"
    )
    with pytest.raises(TypeError, match=message):
        checked_processor(processor, tiny_student)


def test_checked_processor_is_the_given_one_or_the_papers(tiny_student):
    own = make_processor(32)
    assert checked_processor(own, tiny_student) is own
    assert checked_processor(None, tiny_student).to_dict() == make_processor(32).to_dict()
