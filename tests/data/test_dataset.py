"""Views are pure functions of their keys, images of all formats are decoded, and errors name bad rows."""

import io
import random
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from deit_hf.data.dataset import EvaluationViews, ImageDataset, TrainingViews, ViewCollator, seeded
from deit_hf.data.decoding import decode_image, first_decodable
from deit_hf.data.finishing import PixelFinisher
from deit_hf.data.mixing import Mixing
from deit_hf.data.sampling import ViewKey
from deit_hf.data.transforms import evaluation_view, training_view
from deit_hf.model.image_processing_deit import make_processor

KEYS = [ViewKey(epoch, i, i % 4, repeat) for epoch in (0, 1) for repeat in (0, 1) for i in range(4)]


def make_rows(labels=(0, 1, 2, 0), label_type=None, images=None) -> datasets.Dataset:
    """Rows with images of one grey value each, which is ten times the row number."""
    images = [np.full((20, 24, 3), 10 * i, np.uint8) for i in range(len(labels))] if images is None else images
    label_type = datasets.ClassLabel(names=["ant", "bee", "cat"]) if label_type is None else label_type
    features = datasets.Features({"image": datasets.Image(), "label": label_type})
    return datasets.Dataset.from_dict({"image": images, "label": list(labels)}, features=features)


def image_of(images: ImageDataset, index: int) -> Image.Image:
    return first_decodable(images.rows_from(index), skip_bad_images=False)[1]


def make_images(rows: datasets.Dataset, num_classes: int = 3, **columns) -> ImageDataset:
    columns = {"image_column_name": "image", "label_column_name": "label", **columns}
    return ImageDataset(rows, num_classes=num_classes, **columns)


def noise_rows() -> datasets.Dataset:
    """Four rows with the same noise, so that two views differ only by their random numbers."""
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    return make_rows(images=[image] * 4)


def make_views(seed: int = 0) -> TrainingViews:
    view = training_view(
        (16, 16),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        crop_min_scale=0.08,
        horizontal_flip_prob=0.5,
        random_augment="rand-m9-mstd0.5-inc1",
        color_jitter=0.0,
        random_erase_prob=0.25,
    )
    return TrainingViews(make_images(noise_rows()), view, seed=seed)


def encoded(image: Image.Image, image_format: str, **options) -> dict:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def colours(image: Image.Image) -> list[tuple[int, ...]]:
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


def grey_values(image: Image.Image) -> list[int]:
    assert image.mode == "RGB"
    pixels = np.asarray(image)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0].ravel().tolist()


# ---- views are functions of their keys ----


def test_views_do_not_depend_on_their_order_or_on_what_was_drawn_before():
    in_order = {key: make_views()[key]["pixels"] for key in KEYS}
    views = make_views()
    for key in reversed(KEYS):
        random.random()
        np.random.rand()
        torch.rand(3)
        assert torch.equal(views[key]["pixels"], in_order[key]), key


@pytest.mark.parametrize("num_workers", [1, 2])
def test_views_are_the_same_in_any_number_of_workers(num_workers: int):
    loader = DataLoader(make_views(), sampler=KEYS, batch_size=3, num_workers=num_workers, collate_fn=list)
    loaded = [view for batch in loader for view in batch]
    assert [view["key"] for view in loaded] == KEYS
    expected = make_views()
    assert all(torch.equal(view["pixels"], expected[view["key"]]["pixels"]) for view in loaded)


@pytest.mark.parametrize("part", ["seed", "epoch", "sample", "repeat"])
def test_each_part_of_the_key_gives_another_view_of_the_same_picture(part: str):
    # if the seed leaves out a part of the key, views are repeated in other epochs, images or repeats
    key = ViewKey(epoch=2, position=0, sample=1, repeat=1)
    same, other = make_views(), make_views(seed=1) if part == "seed" else make_views()
    other_key = key if part == "seed" else key._replace(**{part: 3})
    assert not torch.equal(same[key]["pixels"], other[other_key]["pixels"])


def test_position_in_the_epoch_does_not_change_a_view():
    key = ViewKey(epoch=2, position=0, sample=1, repeat=1)
    views = make_views()
    assert torch.equal(views[key]["pixels"], views[key._replace(position=7)]["pixels"])


def global_states() -> list:
    numpy_state = np.random.get_state()
    return [random.getstate(), numpy_state[1].tolist(), numpy_state[2:], torch.get_rng_state().tolist()]


