"""Prepared data has the same rows as its source, and exists completely or not at all."""

import errno
import io
import os
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
from filelock import FileLock

from deit_hf.data import prepare, shard_files
from deit_hf.data.prepare import PrepareOptions, prepare_images
from deit_hf.data.prepare_report import Estimate, Gain
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.data.sources.load import ImageParts, load_image_parts

SIZES = [(120, 90), (30, 40), (70, 200)]


def jpeg(index: int) -> bytes:
    buffer = io.BytesIO()
    coarse = np.random.default_rng(index).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    PIL.Image.fromarray(coarse).resize(SIZES[index % 3], PIL.Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=98)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(prepare, "TIMED_SECONDS", 0.05)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for part, count in (("train", 7), ("val", 3), ("test", 2)):
        for place, name in enumerate(("10", "9")):  # the order of the classes is by number only if there are all
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for i in range(count):
                (tmp_path / "photos" / part / name / f"{i}.jpg").write_bytes(jpeg(2 * i + place))
    return tmp_path / "photos"


def write(source: Path | str, target: Path, *, workers: int = 0, **options) -> Gain:
    given = {"short_side": 64, "num_workers": workers, **options}
    parts = load_image_parts(DataArguments(dataset_name=str(source)))
    return prepare_images(parts, PrepareOptions(str(target), **given), sources=[source])


def rows_of(data: Path) -> dict[str, datasets.Dataset]:
    parts = load_image_parts(DataArguments(dataset_name=str(data)))
    return {"train": parts.train, "evaluation": parts.evaluation, "test": parts.test}  # type: ignore[dict-item]


@pytest.mark.parametrize("workers", [0, 2])
def test_prepared_folders_have_the_same_rows_labels_and_parts(folders: Path, tmp_path: Path, workers: int):
    gain = write(folders, tmp_path / "small", workers=workers)
    before, after = rows_of(folders), rows_of(tmp_path / "small")
    assert gain.rows == {"train": 14, "validation": 6, "test": 4}
    for part, rows in before.items():
        assert after[part]["label"] == rows["label"]
        assert after[part].features["label"] == rows.features["label"]
        for first, second in zip(rows["image"], after[part]["image"], strict=True):
            assert min(second.size) == min(64, min(first.size))
            difference = np.asarray(first.resize(second.size, PIL.Image.Resampling.BICUBIC)).astype(int) - second
            assert np.abs(difference).mean() < 4  # the same image
    files = after["train"].cast_column("image", datasets.Image(decode=False))["image"]
    assert [file["path"] for file in files][:2] == ["10/0.jpg", "10/1.jpg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "photos", "small"]
    assert gain.num_resized + gain.num_kept == 24
    assert gain.bytes_after < gain.bytes_before
    assert gain.views_before > 0
    assert gain.views_after > 0


def test_other_columns_their_types_and_the_order_of_rows_stay(tmp_path: Path):
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "picture": datasets.Image(),
            "tags": datasets.List(datasets.Value("int32")),
            "class": datasets.ClassLabel(names=["b", "a"]),
            "mask": datasets.Image(),
        }
    )
    image = [{"bytes": jpeg(i), "path": f"{i}.jpg"} for i in range(30)]
    columns = {"id": [f"n{i}" for i in range(30)], "picture": image, "tags": [[i] * (i % 3) for i in range(30)]}
    columns |= {"class": [i % 2 for i in range(30)], "mask": image}
    rows = datasets.Dataset.from_dict(columns, features=features).shuffle(seed=1)  # an indirect order
    options = PrepareOptions(str(tmp_path / "small"), short_side=64, num_workers=0)
    prepare_images(ImageParts(train=rows), options, image_column_name="picture")
    after = datasets.load_dataset(str(tmp_path / "small"), split="train")
    assert after.features == features
    assert after.column_names == rows.column_names
    for name in ("id", "tags", "class"):
        assert after[name] == rows[name]
    undecoded = [each.cast_column("mask", datasets.Image(decode=False))["mask"] for each in (rows, after)]
    assert undecoded[0] == undecoded[1]
    for first, second in zip(rows["picture"], after["picture"], strict=True):
        assert min(second.size) == min(64, min(first.size))


def test_a_column_of_paths_becomes_one_of_images(folders: Path, tmp_path: Path):
    paths = sorted(map(str, folders.rglob("train/*/*.jpg")))
    rows = datasets.Dataset.from_dict({"image": paths, "label": [0] * len(paths)})
    prepare_images(ImageParts(train=rows), PrepareOptions(str(tmp_path / "small"), short_side=64, num_workers=0))
    after = datasets.load_dataset(str(tmp_path / "small"), split="train")
    assert [min(image.size) for image in after["image"]] == [min(64, min(PIL.Image.open(path).size)) for path in paths]


