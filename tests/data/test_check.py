"""The data report."""

import logging
import random
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from deit_hf.data import check
from deit_hf.data.check import check_data, log_data_report
from deit_hf.data.contents import digest_of
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.data.sources.load import ImageParts, load_image_parts
from deit_hf.data.sources.shards import ShardedRows


def write(root: Path, **folders: list[Image.Image]) -> str:
    """Writes 0.png, 1.png, ... in the folder `part/class` for each argument `part__class`."""
    for name, images in folders.items():
        folder = root.joinpath(*name.split("__"))
        folder.mkdir(parents=True)
        for i, image in enumerate(images):
            image.save(folder / f"{i}.png")
    return str(root)


def noise(seed: int, width: int = 6, height: int = 5, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def report_of(root: str, **options) -> check.DataReport:
    return check_data(load_image_parts(DataArguments(dataset_name=root, **options)))


def test_report_says_classes_sizes_modes_and_what_was_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", logger="deit_hf")
    root = write(
        tmp_path / "d",
        train__cat=[noise(0), noise(1, 9), noise(2, mode="L")],
        train__dog=[noise(3, 7, 8)],
        train__empty=[],
        val__cat=[noise(4)],
        test__dog=[noise(5)],
    )
    for name in ("a.heic", "b.HEIC", "c.txt"):
        (tmp_path / "d" / "train" / "cat" / name).write_bytes(b"x")
    (tmp_path / "d" / "val" / "cat" / "gone.png").symlink_to("nowhere.png")
    log_data_report(report_of(root))
    logged = {record.getMessage() for record in caplog.records if record.levelno == logging.INFO}
    assert logged == {
        "The data:\n"
        "train             4 images in 2 classes (cat 3, dog 1); 4 inspected: 6 to 9 pixels wide, 5 to 8 high, "
        "RGB 3, L 1\n"
        "evaluation (val)  1 images in 1 of the 2 classes (cat 1); 1 inspected: 6 pixels wide, 5 high, RGB 1\n"
        "test              1 images in 1 of the 2 classes (dog 1); 1 inspected: 6 pixels wide, 5 high, RGB 1\n"
        "train             left out: .heic 2, .txt 1\n"
        "evaluation (val)  left out: broken links and other entries that are not files 1"
    }
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == [
        f"class folders of the train part without images, which are not used: {root}/train/empty (empty)",
        "images of the train part are left out because the installed Pillow cannot read them: .heic 2; convert them, "
        "for example to JPEG",
        "left out of the evaluation part: broken links and other entries that are not files 1",
    ]


def test_pictures_of_two_parts_are_found_by_content_and_named(tmp_path: Path):
    same = noise(0)
    root = write(
        tmp_path / "d",
        train__cat=[noise(1), same],
        train__dog=[noise(2)],
        val__cat=[same, noise(3), same],
        test__cat=[noise(3)],
    )
    report = report_of(root)
    train, val, test = (f"{root}/{part}/cat" for part in ("train", "val", "test"))
    assert report.duplicates == {
        ("train", "evaluation"): [(f"{train}/1.png", f"{val}/0.png"), (f"{train}/1.png", f"{val}/2.png")],
        ("evaluation", "test"): [(f"{val}/1.png", f"{test}/0.png")],
    }
    assert (
        "images of the evaluation part that are also in the train part: 2, such as "
        f"{val}/0.png (equal to {train}/1.png); accuracy on them is misleading, so remove them from one part"
    ) in report.warnings()


def test_duplicates_among_rows_that_hold_their_pictures_are_found(toy_rows: datasets.Dataset):
    train, evaluation = toy_rows.select(range(15)), toy_rows.select(range(10, 20))  # rows 20 to 39 repeat the first 20
    report = check_data(ImageParts(train=train, evaluation=evaluation))
    assert len(report.duplicates["train", "evaluation"]) == 5
    report = check_data(ImageParts(train=train, evaluation=toy_rows.select(range(15, 20))))
    assert report.duplicates == {}


@pytest.mark.parametrize("place", [0, 100_000, 150_000, 399_999])
def test_large_files_of_one_length_are_told_apart_by_their_bytes(tmp_path: Path, place: int):
    """Of a large file, only four blocks are read: the first, the last and two between."""
    content = bytearray(400_000)
    contents = [bytes(content), bytes(content)]
    content[place] = 1
    contents.append(bytes(content))
    digests = []
    for i, each in enumerate(contents):
        (tmp_path / str(i)).write_bytes(each)
        with open(tmp_path / str(i), "rb") as file:
            digests.append(digest_of(file))
    assert digests[0] == digests[1]
    assert (digests[0] == digests[2]) == (place == 100_000)


def test_work_is_bounded_and_the_report_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(check, "NUM_SAMPLED", 3)
    monkeypatch.setattr(check, "NUM_COMPARED", 4)
    images = [noise(i) for i in range(10)]
    root = write(tmp_path / "d", train__cat=images, train__dog=[noise(11)], val__cat=images[:1])
    opened = []
    open_image = Image.open
    monkeypatch.setattr(check.PIL.Image, "open", lambda file: opened.append(file) or open_image(file))
    report = report_of(root)
    assert len(opened) == 4
    assert [part.num_sampled for part in report.parts] == [3, 1]
    assert {Path(file).parent.name for file in opened[:3]} == {"cat", "dog"}  # spread over the rows
    assert report.num_compared == {"train": 4}
    assert "also in the train part (compared: 4 of train): 1, such as" in report.warnings()[-1]


def test_report_draws_no_random_numbers_and_leaves_the_rows_as_they_are(tmp_path: Path):
    root = write(tmp_path / "d", train__cat=[noise(0)], train__dog=[noise(1)], val__cat=[noise(2)])
    parts = load_image_parts(DataArguments(dataset_name=root))
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    fingerprint = parts.train._fingerprint
    check_data(parts)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    assert parts.train._fingerprint == fingerprint
    assert parts.train[0]["image"].size == (6, 5)


def test_pictures_that_cannot_be_opened_and_names_that_hardly_differ_are_said(tmp_path: Path):
    root = write(tmp_path / "d", train__Cat=[noise(0)], train__cat=[noise(1)])
    (tmp_path / "d" / "train" / "cat" / "1.png").write_bytes(b"not an image")
    assert report_of(root).warnings() == [
        f"images of the train part that cannot be opened: 1 of 3 inspected, such as {root}/train/cat/1.png; fix or "
        "remove them",
        "classes with nearly equal names: 'Cat', 'cat'; merge them if they are the same",
    ]


def test_other_sources_are_reported_too(toy_rows: datasets.Dataset):
    stream = ShardedRows(toy_rows.to_iterable_dataset(2), lengths=[20, 20])
    numbers = toy_rows.cast_column("label", datasets.Value("int64")).select(range(3))
    several = numbers.remove_columns("label").add_column("label", [[0, 1], [2], [3]])
    urls = datasets.Dataset.from_dict({"image": ["http://127.0.0.1:9/x.png"], "label": [0]})  # no server is contacted
    lines = [
        check_data(ImageParts(train=rows, evaluation=evaluation)).lines()
        for rows, evaluation in ((stream, numbers), (ShardedRows(stream.rows), several), (None, urls))
    ]
    assert lines[0][0] == "train       40 images"
    assert lines[0][1].startswith("evaluation  3 images in 3 classes (0 1, 1 1, 2 1); 3 inspected: ")
    assert lines[1][0] == "train       a stream"
    assert lines[1][1].startswith("evaluation  3 images; 3 inspected: ")
    assert lines[2] == ["evaluation  1 images in 1 classes (0 1)"]
    assert check_data(ImageParts(evaluation=urls)).warnings() == []


def test_two_hundred_pictures_of_a_part_are_looked_at():
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a"])})
    rows = {"image": [np.zeros((2, 2, 3), np.uint8)] * 203, "label": [0] * 203}
    report = check_data(ImageParts(train=datasets.Dataset.from_dict(rows, features=features)))
    assert report.lines()[0].startswith("train  203 images in 1 classes (a 203); 200 inspected: ")


def test_labels_without_names_are_counted_in_their_order():
    labels = [10, 2, 2, 0, None]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": [np.zeros((4, 4, 3), np.uint8)] * 5, "label": labels}
    report = check_data(ImageParts(train=datasets.Dataset.from_dict(rows, features=features)))
    assert report.lines()[0].startswith("train  5 images in 4 classes (0 1, 2 2, 10 1, None 1)")


def test_many_classes_are_counted_and_those_without_pictures_are_said():
    names = [str(i) for i in range(20)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    rows = {"image": [np.zeros((4, 4, 3), np.uint8)] * 19, "label": [*range(18), 0]}
    report = check_data(ImageParts(train=datasets.Dataset.from_dict(rows, features=features)))
    assert report.lines()[0].startswith("train  19 images in 18 of the 20 classes (1 to 2 each); 19 inspected: ")
    assert report.warnings() == [
        "classes without images in the train part: 2 (18, 19); add images, or remove these classes"
    ]
