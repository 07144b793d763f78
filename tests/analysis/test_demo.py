"""What the demo says about an image: classes of each head and of the teacher, attention, and bad uploads."""

import io
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.models import NAMES, labels, make_model, save

from deit_hf import DeiTConfig
from deit_hf.analysis.attention import image_attention
from deit_hf.analysis.attention_figures import overlay, seen_image
from deit_hf.analysis.demo import Answer, Demo, opened
from deit_hf.data.transforms import evaluation_view
from deit_hf.evaluation.predict import predict
from deit_hf.model.build import load_classifier
from deit_hf.model.image_processing_deit import make_processor


def noise(seed: int, height: int = 40, width: int = 50) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def save_teacher(path: Path, config: DeiTConfig, names: list[str]) -> str:
    """A convnet with its own order of classes, size and statistics."""
    model = make_model("resnet", config)
    for name, value in labels(names).items():
        setattr(model.config, name, value)
    model.save_pretrained(path)
    make_processor(48, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)).save_pretrained(path)
    return str(path)


def shares(logits: torch.Tensor, names: list[str]) -> list[tuple[str, float]]:
    """All classes with their probabilities, best first, by numpy."""
    values = np.exp(logits.double().numpy())
    values /= values.sum()
    return sorted(zip(names, values.tolist(), strict=True), key=lambda each: -each[1])


def assert_same(found: list[tuple[str, float]], expected: list[tuple[str, float]]) -> None:
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [share for _, share in found] == pytest.approx([share for _, share in expected], abs=1e-5)


def test_each_head_and_the_teacher_answer_as_they_do_alone(tmp_path: Path, tiny_config: DeiTConfig):
    order = ["cat", "bee", "ant", "eel", "dog"]
    source = save(make_model("distilled", tiny_config), tmp_path / "model")
    teacher = save_teacher(tmp_path / "teacher", tiny_config, order)
    image = noise(0)
    image.save(tmp_path / "x.png")
    answer = Demo(source, teacher=teacher, top_k=9, device="cpu").answer(image)

    assert [*answer.classes] == ["class head", "distillation head", "mean of both heads", "teacher"]
    model, processor = load_classifier(source)
    with torch.no_grad():
        output = model.eval()(pixel_values=processor(image, return_tensors="pt")["pixel_values"])
    for title, logits in (("class head", output.cls_logits), ("distillation head", output.distillation_logits)):
        assert_same(answer.classes[title], shares(logits[0], NAMES))
    for title, path in (("mean of both heads", source), ("teacher", teacher)):
        (alone,) = predict([tmp_path / "x.png"], path, num_best=5, device="cpu")
        assert_same(answer.classes[title], alone.classes)


def test_attention_of_both_tokens_is_laid_over_what_the_model_sees(tmp_path: Path, tiny_config: DeiTConfig):
    source = save(make_model("distilled", tiny_config), tmp_path / "model")
    answer = Demo(source, device="cpu").answer(noise(0))
    model, processor = load_classifier(source)
    pixels = evaluation_view(processor)(noise(0))
    attention, seen = image_attention(model.eval(), pixels), seen_image(pixels, processor, (8, 8))
    assert np.array_equal(answer.seen, seen.view)
    for kind, maps in (("last layer", attention.last_layer.mean(dim=1)), ("rollout", attention.rollout)):
        assert [*answer.maps[kind]] == ["class token", "distillation token"]
        for index, pixels in enumerate(answer.maps[kind].values()):
            assert np.array_equal(pixels, overlay(seen, maps[index]))


@pytest.mark.parametrize(("kind", "num_maps"), [("plain", 1), ("one head", 2), ("resnet", 0)])
def test_a_model_with_one_head_has_one_list_of_classes(
    kind: str, num_maps: int, tmp_path: Path, tiny_config: DeiTConfig
):
    source = save(make_model(kind, tiny_config), tmp_path / "model")
    noise(0).save(tmp_path / "x.png")
    answer = Demo(source, top_k=2, device="cpu").answer(noise(0))
    (alone,) = predict([tmp_path / "x.png"], source, num_best=2, device="cpu")
    assert [*answer.classes] == ["prediction"]
    assert_same(answer.classes["prediction"], alone.classes)
    assert (answer.seen is not None) == (num_maps > 0)
    assert [len(maps) for maps in answer.maps.values()] == ([num_maps] * 2 if num_maps else [])