def test_global_random_numbers_go_on_as_if_no_view_had_been_drawn():
    before = global_states()
    make_views()[KEYS[0]]
    assert global_states() == before


def test_global_random_numbers_go_on_after_a_view_that_fails():
    before = global_states()

    def broken_view(image: Image.Image) -> torch.Tensor:
        torch.rand(1), np.random.rand(), random.random()
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        TrainingViews(make_images(make_rows()), broken_view, seed=0)[KEYS[0]]
    assert global_states() == before


@pytest.mark.parametrize("entropy", [(0,), (3, 0, 1), (2**32 - 1, 5), (2**32, 5), (2**40, 2)])
def test_seeds_are_those_of_numpys_sequence_of_integers(entropy: tuple[int, ...]):
    words = np.random.SeedSequence(entropy).generate_state(4)
    with seeded(*entropy):
        drawn = random.random(), torch.initial_seed()
    assert drawn == (random.Random(int(words[0]) << 32 | int(words[1])).random(), int(words[3]))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_views_of_a_batch_are_those_one_by_one(num_workers: int):
    views = make_views()
    keys = [ViewKey(1, place, place % 4, place // 4) for place in range(40)]  # more rows than are read in one call
    loader = DataLoader(views, sampler=keys, batch_size=20, num_workers=num_workers, collate_fn=list)
    batches = list(loader)
    for key, view in zip(keys, [view for batch in batches for view in batch], strict=True):
        alone = views[key]
        assert torch.equal(view["pixels"], alone["pixels"])
        assert (view["key"], view["labels"]) == (key, alone["labels"]) == (alone["key"], view["labels"])
        assert view["seconds"] > 0


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(1).item()])
def test_seeded_reaches_every_stream_that_transforms_draw_from(draw):
    def drawn(*entropy: int) -> float:
        with seeded(*entropy):
            return draw()

    assert drawn(1, 2) == drawn(1, 2)
    assert len({drawn(1, 2), drawn(2, 1), drawn(1, 2, 3), drawn(2**40, 2)}) == 4


# ---- images of all formats ----


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGB", (1, 1), (200, 100, 50)), (200, 100, 50)),
        (Image.new("L", (3, 2), 77), (77, 77, 77)),
        (Image.new("1", (3, 2), 1), (255, 255, 255)),
        # transparency is dropped, as in the official loader: the stored colour stays
        (Image.new("LA", (3, 2), (77, 10)), (77, 77, 77)),
        (Image.new("RGBA", (3, 2), (200, 100, 50, 0)), (200, 100, 50)),
        (Image.new("CMYK", (3, 2), (255, 0, 0, 0)), (0, 255, 255)),
        (Image.new("I", (3, 2), 77), (77, 77, 77)),
    ],
    ids=lambda value: getattr(value, "mode", ""),
)
def test_every_mode_becomes_rgb(image: Image.Image, expected: tuple[int, int, int]):
    image_format = "TIFF" if image.mode in ("CMYK", "I") else "PNG"
    decoded = decode_image(encoded(image, image_format), "here")
    assert (decoded.mode, decoded.size) == ("RGB", image.size)
    assert colours(decoded) == [expected] * (image.width * image.height)


def test_palette_with_transparency_keeps_its_colours():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    decoded = decode_image(encoded(image, "PNG", transparency=1), "here")
    assert colours(decoded) == [(10, 20, 30), (200, 100, 50)]


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_grey_of_16_bits_is_scaled_and_not_clipped_to_white(image_format: str):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257  # 0..65535
    image = Image.fromarray(values)
    assert image.mode == "I;16"
    for source in (encoded(image, image_format), image):
        assert grey_values(decode_image(source, "here")) == list(range(256))


@pytest.mark.parametrize(
    "values",
    [np.array([[0, 256]], np.int32), np.array([[-1, 3]], np.int32), np.array([[0.0, 0.5]], np.float32)],
)
def test_grey_values_that_are_no_bytes_are_refused(values: np.ndarray):
    refused = r"here is not an image .* floats or outside of \[0, 255\]; store 8-bit or 16-bit integers"
    for source in (encoded(Image.fromarray(values), "TIFF"), Image.fromarray(values)):
        with pytest.raises(ValueError, match=refused):
            decode_image(source, "here")


