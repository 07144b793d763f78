"""Finding the parts in a folder, and directories that `datasets` loads."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from deit_hf.data.sources.arguments import DataArguments
from deit_hf.data.sources.folder_layout import find_part
from deit_hf.data.sources.load import load_image_parts
from deit_hf.model.labels import class_names


@pytest.fixture(autouse=True)
def _cache_of_the_test_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(root: Path, **counts: int) -> str:
    """Writes two classes of images for each part; `count` is the number of images per class, and their width."""
    for part, count in counts.items():
        for name in ("cat", "dog"):
            write_images(root / part / name, count)
    return str(root)


def write_images(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (count, 4), (i, 0, 0)).save(folder / f"{i}.png")


def load(train: bool = True, **options):
    return load_image_parts(DataArguments(**options), train=train)


def sizes(parts) -> tuple[int | None, ...]:
    """Number of images per class in the training, evaluation and test part."""
    return tuple(None if rows is None else len(rows) // 2 for rows in (parts.train, parts.evaluation, parts.test))


# ---- names ----


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "Val"])
def test_evaluation_part_beside_train_is_recognised_and_the_test_part_apart(tmp_path: Path, name: str):
    root = write(tmp_path / "d", **{"train": 1, name: 2, "test": 3})
    assert sizes(load(dataset_name=root)) == (1, 2, 3)
    parts = load(dataset_name=root)
    assert parts.names == {"train": "train", "evaluation": name, "test": "test"}
    assert not parts.evaluation_is_test
    assert sizes(load(train=False, dataset_name=root)) == (None, 2, None)
    assert sizes(load(dataset_name=root, eval_split="validation")) == (1, 2, 3)


def test_test_part_is_evaluated_on_where_there_is_no_other_or_where_it_is_named(tmp_path: Path):
    root = write(tmp_path / "d", train=1, test=3)
    assert sizes(load(dataset_name=root)) == (1, 3, None)
    assert load(dataset_name=root).evaluation_is_test
    root = write(tmp_path / "d", val=2)
    parts = load(dataset_name=root, eval_split="test")
    assert (sizes(parts), parts.evaluation_is_test, parts.notes) == ((1, 3, None), False, ["not used: val"])


def test_splits_of_any_dataset_are_recognised_by_the_same_names(tmp_path: Path):
    (tmp_path / "d").mkdir()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    for split, count in (("train", 1), ("valid", 2), ("test", 3)):
        images = [np.zeros((4, 4, 3), np.uint8)] * 2 * count
        rows = datasets.Dataset.from_dict({"image": images, "label": [0, 1] * count}, features=features)
        rows.to_parquet(tmp_path / "d" / f"{split}.parquet")
    (tmp_path / "d" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {split}.parquet\n" for split in ("train", "valid", "test"))
        + "---\n"
    )
    assert sizes(load(dataset_name=str(tmp_path / "d"))) == (1, 2, 3)
    streamed = load(dataset_name=str(tmp_path / "d"), streaming=True)
    assert (streamed.names, len(streamed.evaluation), streamed.test) == (
        {"train": "train", "evaluation": "valid"},
        4,
        None,
    )
    assert streamed.notes == ["split `test` is not used with `streaming`; measure it with deit-hf evaluate"]


@pytest.mark.parametrize(
    ("name", "names", "expected"),
    [
        ("validation", ["train", "dev", "val"], "val"),
        ("dev", ["train", "dev", "val"], "dev"),
        ("train", ["Training"], "Training"),
        ("fit", ["fit"], "fit"),
        ("fit", ["train"], None),
        ("test", ["val"], None),
    ],
)
def test_part_is_found_by_its_name_or_by_one_that_means_the_same(name: str, names: list[str], expected: str | None):
    assert find_part(name, names) == expected


def test_parts_of_other_names_can_be_named(tmp_path: Path):
    root = write(tmp_path / "d", fit=1, check=2)
    assert sizes(load(dataset_name=root, train_split="fit", eval_split="check")) == (1, 2, None)


# ---- layouts ----


def test_parts_in_a_folder_of_their_own_are_found(tmp_path: Path):
    write(tmp_path / "d" / "flowers" / "images", train=1, val=2)
    (tmp_path / "d" / "__MACOSX").mkdir()
    assert sizes(load(dataset_name=str(tmp_path / "d"))) == (1, 2, None)


def test_class_that_is_named_as_a_part_stays_a_class(tmp_path: Path):
    """In a dataset of vehicles, `train` is a class."""
    for name in ("bus", "car", "train"):
        write_images(tmp_path / "d" / name, 2)
    assert class_names(load(dataset_name=str(tmp_path / "d")).train, "label") == ["bus", "car", "train"]
    assert class_names(load(train_dir=str(tmp_path / "d")).train, "label") == ["bus", "car", "train"]
    write_images(tmp_path / "d" / "train" / "siteA", 2)
    with pytest.raises(
        ValueError, match="contains `train` and `bus`, `car`, so `train` could be a part or a class; name"
    ):
        load(dataset_name=str(tmp_path / "d"))


def test_other_folders_beside_the_parts_are_not_taken_for_classes(tmp_path: Path):
    root = write(tmp_path / "d", train=1, val=2)
    write_images(tmp_path / "d" / "raw", 1)
    parts = load(dataset_name=root)
    assert sizes(parts) == (1, 2, None)
    assert class_names(parts.train, "label") == ["cat", "dog"]


@pytest.mark.parametrize("others", [(), ("annotations",)], ids=["parts only", "with another folder"])
def test_folder_of_parts_is_no_folder_of_classes(tmp_path: Path, others: tuple[str, ...]):
    """Fails if the classes are `train` and `val`."""
    root = write(tmp_path / "d", train=1, val=1)
    for name in others:
        (tmp_path / "d" / name).mkdir()
    for option in ("train_dir", "validation_dir"):
        message = f"`{option}` is .*, which contains the parts train, val instead of class folders; name one of them"
        with pytest.raises(ValueError, match=message):
            load(train=option == "train_dir", **{option: root})


def test_parts_without_class_folders_are_refused(tmp_path: Path):
    for part in ("train", "val"):
        write_images(tmp_path / "d" / part, 2)
    with pytest.raises(ValueError, match="`.*/train` has no class folder with images .images outside the class"):
        load(dataset_name=str(tmp_path / "d"))


def test_test_pictures_without_labels_are_not_evaluated_and_that_is_said(tmp_path: Path):
    """Competitions publish such data. Fails if the run raises an error, or evaluates -1 as a class."""
    root = write(tmp_path / "d", train=1, val=2)
    write_images(tmp_path / "d" / "test", 3)
    parts = load(dataset_name=root)
    assert sizes(parts) == (1, 2, None)
    assert "test` is not evaluated because it has no class folders with images" in parts.notes[0]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    (tmp_path / "p").mkdir()
    for split, labels in (("train", [0, 1]), ("validation", [0, 1]), ("test", [-1, -1])):
        rows = datasets.Dataset.from_dict({"image": [np.zeros((4, 4, 3), np.uint8)] * 2, "label": labels}, features)
        rows.to_parquet(tmp_path / "p" / f"{split}-00000-of-00001.parquet")
    parts = load(dataset_name=str(tmp_path / "p"))
    assert (sizes(parts), parts.notes) == ((1, 1, None), ["split `test` is not evaluated: 2 of 2 rows have no label"])


def test_evaluation_folders_beside_a_named_training_folder_are_said(tmp_path: Path):
    root = tmp_path / "d"
    write(root, train=1, valid=2, test=3)
    parts = load(train_dir=str(root / "train"))
    assert (sizes(parts), parts.notes) == ((1, None, None), [f"not used: {root}/test, {root}/valid"])
    parts = load(train_dir=str(root / "train"), validation_dir=str(root / "valid"))
    assert (sizes(parts), parts.notes) == ((1, 2, None), [f"not used: {root}/test"])


# ---- directories that `datasets` loads ----


def test_metadata_without_labels_leaves_the_folders_as_classes(tmp_path: Path):
    """Fails with "has no column `label`" if `datasets` reads such a folder, because it drops the labels of folders."""
    root = Path(write(tmp_path / "d", train=2, val=1))
    (root / "train" / "metadata.csv").write_text("file_name,camera\ncat/0.png,x\n")
    (root / "metadata.jsonl").write_text('{"file_name": "train/cat/0.png", "camera": 1}\n')
    for source in (
        {"dataset_name": str(root)},
        {"train_dir": str(root / "train"), "validation_dir": str(root / "val")},
    ):
        parts = load(**source)
        assert (sizes(parts)[:2], parts.train["label"]) == ((2, 1), [0, 0, 1, 1])
        assert parts.folders["train"].left_out == {"metadata files (the folders give the labels)": 1}


def test_labels_of_a_metadata_file_are_taken(tmp_path: Path):
    root = Path(write(tmp_path / "d", train=1))
    (root / "train" / "metadata.csv").write_text("file_name,label\ncat/0.png,x\ndog/0.png,y\n")
    for source in ({"dataset_name": str(root)}, {"train_dir": str(root / "train")}):
        assert class_names(load(**source).train, "label") == ["x", "y"]
    (root / "train" / "metadata.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="metadata.csv` cannot be read: .*; fix or remove it"):
        load(train_dir=str(root / "train"))


def test_shards_are_read_even_where_pictures_lie_beside_them(tmp_path: Path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = datasets.Dataset.from_dict({"image": [np.zeros((4, 4, 3), np.uint8)] * 2, "label": [0, 1]}, features)
    (tmp_path / "d" / "data").mkdir(parents=True)
    rows.to_parquet(tmp_path / "d" / "data" / "train-00000-of-00001.parquet")
    write_images(tmp_path / "d" / "assets", 1)
    assert class_names(load(dataset_name=str(tmp_path / "d")).train, "label") == ["a", "b"]