def test_shards_are_cut_by_size_and_counted_in_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shard_files, "ROWS_PER_GROUP", 8)
    rows = datasets.Dataset.from_dict({"image": [{"bytes": jpeg(1) + bytes(150_000), "path": None}] * 40})
    rows = rows.cast_column("image", datasets.Image())
    prepare_images(ImageParts(train=rows), PrepareOptions(str(tmp_path / "small"), shard_size=1, num_workers=0))
    names = sorted(path.name for path in (tmp_path / "small").iterdir())
    assert names == [f"train-0000{i}-of-00005.parquet" for i in range(5)]
    assert len(datasets.load_dataset(str(tmp_path / "small"), split="train")) == 40


def test_only_test_part_stays_the_test_part(tmp_path: Path, folders: Path):
    (folders / "val").rename(tmp_path / "elsewhere")
    assert write(folders, tmp_path / "small").rows == {"train": 14, "test": 4}
    assert load_image_parts(DataArguments(dataset_name=str(tmp_path / "small"))).evaluation_is_test


def test_held_out_part_is_that_of_the_originals(tmp_path: Path, folders: Path):
    for part in ("val", "test"):
        (folders / part).rename(tmp_path / part)
    parts = load_image_parts(DataArguments(dataset_name=str(folders), train_val_split=0.3))
    options = PrepareOptions(str(tmp_path / "small"), short_side=64, num_workers=0)
    assert prepare_images(parts, options).rows == {"train": len(parts.train), "validation": len(parts.evaluation)}  # type: ignore[arg-type]
    assert rows_of(tmp_path / "small")["evaluation"]["label"] == parts.evaluation["label"]  # type: ignore[index]


# ---- bad images ----


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_image_stops_or_keeps_its_row(folders: Path, tmp_path: Path, workers: int):
    damaged = jpeg(3)[:100]
    (folders / "train" / "9" / "1.jpg").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"row 8 of the train part \(.*/9/1.jpg\).*--on_bad_image keep$"):
        write(folders, tmp_path / "small", workers=workers)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["photos"]
    gain = write(folders, tmp_path / "small", workers=workers, on_bad_image="keep")
    after = rows_of(tmp_path / "small")["train"].cast_column("image", datasets.Image(decode=False))
    assert after[8]["image"] == {"bytes": damaged, "path": "9/1.jpg"}
    assert len(after) == 14
    assert len(gain.faults) == 1
    assert "warning: 1 images cannot be decoded, the first: row 8" in gain.advice()[0]


# ---- the directory ----


@pytest.mark.parametrize("kind", ["file", "full", "inside", "itself"])
def test_directory_that_would_lose_or_mix_data_is_refused(folders: Path, tmp_path: Path, kind: str):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    target = {"inside": folders / "small", "itself": folders}.get(kind, tmp_path / kind)
    error = {"inside": ValueError}.get(kind, FileExistsError)
    with pytest.raises(error, match=r"is inside the data|is not empty|is a file"):
        write(folders, target)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["file", "full", "photos"]


def test_empty_directory_is_used_and_what_a_killed_process_has_left_is_removed(folders: Path, tmp_path: Path):
    (tmp_path / "small").mkdir()
    left = tmp_path / ".small.unfinished"
    left.mkdir()
    (left / "train-00000.parquet").write_bytes(b"half")
    write(folders, tmp_path / "small")
    assert not left.exists()
    assert len(list((tmp_path / "small").iterdir())) == 3


def test_second_process_is_refused_while_the_first_writes(folders: Path, tmp_path: Path):
    with FileLock(tmp_path / ".small.lock"), pytest.raises(ValueError, match="another process is writing"):
        write(folders, tmp_path / "small")


def test_full_disk_is_one_error_that_leaves_nothing(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shard_files.pyarrow.parquet.ParquetWriter, "write_table", no_space)
    with pytest.raises(OSError, match=r"No space left on device; nothing is left of it. To repeat, free disk space"):
        write(folders, tmp_path / "small")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["photos"]


def test_disk_that_is_too_small_is_found_before_the_work(folders: Path, tmp_path: Path, monkeypatch):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(prepare, "_in_order", None)
    with pytest.raises(OSError, match=r"needs about .* kB, but only 0.1 kB are free"):
        write(folders, tmp_path / "small")


# ---- words ----


def test_gain_and_estimate_in_words():
    gain = Gain({"train": 1200, "test": 30}, 1000, 229, ["row 3 is bad"], 10**9, 25 * 10**7, 100, 250)
    assert gain.lines() == [
        "images  train 1,200, test 30: 1,000 resized, 229 with their original bytes, 1 bad and stored as they are",
        "size    1 GB before, 250 MB after (25 %)",
        "speed   decoding and cropping to 224 pixels: 100 views per second and core before, 250 after (x 2.50)",
    ]
    assert str(Estimate(1200, 10**9, 25 * 10**7, 7200, 8)) == (
        "1,200 images: about 250 MB instead of 1 GB, 2.0 h in 8 processes"
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [("short_side", 31), ("quality", 0), ("quality", 101), ("shard_size", 0), ("num_workers", -1)],
)
def test_values_out_of_range_are_refused(option: str, value: int):
    with pytest.raises(ValueError, match=f"`{option}` is {value}, but must be"):
        PrepareOptions("x", **{option: value})