def test_exif_rotation_is_applied():
    image = Image.new("RGB", (4, 2), "red")
    image.paste("blue", (2, 0, 4, 2))  # red left, blue right
    exif = Image.Exif()
    exif[0x0112] = 6  # displayed rotated clockwise by 90 degrees: left becomes top
    decoded = decode_image(encoded(image, "PNG", exif=exif), "here")
    assert decoded.size == (2, 4)
    assert decoded.getpixel((0, 0)) == decoded.getpixel((1, 1)) == (255, 0, 0)
    assert decoded.getpixel((0, 2)) == decoded.getpixel((1, 3)) == (0, 0, 255)


def test_bytes_path_and_picture_are_read_alike(tmp_path: Path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))
    path = str(tmp_path / "a.png")
    image.save(path)
    for source in (encoded(image, "PNG"), {"bytes": None, "path": path}, path, image):
        assert decode_image(source, "here").tobytes() == image.tobytes()


class _ImageServer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/a.png" else 404)
        self.end_headers()
        self.wfile.write(encoded(Image.new("RGB", (3, 2), "red"), "PNG")["bytes"] if self.path == "/a.png" else b"no")

    def log_message(self, *args: object) -> None:
        """Logs nothing."""


def test_url_is_fetched_and_a_bad_one_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), _ImageServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        assert colours(decode_image(f"{base}/a.png", "here")) == [(255, 0, 0)] * 6
        with pytest.raises(
            ValueError, match=rf"^here \({base}/b.png\) could not be fetched: HTTP Error 404: Not Found"
        ):
            decode_image(f"{base}/b.png", "here")
        server.shutdown()
    refused = rf"^here \({base}/a.png\) could not be fetched: .*Connection refused.*; check the address"
    with pytest.raises(ValueError, match=refused):
        decode_image(f"{base}/a.png", "here")
    with pytest.raises(ValueError, match=r"^here \(http://\[x\) could not be fetched: .*; check the address"):
        decode_image("http://[x", "here")


# ---- images that cannot be decoded ----


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_unreadable_files_are_named_in_one_line(tmp_path: Path):
    jpeg = encoded(Image.new("RGB", (64, 64)), "JPEG")["bytes"]
    contents = {"empty.jpg": b"", "text.jpg": b"hello", "cut.jpg": jpeg[: len(jpeg) // 2]}
    for name, content in contents.items():
        path = write(tmp_path / name, content)
        for source in ({"bytes": None, "path": path}, {"bytes": content, "path": path}):
            with pytest.raises(ValueError, match="fix or remove it$") as caught:
                decode_image(source, "row 3 of the dataset")
            assert str(caught.value).startswith(f"row 3 of the dataset ({path}) is ")
            assert "\n" not in str(caught.value)
            assert "0x" not in str(caught.value)  # no object's address in the message


def test_missing_file_is_said_to_be_missing(tmp_path: Path):
    path = str(tmp_path / "none.jpg")
    for source in ({"bytes": None, "path": path}, path):
        with pytest.raises(FileNotFoundError, match=r"^row 3 \(.*none.jpg\): there is no such file$"):
            decode_image(source, "row 3")
    with pytest.raises(FileNotFoundError, match=r"^[^ ]*none.jpg: there is no such file$"):
        decode_image(path, path)


@pytest.mark.parametrize("source", [None, {"bytes": None, "path": None}, 5, [[1, 2], [3, 4]]])
def test_row_without_a_picture_is_named(source: object):
    with pytest.raises(ValueError, match="row 3 is not an image .* must hold an image, a path or a URL"):
        decode_image(source, "row 3")


def test_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch):
    bomb = encoded(Image.new("RGB", (50, 50)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="row 3 is not an image .*2500 pixels.* exceeds limit"):
        decode_image(bomb, "row 3")


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF"])
def test_whatever_a_decoder_stumbles_on_becomes_an_error_that_names_the_row(image_format: str):
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    content = np.frombuffer(encoded(image, image_format)["bytes"], np.uint8)
    messages = []
    for _ in range(60):  # decoders raise OSError, SyntaxError, RuntimeError, ..., or nothing
        damaged = content.copy()
        damaged[generator.integers(0, min(300, len(content)), 8)] = generator.integers(0, 256, 8)
        try:
            decode_image({"bytes": damaged.tobytes(), "path": None}, "row 3")
        except ValueError as error:
            messages.append(str(error))
    assert messages
    assert all(message.startswith("row 3 is ") for message in messages)


# ---- rows ----


@pytest.mark.parametrize("output_format", [None, "torch", "numpy", "arrow", "pandas"])
def test_rows_are_read_whatever_their_format(output_format: str | None):
    images = make_images(make_rows().with_format(output_format))
    assert grey_values(image_of(images, 2))[0] == 20
    assert images.labels.tolist() == [0, 1, 2, 0]


def test_a_users_transform_is_refused_and_a_format_changes_nothing():
    rows = make_rows().with_transform(lambda batch: {"image": [None] * len(batch["image"])})
    with pytest.raises(ValueError, match=r"has a transform .*`dataset.with_format\(None\)`"):
        make_images(rows)
    images = make_images(make_rows().with_format("numpy"))
    assert grey_values(image_of(images, 3))[0] == 30
    assert images.labels.tolist() == [0, 1, 2, 0]


def test_selected_rows_keep_picture_and_label_together():
    # the label column and the image column are read separately, so each must follow the selection
    images = make_images(make_rows().select([3, 2, 1]))
    assert len(images) == 3
    assert [grey_values(image_of(images, i))[0] for i in range(3)] == [30, 20, 10]
    assert images.labels.tolist() == [0, 2, 1]


def test_undecodable_row_is_named_by_its_number(tmp_path: Path):
    path = write(tmp_path / "bad.jpg", b"hello")
    rows = datasets.Dataset.from_dict({"image": [path], "label": [0]}).cast_column("image", datasets.Image())
    with pytest.raises(ValueError, match=r"row 0 of the dataset \(.*bad.jpg\)"):
        image_of(make_images(rows), 0)


@pytest.mark.parametrize("kind", ["dict", "dictionary of splits", "stream"])
def test_something_that_is_no_map_style_dataset_is_refused(kind: str):
    rows = make_rows()
    others = {
        "dict": rows.to_dict(),
        "dictionary of splits": datasets.DatasetDict(train=rows),
        "stream": rows.to_iterable_dataset(),
    }
    with pytest.raises(TypeError, match="must be a `datasets.Dataset`"):
        make_images(others[kind])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"image_column_name": "img"},
            "no column `img`, only image, label; name the columns with `image_column_name`",
        ),
        ({"label_column_name": "fine"}, "no column `fine`, only image, label"),
    ],
)
def test_missing_column_is_named_with_those_there(columns: dict, message: str):
    with pytest.raises(ValueError, match=message):
        make_images(make_rows(), **columns)


