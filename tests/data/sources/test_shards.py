"""Shards are found and counted, and only the evaluation split is loaded."""

import io
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from deit_hf.data.sources import load as sources
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.data.sources.load import load_image_datasets
from deit_hf.data.sources.shards import ShardedSplits, spread

CLASSES = datasets.ClassLabel(names=["x", "y", "z"])


@pytest.fixture(autouse=True)
def _cache_of_the_test_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def load(folder: Path, *, train: bool = True, **options) -> tuple:
    return load_image_datasets(DataArguments(dataset_name=str(folder), streaming=True, **options), train=train)


def write_parquet(folder: Path, label_type: object = CLASSES, **splits: list[int]) -> Path:
    """Writes parquet files with the given numbers of rows; the grey value of an image is its number in its split."""
    folder.mkdir(exist_ok=True)
    features = datasets.Features({"image": datasets.Image(), "label": label_type})
    for split, lengths in splits.items():
        for shard, length in enumerate(lengths):
            numbers = range(sum(lengths[:shard]), sum(lengths[: shard + 1]))
            columns = {"image": [np.full((4, 4, 3), n, np.uint8) for n in numbers], "label": [n % 3 for n in numbers]}
            rows = datasets.Dataset.from_dict(columns, features=features)
            assert len(rows) == length
            rows.to_parquet(folder / f"{split}-{shard:05d}-of-{len(lengths):05d}.parquet", batch_size=2)
    return folder


def write_tars(folder: Path, **splits: list[int]) -> Path:
    """Writes the same data as webdataset tars."""
    folder.mkdir()
    for split, lengths in splits.items():
        for shard, length in enumerate(lengths):
            with tarfile.open(folder / f"{split}-{shard:05d}.tar", "w") as tar:
                for number in range(sum(lengths[:shard]), sum(lengths[:shard]) + length):
                    image = io.BytesIO()
                    Image.new("RGB", (4, 4), (number,) * 3).save(image, "PNG")
                    for ending, data in (("png", image.getvalue()), ("cls", str(number % 3).encode())):
                        member = tarfile.TarInfo(f"{split}{number:03d}.{ending}")
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))
    return folder


def test_parquet_shards_are_found_and_counted(tmp_path: Path):
    folder = write_parquet(tmp_path / "parquet", train=[5, 3, 4], validation=[2])
    train_rows, eval_rows = load(folder)
    assert train_rows.lengths == [5, 3, 4]
    assert [Path(name).name for name in train_rows.names] == [f"train-{i:05d}-of-00003.parquet" for i in range(3)]
    parts = [list(train_rows.rows.shard(num_shards=3, index=shard)) for shard in range(3)]
    assert [row["image"].getpixel((0, 0))[0] for row in parts[1]] == [5, 6, 7]  # as in `lengths` and `names`
    assert train_rows.rows.features["label"] == CLASSES
    assert isinstance(eval_rows, datasets.Dataset)
    assert eval_rows["label"][:] == [0, 1]


def test_tars_are_found_but_not_counted(tmp_path: Path):
    folder = write_tars(tmp_path / "tars", train=[3, 2], validation=[4])
    train_rows, eval_rows = load(folder, image_column_name="png", label_column_name="cls")
    assert train_rows.lengths is None
    assert [Path(name).name for name in train_rows.names] == ["train-00000.tar", "train-00001.tar"]
    assert [row["__key__"] for row in train_rows.rows.shard(num_shards=2, index=1)] == ["train003", "train004"]
    assert eval_rows["cls"][:] == [0, 1, 2, 0]
    assert eval_rows["png"][3].getpixel((0, 0)) == (3, 3, 3)


def test_only_the_evaluation_split_is_written_to_the_cache(tmp_path: Path):
    folder = write_parquet(tmp_path / "parquet", train=[5, 3], validation=[2], test=[4])
    load(folder)
    written = [path.name for path in (tmp_path / "cache").rglob("*.arrow")]
    assert written == ["parquet-validation.arrow"]
    _, eval_rows = load(folder, train=False, eval_split="test")
    assert len(eval_rows) == 4


