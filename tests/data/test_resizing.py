"""What a stored image is: resized pixels, or the original bytes."""

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from deit_hf.data.decoding import decode_image
from deit_hf.data.resizing import StoredImage, portable, stored_image, typical_short_side


def encoded(size: tuple[int, int], format_: str = "JPEG", *, mode: str = "RGB", **options) -> bytes:
    """A smooth image with noise, so that it neither compresses to nothing nor looks like noise."""
    generator = np.random.default_rng(0)
    coarse = PIL.Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    image, buffer = coarse.resize(size, PIL.Image.Resampling.BICUBIC).convert(mode), io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def stored(content: bytes | None, path: str | None = None, short_side: int = 64) -> StoredImage:
    return stored_image({"bytes": content, "path": path}, "row 3", short_side=short_side, quality=92)


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(decode_image({"bytes": content, "path": None}, ""), dtype=np.int64)


@pytest.mark.parametrize(("size", "expected"), [((200, 120), (107, 64)), ((90, 300), (64, 213)), ((65, 65), (64, 64))])
def test_short_side_is_the_given_one_and_the_shape_stays(size: tuple[int, int], expected: tuple[int, int]):
    content = encoded(size, "PNG")
    image = stored(content)
    assert image.kind == "resized"
    assert image.content is not None
    with PIL.Image.open(io.BytesIO(image.content)) as opened:
        assert (opened.format, opened.size) == ("JPEG", expected)
    with PIL.Image.open(io.BytesIO(content)) as opened:
        oracle = np.asarray(opened.resize(expected, PIL.Image.Resampling.BICUBIC), dtype=np.int64)
    assert np.abs(pixels(image.content) - oracle).mean() < 3


@pytest.mark.parametrize(
    "content",
    [
        encoded((64, 90)),
        encoded((40, 30), "PNG"),
        encoded((64, 64), "BMP"),
        encoded((300, 10)),
        encoded((70, 70), quality=5),  # small: a JPEG of quality 92 would be larger
    ],
    ids=["short side is equal", "small PNG", "BMP", "long and thin", "strongly compressed"],
)
def test_original_bytes_stay(content: bytes):
    image = stored(content, "a/b.jpg")
    assert image == StoredImage(content, "a/b.jpg", len(content), "kept")


def test_resized_image_is_upright_as_the_training_sees_it():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    turned = stored(encoded((200, 100), quality=95, exif=exif.tobytes()))
    assert turned.content is not None
    assert pixels(turned.content).shape == (128, 64, 3)
    expected = np.rot90(pixels(stored(encoded((200, 100), quality=95)).content or b""), k=-1)
    assert np.abs(pixels(turned.content) - expected).mean() < 3
    with PIL.Image.open(io.BytesIO(turned.content)) as opened:
        assert opened.getexif().get(0x0112) is None  # or it would be rotated again


@pytest.mark.parametrize("mode", ["CMYK", "RGBA", "L", "I;16"])
def test_other_modes_become_what_the_training_sees(mode: str):
    if mode == "I;16":
        buffer = io.BytesIO()
        levels = np.random.default_rng(0).integers(0, 2**16, (100, 100), dtype=np.uint16)
        PIL.Image.fromarray(levels).save(buffer, "PNG")
        content = buffer.getvalue()
    else:
        content = encoded((100, 100), "TIFF", mode=mode)
    image = stored(content)
    assert image.kind == "resized"
    seen = decode_image({"bytes": content, "path": None}, "").resize((64, 64), PIL.Image.Resampling.BICUBIC)
    assert np.abs(pixels(image.content or b"") - np.asarray(seen, dtype=np.int64)).mean() < 5


def test_bad_images_keep_their_bytes_and_name_the_row_and_the_file(tmp_path: Path):
    damaged = encoded((200, 200))[:-300]
    assert stored(damaged, "x/bad.jpg")._replace(fault="") == StoredImage(damaged, "x/bad.jpg", len(damaged), "bad")
    assert "row 3 (x/bad.jpg) is not an image that can be decoded" in stored(damaged, "x/bad.jpg").fault
    small = encoded((20, 20))[:-300]  # would not be resized, and is bad all the same
    assert stored(small).kind == "bad"
    (tmp_path / "text.jpg").write_text("no image")
    on_disk = stored(None, str(tmp_path / "text.jpg"))
    assert (on_disk.content, on_disk.path, on_disk.kind) == (b"no image", f"{tmp_path.name}/text.jpg", "bad")
    missing = stored(None, str(tmp_path / "missing.jpg"))
    assert (missing.content, missing.path, missing.num_bytes) == (None, str(tmp_path / "missing.jpg"), 0)
    assert "there is no such file" in missing.fault


@pytest.mark.parametrize("format_", ["JPEG", "GIF"])
def test_resized_image_has_no_comment(format_: str):
    """Fails if the comment is kept; that of a GIF can be longer than a JPEG's may be, and would end the command."""
    image = stored(encoded((300, 200), format_, comment=b"by Jane " * (10_000 if format_ == "GIF" else 1)))
    assert image.kind == "resized"
    assert b"by Jane" not in (image.content or b"")


def test_paths_hold_no_folders_of_this_machine():
    assert portable("/home/me/photos/cat/1.jpg") == "cat/1.jpg"
    assert portable("https://example.org/x/cat/1.jpg") == "cat/1.jpg"
    assert [portable(path) for path in ("train/cat/1.jpg", None)] == ["train/cat/1.jpg", None]


def test_typical_short_side_is_read_from_headers_and_ignores_what_cannot_be_opened(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(encoded((50, 90)))
    sources = [{"bytes": encoded((70, 60)), "path": None}, {"bytes": None, "path": str(tmp_path / "a.jpg")}]
    sources += [{"bytes": encoded((40, 80)), "path": None}, {"bytes": b"bad", "path": None}]
    assert typical_short_side([*sources, "https://example.org/x.jpg"]) == 50
    assert typical_short_side(sources[3:]) is None