def test_dataset_without_rows_is_refused():
    with pytest.raises(ValueError, match="no rows; check the split"):
        make_images(make_rows().select([]))


@pytest.mark.parametrize(
    ("labels", "label_type"),
    [
        ([0.0, 1.0], datasets.Value("float32")),
        (["a", "b"], datasets.Value("string")),
        ([True, False], datasets.Value("bool")),
    ],
)
def test_labels_that_are_no_integers_are_refused_with_a_way_out(labels: list, label_type: object):
    message = (
        r"column `label` holds .*the same list for every split: `dataset.cast_column\('label', datasets.ClassLabel"
    )
    with pytest.raises(TypeError, match=message):
        make_images(make_rows(labels, label_type))


def test_rows_without_a_label_are_refused():
    with pytest.raises(TypeError, match="column `label` has rows without a label; remove them"):
        make_images(make_rows([0, None], datasets.Value("int64")))


def test_several_labels_of_a_training_image_are_refused():
    with pytest.raises(TypeError, match=r"column `label` holds List.*several labels for each image \(multi-label\)"):
        make_images(make_rows([[0], [1]], LABEL_LISTS))


def test_labels_become_the_models_and_what_fills_up_stays():
    images = make_images(make_rows([1, 0, 1], datasets.Value("int64")), num_classes=9, label_indices=(7, 2))
    assert images.labels.tolist() == [2, 7, 2]
    several = make_images(make_rows([[0, 1], [1]], LABEL_LISTS), several_labels=True, label_indices=(7, 2))
    assert several.labels.tolist() == [[7, 2], [2, -1]]
    with pytest.raises(ValueError, match="row 0 has label 2, but there are 2 classes"):
        make_images(make_rows([2], datasets.Value("int64")), label_indices=(7, 2))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [0, -1, 2],
            r"row 1 has label -1, but there are 3 classes, so labels must be in \[0, 2\] \(1 such rows\)",
        ),
        ([0, 3, 4], r"row 1 has label 3, .*\(2 such rows\)"),
    ],
)
def test_first_label_outside_the_classes_is_named(labels: list[int], message: str):
    with pytest.raises(ValueError, match=message):
        make_images(make_rows(labels, datasets.Value("int64")))