def test_so_many_rows_are_taken_from_all_shards(tmp_path: Path):
    folder = write_parquet(tmp_path / "parquet", train=[2, 9, 5], validation=[3])
    assert load(folder, max_train_samples=10)[0].lengths == [2, 4, 4]
    assert load(folder, max_train_samples=99)[0].lengths == [2, 9, 5]
    tars = write_tars(tmp_path / "tars", train=[3, 3, 3])
    assert load(tars, max_train_samples=8)[0].lengths == [2, 3, 3]
    assert len(load(folder, max_eval_samples=2)[1]) == 2


@pytest.mark.parametrize("num_rows", range(0, 18, 3))
def test_rows_are_spread_as_evenly_as_the_shards_allow(num_rows: int):
    shares = spread(num_rows, [2, 9, 0, 5])
    assert sum(shares) == min(num_rows, 16)
    assert all(share <= length for share, length in zip(shares, [2, 9, 0, 5], strict=True))
    free = [share for share, length in zip(shares, [2, 9, 0, 5], strict=True) if share < length]
    assert all(share <= min(free) + 1 for share in shares) if free else True


def test_folder_that_has_the_name_of_a_builder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_parquet(tmp_path / "parquet", train=[2])
    (tmp_path / "other.parquet").write_text("not read")
    monkeypatch.chdir(tmp_path)
    assert load(Path("parquet"))[0].lengths == [2]


def test_features_that_the_card_tells_are_those_of_both_splits(tmp_path: Path):
    folder = write_parquet(tmp_path / "parquet", datasets.Value("int64"), train=[2], validation=[3])
    names = "".join(f"          '{index}': {name}\n" for index, name in enumerate("xyz"))
    (folder / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n"
        f"      class_label:\n        names:\n{names}"
        "  splits:\n  - name: train\n    num_examples: 2\n  - name: validation\n    num_examples: 3\n---\n"
    )
    train_rows, eval_rows = load(folder)
    assert train_rows.rows.features["label"] == eval_rows.features["label"] == CLASSES
    assert eval_rows[2]["image"].getpixel((0, 0)) == (2, 2, 2)


def test_missing_split_images_in_files_and_other_classes_are_refused(tmp_path: Path):
    folder = write_parquet(tmp_path / "parquet", train=[2], validation=[2])
    with pytest.raises(ValueError, match="the dataset has no split `nope`, only train, validation; set `train_split`"):
        load(folder, train_split="nope")
    with pytest.raises(ValueError, match="no split `nope`"):
        load(folder, eval_split="nope")
    with pytest.raises(ValueError, match="no split to evaluate on among train"):
        load(write_parquet(tmp_path / "alone", train=[2]), train=False)
    for name in ("cat", "dog"):
        (tmp_path / "images" / "train" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / "train" / name / "0.png")
    with pytest.raises(ValueError, match="`streaming` reads shards, but `.*images` has one file per image"):
        load(tmp_path / "images")
    other = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "z", "y"])})
    rows = datasets.Dataset.from_dict({"image": [np.zeros((4, 4, 3), np.uint8)], "label": [0]}, features=other)
    rows.to_parquet(folder / "validation-00000-of-00001.parquet")
    with pytest.raises(
        ValueError,
        match="class 1 of column `label` is 'y' in `.*train-.*' but 'z' in `.*validation-".replace("' but", "` but"),
    ):
        load(folder)


def test_only_rows_of_a_download_may_not_name_files_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Fails if the rows of a local directory are checked, or if those of a download are not."""
    checked = []
    monkeypatch.setattr(sources, "check_downloaded_rows", lambda rows, column, name: checked.append(name))
    folder = write_parquet(tmp_path / "rows", train=[2], test=[2])
    load(folder)
    assert checked == []
    splits = ShardedSplits(str(folder), None)  # in place of a download
    monkeypatch.setattr(sources, "ShardedSplits", lambda *_: splits)
    load_image_datasets(DataArguments(dataset_name="user/name", streaming=True))
    assert checked == ["user/name"]
