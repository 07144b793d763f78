"""Training views of JPEGs, which torchvision decodes and torch resizes: pixels, errors and random numbers."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from deit_hf.data.dataset import seeded
from deit_hf.data.decoding import BadImageError, Decoded, decode_for_view, decode_image
from deit_hf.data.transforms import size_of, training_view

OFF = {"random_augment": "none", "color_jitter": 0.0, "random_erase_prob": 0.0}


def smooth(height: int = 90, width: int = 120, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, image_format: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def row(content: bytes) -> dict:
    return {"bytes": content, "path": None}


def levels(image: Decoded) -> np.ndarray:
    return (image.permute(1, 2, 0).numpy() if isinstance(image, Tensor) else np.asarray(image)).astype(int)


JPEGS = {
    "4:2:0": encoded(smooth()),
    "4:4:4": encoded(smooth(), quality=95, subsampling=0),
    "progressive": encoded(smooth(), progressive=True),
    "grey": encoded(smooth().convert("L")),
    "odd sides": encoded(smooth(33, 47)),
    "one pixel": encoded(smooth(1, 1)),
    "restart markers": encoded(smooth(), restart_marker_blocks=2),
    "rgb": encoded(smooth(), keep_rgb=True),
    "upright EXIF": encoded(smooth(), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x01\0\0\0\0\0\0"),
}
exif = Image.Exif()
exif[0x0112] = 2  # a mirror image, Pillow's transposition number 0
OF_PILLOW = {
    "mirrored": encoded(smooth(), exif=exif),
    "CMYK": encoded(smooth().convert("CMYK")),
    "PNG": encoded(smooth(), "PNG"),
    "WebP": encoded(smooth(), "WEBP"),
    "GIF": encoded(smooth(), "GIF"),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_jpeg_has_the_same_pixels_as_with_pillow(kind: str, tmp_path: Path):
    decoded = decode_for_view(row(JPEGS[kind]), "here")
    assert isinstance(decoded, Tensor)
    assert np.array_equal(levels(decoded), levels(decode_image(row(JPEGS[kind]), "here")))
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEGS[kind])
    for source in (str(path), {"bytes": None, "path": str(path)}):
        assert torch.equal(decode_for_view(source, "here"), decoded)


@pytest.mark.parametrize("kind", OF_PILLOW)
def test_all_else_is_decoded_by_pillow(kind: str):
    decoded = decode_for_view(row(OF_PILLOW[kind]), "here")
    assert isinstance(decoded, Image.Image)
    assert np.array_equal(levels(decoded), levels(decode_image(row(OF_PILLOW[kind]), "here")))


def outcome(decode, content: bytes) -> np.ndarray | str:
    try:
        return levels(decode(row(content), "here"))
    except BadImageError as error:
        return str(error)


def test_damaged_files_end_as_with_pillow():
    """Red if torchvision accepts a file that Pillow refuses, or decodes it differently."""
    generator, refused = np.random.default_rng(0), 0
    for kind in ("4:2:0", "progressive", "grey", "restart markers"):
        for number in range(60):
            content = bytearray(JPEGS[kind])
            if number % 3 == 0:
                del content[int(generator.integers(2, len(content))) :]
            for _ in range(number % 3 * 2):
                content[int(generator.integers(len(content)))] = int(generator.integers(256))
            expected, got = (outcome(decode, bytes(content)) for decode in (decode_image, decode_for_view))
            assert np.array_equal(expected, got), (kind, number)
            refused += isinstance(got, str)
    assert 60 < refused < 180


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def starts_of_segments(content: bytes) -> list[int]:
    starts = [2]
    while content[starts[-1] + 1] != 0xDA:
        starts.append(starts[-1] + 2 + int.from_bytes(content[starts[-1] + 2 : starts[-1] + 4], "big"))
    return starts


INSERTED = {
    "rotation": segment(0xE1, b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")),
    "rotation in XMP": segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<a tiff:Orientation="6"/>'),
    "several images": segment(0xE2, b"MPF\0" + b"\0" * 20),
    "Adobe": segment(0xEE, b"Adobe\0\x64\0\0\0\0\0"),
    "Adobe, cut off": segment(0xEE, b"Adobe"),
    "JFIF, cut off": segment(0xE0, b"JFIF"),
    "comment": segment(0xFE, b"hello"),
    "comment without a length": b"\xff\xfe\0\0",
    "a byte": b"\1",
    "empty table": segment(0xDB, b""),
    "short table": segment(0xDB, b"\0" * 10),
    "unknown table": segment(0xDB, b"\x0f" + b"\1" * 64),
    "second frame": segment(0xC0, bytes([8, 0, 9, 0, 9, 1, 1, 0x11, 0])),
    "frame of 12 bits": segment(0xC0, bytes([12, 0, 9, 0, 9, 1, 1, 0x11, 0])),
    "frame that is too large": segment(0xC0, bytes([8, 255, 255, 255, 255, 1, 1, 0x11, 0])),
    "frame of no pixels": segment(0xC0, bytes([8, 0, 0, 0, 9, 1, 1, 0x11, 0])),
    "short frame": segment(0xC0, bytes([8, 0, 9])),
}


@pytest.mark.parametrize("kind", INSERTED)
def test_unusual_headers_end_as_with_pillow(kind: str):
    """Red if a JPEG that Pillow rotates, refuses or decodes differently is decoded without Pillow."""
    content = JPEGS["4:2:0"]
    for start in starts_of_segments(content):
        changed = content[:start] + INSERTED[kind] + content[start:]
        expected, got = (outcome(decode, changed) for decode in (decode_image, decode_for_view))
        assert np.array_equal(expected, got), start


@pytest.mark.parametrize("limit", [90 * 120, 90 * 120 - 1, 90 * 120 // 2 - 1])
def test_limit_of_pixels_is_that_of_pillow(limit: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    expected, got = (outcome(decode, JPEGS["4:2:0"]) for decode in (decode_image, decode_for_view))
    assert np.array_equal(expected, got)
    assert isinstance(got, str) == (limit < 90 * 120)


@pytest.mark.parametrize("kind", ["4:2:0", "progressive", "grey"])
def test_usual_jpeg_is_not_opened_twice(kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "open", lambda file: pytest.fail("it takes longer than decoding a small image"))
    assert isinstance(decode_for_view(row(JPEGS[kind]), "here"), Tensor)


def view_of(crop_mode: str, size: tuple[int, int], **options):
    statistics = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    kept = {"crop_min_scale": 0.08, "horizontal_flip_prob": 0.5, "crop_mode": crop_mode}
    return training_view(size, **statistics, **{**kept, **OFF, **options})


@pytest.mark.parametrize("crop_mode", ["random_resized", "simple"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@pytest.mark.parametrize("shape", [(90, 120), (20, 900), (13, 11)])
def test_view_differs_from_pillows_by_rounding_only(crop_mode: str, size: tuple[int, int], shape: tuple[int, int]):
    view, content = view_of(crop_mode, size), encoded(smooth(*shape))
    differences = []
    for seed in range(20):
        with seeded(seed):
            pixels, _ = view(decode_for_view(row(content), "here"))
        with seeded(seed):
            expected, _ = view(decode_image(row(content), "here"))
        assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (3, *size))
        differences.append((pixels.int() - expected.int()).abs())
    assert max(int(each.max()) for each in differences) <= 3
    assert torch.stack(differences).float().mean() < 0.1


def test_random_numbers_after_the_crop_are_the_same():
    view = view_of("random_resized", (32, 32), random_erase_prob=1.0)
    content = encoded(smooth())
    erasures = []
    for decode in (decode_for_view, decode_image):
        with seeded(3):
            erasures.append(view(decode(row(content), "here"))[1])
    assert erasures[0][:2] == erasures[1][:2]
    assert torch.equal(erasures[0].noise, erasures[1].noise)


def test_size_is_width_and_height():
    assert size_of(smooth(30, 50)) == size_of(decode_for_view(row(encoded(smooth(30, 50))), "here")) == (50, 30)