LABEL_LISTS = datasets.List(datasets.Value("int64"))


def test_rows_of_an_evaluation_may_have_several_right_labels():
    images = make_images(make_rows([[2, 0, 2], [1], [0, 1], [2]], LABEL_LISTS), several_labels=True)
    assert images.labels.tolist() == [[0, 2], [1, -1], [0, 1], [2, -1]]
    views = EvaluationViews(images, evaluation_view(make_processor(16)))
    batch = ViewCollator(make_mixing())([views[0], views[3]])
    assert batch["labels"].tolist() == [[0, 2], [2, -1]]
    assert batch["labels"].dtype == torch.int64


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0], [1, 3]], r"row 1 has label 3, but there are 3 classes"),
        ([[0, -1], [1]], r"row 0 has label -1, .*\(1 such rows\)"),
        ([[0], []], r"row 1 has labels \[\]; remove rows without labels"),
        ([None, [1]], "row 0 has labels None; remove"),
        ([[0, None], [1]], r"row 0 has labels \[0, None\]; remove"),
    ],
)
def test_label_lists_outside_the_classes_are_named(labels: list, message: str):
    with pytest.raises(ValueError, match=message):
        make_images(make_rows(labels, LABEL_LISTS), several_labels=True)


def test_lists_of_names_are_no_labels():
    with pytest.raises(TypeError, match="column `label` holds .*, but labels must be class indices"):
        make_images(make_rows([["a"]], datasets.List(datasets.Value("string"))), several_labels=True)


def test_evaluation_views_are_the_processors_pixels_of_each_row():
    processor = make_processor(16)
    views = EvaluationViews(make_images(noise_rows()), evaluation_view(processor))
    assert len(views) == 4
    expected = processor(noise_rows()[1]["image"], return_tensors="pt")["pixel_values"][0]
    assert torch.equal(views[1]["pixel_values"], expected)
    assert views[1]["labels"] == 1


# ---- batches ----


def make_mixing(mixup_alpha: float = 0.8, cutmix_alpha: float = 1.0) -> Mixing:
    return Mixing(mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha, switch_prob=0.5, block_size=2, seed=0)


def training_batch(first: int = 4) -> list[dict]:
    """Four views at consecutive positions of epoch 3."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8, generator=generator)
    of_all: dict = {"erasure": None, "bad_images": [], "seconds": 0.5}
    return [
        {"pixels": pixels[i], "labels": np.int64(i % 3), "key": ViewKey(3, first + i, i, 0), **of_all}
        for i in range(4)
    ]


def finished(batch: dict) -> torch.Tensor:
    """The pixels of a batch, in [0, 1]."""
    return PixelFinisher((0.0,) * 3, (1.0,) * 3)(batch["pixels"], batch["erasures"], batch.get("mixes", ()))


def test_collator_mixes_by_epoch_and_position_and_leaves_labels_alone():
    batch = ViewCollator(make_mixing())(training_batch())
    views = torch.stack([view["pixels"] for view in training_batch()])
    pixel_values, mix_ratios = make_mixing()(views / 255, 3, range(4, 8))
    assert torch.equal(batch["pixels"], views)  # mixed on the device
    assert torch.equal(finished(batch), pixel_values)
    assert torch.equal(batch["mix_ratios"], mix_ratios)
    assert not torch.equal(pixel_values, views / 255)
    assert (batch["epoch"], batch["positions"], batch["seconds"]) == (3, [4, 5, 6, 7], 2.0)
    assert batch["labels"].tolist() == [0, 1, 2, 0]
    assert batch["labels"].dtype == torch.int64


def test_collator_without_mixing_only_stacks():
    batch = ViewCollator(None)(training_batch())
    assert not {"mixes", "mix_ratios"} & set(batch)
    assert torch.equal(finished(batch), torch.stack([view["pixels"] for view in training_batch()]) / 255)


def test_evaluation_views_are_never_mixed():
    views = [{"pixel_values": view["pixels"] / 255, "labels": view["labels"]} for view in training_batch()]
    batch = ViewCollator(make_mixing())(views)
    assert set(batch) == {"pixel_values", "labels"}
    assert torch.equal(batch["pixel_values"], torch.stack([view["pixel_values"] for view in views]))
