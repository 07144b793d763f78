"""Images of all formats are decoded correctly, damaged ones are named, and training can continue without them."""

import errno
import io
import json
import multiprocessing
import os
import struct
import warnings
import zlib
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from deit_hf import DeiTForImageClassificationWithTeacher, DistillationArguments, DistillationTrainer
from deit_hf.data.bad_images import FILE_NAME, PREVIOUS_FILE_NAME, BadImageList
from deit_hf.data.dataset import EvaluationViews, ImageDataset, TrainingViews, ViewCollator
from deit_hf.data.decoding import BadImageError, decode_image, first_decodable
from deit_hf.data.mixing import Mixing
from deit_hf.data.sampling import ViewKey
from deit_hf.data.transforms import evaluation_view, middle_of, training_view
from deit_hf.hub.run_files import files_to_push
from deit_hf.model.image_processing_deit import make_processor

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
STATISTICS = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

# EXIF orientation -> function that turns the stored pixels upright
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


def image_of(images: ImageDataset, index: int) -> Image.Image:
    return first_decodable(images.rows_from(index), skip_bad_images=False)[1]


def encoded(image: Image.Image | np.ndarray, image_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes, is_sound: bool = True) -> bytes:
    checksum = zlib.crc32(kind + data) ^ (not is_sound)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(width: int, height: int, depth: int, colour: int, lines: list[bytes], extra: bytes = b"", **sound) -> bytes:
    """A handmade PNG; `colour` is 0 for grey, 2 for RGB, 4 for grey with alpha, and 6 for RGB with alpha."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0), sound.get("header", True))
    data = zlib.compress(b"".join(b"\0" + line for line in lines))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def rgb_png(extra: bytes = b"", **sound) -> bytes:
    return png(9, 6, 8, 2, [line.tobytes() for line in PIXELS], extra, **sound)


def with_orientation(number: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = number
    return encoded(PIXELS, exif=exif)


def grey(values: list[int]) -> np.ndarray:
    return np.repeat(np.array([values], np.uint8)[..., None], 3, axis=2)


def palette_with_transparency() -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    return encoded(image, transparency=1)


def animation(image_format: str) -> bytes:
    first, second = Image.new("RGB", (4, 3), (255, 0, 0)), Image.new("RGB", (4, 3), (0, 0, 255))
    options = {"lossless": True} if image_format == "WEBP" else {}
    return encoded(first, image_format, save_all=True, append_images=[second], **options)


RED = np.tile(np.array([255, 0, 0], np.uint8), (3, 4, 1))
WORDS = struct.pack(">4H", 0x0000, 0x1234, 0xABCD, 0xFFFF)  # 16 bits each; 0x00, 0x12, 0xAB and 0xFF are kept
GREY_WORDS = grey([0x00, 0x12, 0xAB, 0xFF])
GOOD = {
    "rgb": (rgb_png(), PIXELS),
    "rgba": (encoded(np.dstack([PIXELS, np.zeros((6, 9), np.uint8)])), PIXELS),  # transparent pixels have colours, too
    "grey with alpha": (encoded(Image.new("LA", (2, 1), (77, 10))), grey([77, 77])),
    "one bit": (encoded(Image.fromarray(np.array([[True, False, True]]))), grey([255, 0, 255])),
    "two bits": (png(4, 1, 2, 0, [bytes([0b00011011])]), grey([0, 85, 170, 255])),
    "palette": (palette_with_transparency(), np.array([[[10, 20, 30], [200, 100, 50]]], np.uint8)),
    "16-bit grey": (png(4, 1, 16, 0, [WORDS]), GREY_WORDS),
    "16-bit grey with alpha": (png(2, 1, 16, 4, [WORDS]), grey([0x00, 0xAB])),
    "16-bit big-endian": (encoded(np.frombuffer(WORDS, ">u2")[None], "TIFF"), GREY_WORDS),
    "16-bit rgb": (png(1, 1, 16, 2, [WORDS[2:]]), np.array([[[0x12, 0xAB, 0xFF]]], np.uint8)),
    "cmyk": (encoded(Image.new("CMYK", (2, 1), (255, 0, 0, 0)), "TIFF"), np.array([[[0, 255, 255]] * 2], np.uint8)),
    "bmp": (encoded(PIXELS, "BMP"), PIXELS),
    "tiff": (encoded(PIXELS, "TIFF"), PIXELS),
    "tiff of two pages": (
        encoded(Image.fromarray(PIXELS), "TIFF", save_all=True, append_images=[Image.new("RGB", (3, 3))]),
        PIXELS,
    ),
    "animated gif": (animation("GIF"), RED),
    "animated webp": (animation("WEBP"), RED),
    "1x1": (encoded(PIXELS[:1, :1]), PIXELS[:1, :1]),
    "20000x1": (encoded(np.tile(PIXELS[:1], (1, 2000, 1))[:, :20000]), None),
    "1x20000": (encoded(np.tile(PIXELS[:, :1], (4000, 1, 1))[:20000]), None),
    # the damage below is outside the pixels
    "broken exif": (rgb_png(chunk(b"eXIf", b"rubbish")), PIXELS),
    "exif of no known orientation": (with_orientation(9), PIXELS),
    "colour profile of rubbish": (rgb_png(chunk(b"iCCP", b"x\0\0" + zlib.compress(b"rubbish" * 9))), PIXELS),
    **{f"exif {number}": (with_orientation(number), turn(PIXELS)) for number, turn in UPRIGHT.items()},
}
JPEG = encoded(np.kron(PIXELS, np.ones((8, 8, 1), np.uint8)), "JPEG")
TEXT_OF_50_MB = b"Comment\0\0" + zlib.compress(b"A" * 50_000_000)
BAD = {
    "nothing": (b"", "is empty or not in an image format"),
    "text": (b"hello", "is empty or not in an image format"),
    "radiance": (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n\1\2\3\4", "not in an image format"),
    "cut jpeg": (JPEG[: len(JPEG) // 2], "[tT]runcated"),
    "cut png": (rgb_png()[:-60], "truncated"),
    "png with a damaged header": (rgb_png(header=False), "is empty or not in an image format"),
    "header of 10^19 pixels": (png(2**31 - 1, 2**31 - 1, 8, 2, []), "exceeds limit"),
    "header above Pillow's error": (png(20_000, 10_000, 8, 2, []), "200000000 pixels. exceeds limit"),
    "header above Pillow's warning": (png(10_000, 10_000, 8, 2, []), "100000000 pixels. exceeds limit"),
    "text that unfolds": (rgb_png(chunk(b"zTXt", TEXT_OF_50_MB)), "too large"),
    "profile that unfolds": (rgb_png(chunk(b"iCCP", TEXT_OF_50_MB)), "too large"),
    "postscript": (encoded(PIXELS, "EPS"), "PostScript"),
    "fractions": (encoded(np.array([[0.0, 0.25, 1.0]], np.float32), "TIFF"), "values are floats"),
}


def make_images(sources: list, num_classes: int = 2) -> ImageDataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    labels = [i % num_classes for i in range(len(sources))]
    rows = datasets.Dataset.from_dict({"image": sources, "label": labels}, features=features)
    return ImageDataset(rows, image_column_name="image", label_column_name="label", num_classes=num_classes)


def make_view(**options):
    options = {"crop_min_scale": 0.08, "random_augment": "rand-m9-mstd0.5-inc1", **options}
    return training_view(
        (16, 16), **STATISTICS, horizontal_flip_prob=0.5, color_jitter=0.0, random_erase_prob=0.25, **options
    )


def views_of(images: ImageDataset, row: int = 0) -> list[torch.Tensor]:
    """One training view for each crop mode, and one evaluation view for each crop."""
    views = [TrainingViews(images, make_view(**o), seed=0) for o in ({}, {"crop_mode": "simple"})]
    seen = [part[ViewKey(0, 0, row, 0)]["pixels"] for part in views]
    for crop in ("center", "squash"):
        seen.append(EvaluationViews(images, evaluation_view(make_processor(16, eval_crop=crop)))[row]["pixel_values"])
    return seen


# ---- decoding ----


@pytest.mark.parametrize("name", GOOD)
def test_picture_is_read_as_it_is_meant_and_gives_views_of_the_right_size(tmp_path: Path, name: str):
    content, expected = GOOD[name]
    path = tmp_path / "image.jpg"  # the format does not depend on the name
    path.write_bytes(content)
    images = make_images([str(path)])
    if expected is not None:
        np.testing.assert_array_equal(np.asarray(image_of(images, 0)), expected)
    for view in views_of(images):
        assert view.shape == (3, 16, 16)
        assert view.isfinite().all()


@pytest.mark.parametrize("name", BAD)
def test_bad_picture_is_an_error_that_names_row_and_file_and_never_a_warning(tmp_path: Path, name: str):
    content, reason = BAD[name]
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    images = make_images([encoded(PIXELS), str(path)])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for part, key in (
            (TrainingViews(images, make_view(), seed=0), ViewKey(0, 0, 1, 0)),
            (EvaluationViews(images, evaluation_view(make_processor(16))), 1),
        ):
            with pytest.raises(
                BadImageError, match=rf"^row 1 of the dataset \({path}\) .*{reason}.*fix or remove it$"
            ):
                part[key]
    assert not [each for each in warned if each.category is Image.DecompressionBombWarning]


def test_what_is_no_file_is_named_and_never_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")  # opening a pipe blocks until somebody writes to it
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, reason in (("pipe", "not a regular file"), ("folder.jpg", "is a directory"), ("loop", "symbolic links")):
        path = str(tmp_path / name)
        with pytest.raises(BadImageError, match=rf"^row 0 .*{name}\) is not an image .*{reason}"):
            image_of(make_images([path]), 0)
    with pytest.raises(BadImageError, match="is not a regular file"):
        decode_image("/dev/zero", "here")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission_is_named(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(PIXELS))
    path.chmod(0)
    with pytest.raises(BadImageError, match=r"a\.png\) is not an image .*Permission denied"):
        image_of(make_images([str(path)]), 0)


def test_fault_of_the_machine_is_not_the_pictures(monkeypatch: pytest.MonkeyPatch):
    def fails(error: Exception):
        def stat(path):
            raise error

        return stat

    monkeypatch.setattr(os, "stat", fails(OSError(errno.EMFILE, "Too many open files")))
    with pytest.raises(OSError, match="^.Errno 24. here .a.png. could not be read: Too many open files") as caught:
        decode_image("a.png", "here")
    assert not isinstance(caught.value, BadImageError)
    monkeypatch.setattr(os, "stat", fails(MemoryError()))
    with pytest.raises(MemoryError, match="^here .a.png.: there is too little memory"):
        decode_image("a.png", "here")


@pytest.mark.parametrize("image", [Image.fromarray(PIXELS), PIXELS, PIXELS[..., 0], PIXELS[..., 0].astype(np.uint16)])
def test_pictures_and_arrays_of_users_are_read(image):
    expected = np.asarray(image)
    if expected.dtype == np.uint16:
        expected = (expected >> 8).astype(np.uint8)
    expected = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=2)
    images = make_images([image])
    np.testing.assert_array_equal(np.asarray(image_of(images, 0)), expected)
    assert all(view.shape == (3, 16, 16) for view in views_of(images))


@pytest.mark.parametrize(
    "labels", [[0.0, 1.0], ["0", "1"], [False, True], [0, None], [None, None], [[0], [1]], [[0, 1], []]]
)
def test_labels_that_are_no_integers_are_refused(labels: list):
    rows = datasets.Dataset.from_dict({"image": ["a.png", "b.png"], "label": labels})
    with pytest.raises(
        TypeError, match="column `label` (holds .*(must be class indices|multi-label)|has rows without a label)"
    ):
        ImageDataset(rows, image_column_name="image", label_column_name="label", num_classes=2)


def test_dataset_without_labels_is_refused():
    rows = datasets.Dataset.from_dict({"image": ["a.png"]})
    with pytest.raises(ValueError, match="no column `label`, only image"):
        ImageDataset(rows, image_column_name="image", label_column_name="label", num_classes=2)


# ---- long images ----


@pytest.mark.parametrize("size", [(321, 1), (1, 400), (330, 10), (700, 3)])
def test_centre_crop_of_a_long_picture_is_that_of_the_whole(size: tuple[int, int]):
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    assert max(middle_of(image).size) < max(size)
    processor = make_processor(16, crop_ratio=0.875)
    whole = processor(image, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(evaluation_view(processor)(image), whole, rtol=0, atol=1e-5)


def test_picture_of_usual_shape_and_squashed_ones_are_not_cut():
    image = Image.fromarray(np.tile(PIXELS, (1, 100, 1))[:, : 6 * 32])  # 32 times as long as wide
    assert middle_of(image) is image
    long = Image.fromarray(np.random.default_rng(0).integers(0, 256, (2, 900, 3), dtype=np.uint8))
    squash = make_processor(16, eval_crop="squash")
    whole = squash(long, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(evaluation_view(squash)(long), whole)


# ---- the image that replaces a bad one ----

DAMAGED = (1, 4, 5, 9)  # the last one is replaced by row 0


def damaged_sources(damaged: tuple[int, ...] = DAMAGED, num: int = 10) -> list:
    """Images of one grey value each, which is ten times the row number; the damaged ones are text."""
    good = [encoded(np.full((20, 20, 3), 10 * i, np.uint8)) for i in range(num)]
    return [b"text" if i in damaged else good[i] for i in range(num)]


@pytest.mark.parametrize(
    ("start", "taken", "met"), [(0, 0, []), (1, 2, [1]), (4, 6, [4, 5]), (5, 6, [5]), (9, 0, [9])]
)
def test_next_good_picture_takes_the_place_under_the_same_epoch_position_and_repeat(start, taken, met: list[int]):
    images = make_images([{"bytes": source, "path": "x.jpg"} for source in damaged_sources()])
    row, image, bad = first_decodable(images.rows_from(start), skip_bad_images=True)
    assert row.sample == taken
    key = ViewKey(epoch=3, position=7, sample=start, repeat=2)
    assert TrainingViews(images, make_view(), seed=0, skip_bad_images=True)[key]["key"] == ViewKey(3, 7, taken, 2)
    assert np.asarray(image)[0, 0, 0] == 10 * taken
    assert [entry["row"] for entry in bad] == met
    assert all(entry["file"] == "x.jpg" and "not in an image format" in entry["reason"] for entry in bad)


def test_view_that_takes_a_place_is_the_view_of_its_own_key_with_its_own_label():
    images = make_images(damaged_sources())
    views = TrainingViews(images, make_view(), seed=0, skip_bad_images=True)
    own = TrainingViews(images, make_view(), seed=0)[ViewKey(3, 7, 6, 2)]
    taken = views[ViewKey(3, 7, 5, 2)]
    assert torch.equal(taken["pixels"], own["pixels"])
    assert (taken["labels"], taken["key"]) == (0, own["key"])


def test_pictures_that_are_all_bad_are_an_error():
    images = make_images(damaged_sources(tuple(range(10))))
    with pytest.raises(BadImageError, match="none of 10 images can be decoded; the first: row 3 of"):
        first_decodable(images.rows_from(3), skip_bad_images=True)


def test_missing_file_is_replaced_too_but_a_fault_of_the_machine_is_not(tmp_path, monkeypatch: pytest.MonkeyPatch):
    images = make_images([str(tmp_path / "none.png"), encoded(PIXELS)])
    assert first_decodable(images.rows_from(0), skip_bad_images=True)[0].sample == 1

    def stat(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(OSError, match="could not be read: Input/output error"):
        first_decodable(images.rows_from(0), skip_bad_images=True)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_bring_along_what_the_workers_found(num_workers: int):
    views = TrainingViews(make_images(damaged_sources()), make_view(), seed=0, skip_bad_images=True)
    mixing = Mixing(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5, block_size=4, seed=0)
    keys = [ViewKey(0, i, row, 0) for i, row in enumerate((0, 2, 3, 6, 1, 4, 7, 8))]
    loader = DataLoader(views, sampler=keys, batch_size=4, num_workers=num_workers, collate_fn=ViewCollator(mixing))
    first, second = loader
    assert "bad_images" not in first
    assert [entry["row"] for entry in second["bad_images"]] == [1, 4, 5]


# ---- training with bad images ----


def rows_with_bad_pictures(tmp_path: Path) -> datasets.Dataset:
    sources = damaged_sources(num=20)
    (tmp_path / "bad.jpg").write_bytes(b"text")
    sources[1] = str(tmp_path / "bad.jpg")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"image": sources, "label": [i % 5 for i in range(20)]}, features=features)


def make_trainer(output_dir: Path, rows: datasets.Dataset, config, **options) -> DistillationTrainer:
    options = {"num_train_epochs": 4, "save_strategy": "no", "on_bad_image": "skip", **options}
    args = DistillationArguments(
        str(output_dir),
        per_device_train_batch_size=8,
        repeated_augmentation=1,
        learning_rate=1e-3,
        warmup_epochs=0,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    torch.manual_seed(0)
    config.drop_path_rate = 0.0
    return DistillationTrainer(DeiTForImageClassificationWithTeacher(config), args, train_dataset=rows)


def listed(output_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (output_dir / FILE_NAME).read_text().splitlines()]


def weights_of(trainer: DistillationTrainer) -> list[torch.Tensor]:
    return list(trainer.model.state_dict().values())


def test_bad_pictures_are_listed_once_counted_and_said_whatever_the_number_of_workers(tmp_path, tiny_config, caplog):
    rows = rows_with_bad_pictures(tmp_path)
    one = make_trainer(tmp_path / "one", rows, tiny_config)
    result = one.train()
    assert result.metrics["train_bad_images"] == 4
    assert sorted(entry["row"] for entry in listed(tmp_path / "one")) == [1, 4, 5, 9]
    by_row = {entry["row"]: entry for entry in listed(tmp_path / "one")}
    assert by_row[1]["file"] == str(tmp_path / "bad.jpg")
    assert by_row[4]["file"] is None
    assert [record.message.count("is replaced by another image") for record in caplog.records].count(1) == 1
    assert "4 bad images were replaced by others" in caplog.text
    two = make_trainer(tmp_path / "two", rows, tiny_config, dataloader_num_workers=2)
    assert two.train().metrics["train_bad_images"] == 4
    assert listed(tmp_path / "two") == listed(tmp_path / "one")
    assert all(torch.equal(*pair) for pair in zip(weights_of(one), weights_of(two), strict=True))


def test_resumed_training_goes_on_with_the_list_and_gives_the_same_weights(tmp_path, tiny_config):
    rows = rows_with_bad_pictures(tmp_path)
    straight = make_trainer(tmp_path / "straight", rows, tiny_config)
    straight.train()
    options = {"save_strategy": "steps", "save_steps": 3}
    make_trainer(tmp_path / "run", rows, tiny_config, **options).train()
    path = tmp_path / "run" / FILE_NAME
    first, *rest = path.read_text().splitlines(keepends=True)
    earlier = '{"row": 77, "file": null, "reason": "met before the checkpoint alone"}\n'
    path.write_text(first + earlier + rest[0][:10])  # as if killed in the middle of a line
    resumed = make_trainer(tmp_path / "run", rows, tiny_config, **options)
    result = resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert result.metrics["train_bad_images"] == 5
    assert sorted(entry["row"] for entry in listed(tmp_path / "run")) == [1, 4, 5, 9, 77]
    assert all(torch.equal(*pair) for pair in zip(weights_of(straight), weights_of(resumed), strict=True))


def add_rows(output_dir: Path, rows: range, start) -> None:
    start.wait()
    own = BadImageList(output_dir)
    for row in rows:
        own.add([{"row": row, "file": f"{row}.png", "reason": "long enough to be torn apart " * 50}])


def test_processes_that_write_at_once_list_each_image_once_in_whole_lines(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    start = context.Barrier(4)
    processes = [context.Process(target=add_rows, args=(tmp_path, range(60), start)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(entry["row"] for entry in listed(tmp_path)) == list(range(60))


def test_training_that_starts_anew_puts_the_old_list_aside(tmp_path, tiny_config):
    rows = rows_with_bad_pictures(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / FILE_NAME).write_text('{"row": 99, "file": null, "reason": "old"}\n')
    assert make_trainer(tmp_path / "run", rows, tiny_config).train().metrics["train_bad_images"] == 4
    assert "old" in (tmp_path / "run" / PREVIOUS_FILE_NAME).read_text()
    assert all(entry["reason"] != "old" for entry in listed(tmp_path / "run"))


def test_without_skip_a_bad_picture_ends_the_training(tmp_path, tiny_config):
    trainer = make_trainer(tmp_path / "run", rows_with_bad_pictures(tmp_path), tiny_config, on_bad_image="error")
    with pytest.raises(BadImageError, match="^row . of the dataset"):
        trainer.train()
    assert not (tmp_path / "run" / FILE_NAME).exists()


def test_evaluation_replaces_nothing(tmp_path, tiny_config):
    rows = rows_with_bad_pictures(tmp_path)
    trainer = make_trainer(tmp_path / "run", rows, tiny_config)
    with pytest.raises(BadImageError, match=r"^row 1 of the dataset .*bad\.jpg"):
        trainer.evaluate(rows)


def test_training_without_bad_pictures_counts_none_and_leaves_no_list(tmp_path, tiny_config, toy_rows):
    assert make_trainer(tmp_path / "run", toy_rows, tiny_config).train().metrics["train_bad_images"] == 0
    assert not (tmp_path / "run" / FILE_NAME).exists()


def test_unknown_choice_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="`on_bad_image` is 'ignore', but must be one of error, skip"):
        DistillationArguments(str(tmp_path), on_bad_image="ignore")


def test_list_stays_on_this_machine(tmp_path: Path):
    model = ["config.json", "preprocessor_config.json", "model.safetensors"]
    for name in (*model, FILE_NAME, PREVIOUS_FILE_NAME):
        (tmp_path / name).write_text("{}")
    assert files_to_push(tmp_path) == model  # the lists hold paths