def test_several_users_at_once_get_the_answers_to_their_own_images(tmp_path: Path, tiny_config: DeiTConfig):
    source = save(make_model("distilled", tiny_config), tmp_path / "model")
    teacher = save_teacher(tmp_path / "teacher", tiny_config, NAMES)
    demo, images = Demo(source, teacher=teacher, device="cpu"), [noise(seed) for seed in range(4)]
    alone = [demo.answer(image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        for answer, expected in zip(threads.map(demo.answer, images * 4), alone * 4, strict=True):
            assert_equal(answer, expected)
    assert alone[0].classes != alone[1].classes


def assert_equal(answer: Answer, expected: Answer) -> None:
    assert answer.classes == expected.classes
    assert np.array_equal(answer.seen, expected.seen)
    for kind, maps in expected.maps.items():
        for token, pixels in maps.items():
            assert np.array_equal(answer.maps[kind][token], pixels)


def test_wrong_options_and_teachers_of_other_classes_are_refused(tmp_path: Path, tiny_config: DeiTConfig):
    source = save(make_model("plain", tiny_config), tmp_path / "model")
    teacher = save_teacher(tmp_path / "teacher", tiny_config, ["ape", "bat", "cow", "doe", "elk"])
    with pytest.raises(ValueError, match="`top_k` is 0"):
        Demo(source, top_k=0)
    with pytest.raises(ValueError, match="does not have"):
        Demo(source, device="abacus")
    with pytest.raises(ValueError, match="classes"):
        Demo(source, teacher=teacher, device="cpu")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    with io.BytesIO() as file:
        image.save(file, kind, **options)
        return file.getvalue()


def test_a_bad_upload_has_a_reason_for_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    jpeg = encoded(noise(0), "JPEG")
    for content, reason in (
        (b"just some text", "cat.jpg is not an image, or in a format that is not known here."),
        (b"", "cat.jpg is not an image, or in a format that is not known here."),
        (jpeg[: len(jpeg) // 2], "cat.jpg is damaged, or of a kind that cannot be read: "),
        (encoded(noise(0, 100, 60), "PNG"), "cat.jpg has more than 5,000 pixels, which is too many."),
        (encoded(noise(0, 200, 60), "PNG"), "cat.jpg has more than 5,000 pixels, which is too many."),
    ):
        (tmp_path / "upload").write_bytes(content)
        with pytest.raises(ValueError, match=rf"^{re.escape(reason)}.* Please choose another one\.$") as caught:
            opened(str(tmp_path / "upload"), "cat.jpg")
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(ValueError, match="not here any more"):
        opened(str(tmp_path / "gone"), "cat.jpg")


def test_unusual_images_are_read_upright_and_in_colour(tmp_path: Path):
    image = Image.fromarray(np.full((20, 30, 3), 200, dtype=np.uint8))
    rotated, exif = image.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6
    grey = Image.fromarray(np.full((20, 30), 200 << 8, dtype=np.uint16))
    for kind, content in {
        "16-bit": encoded(grey, "PNG"),
        "CMYK": encoded(image.convert("CMYK"), "JPEG"),
        "animation": encoded(image.quantize(2), "GIF", save_all=True, append_images=[Image.new("P", (30, 20))]),
        "rotation": encoded(rotated, "JPEG", exif=exif),
        "transparency": encoded(image.convert("RGBA"), "PNG"),
    }.items():
        (tmp_path / "upload").write_bytes(content)
        found = opened(str(tmp_path / "upload"), "cat.jpg")
        assert (found.mode, found.size) == ("RGB", (30, 20)), kind
        assert abs(np.asarray(found).astype(int) - 200).max() <= 5, kind
