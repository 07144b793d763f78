"""Rows and labels from each kind of source. All data is generated; nothing is downloaded."""

import json
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
import sklearn.datasets
from datasets import ClassLabel, LargeList, Value
from PIL import Image

from deit_hf.data.sources.arguments import DataArguments
from deit_hf.data.sources.digits import load_digits
from deit_hf.data.sources.load import load_image_datasets
from deit_hf.data.sources.untrusted_rows import explained_by_cause
from deit_hf.model.labels import class_names

DIGIT_COUNTS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # of both splits, as documented by UCI
FIRST_TEST_LABELS = [7, 6, 3, 7, 7, 3, 2, 8, 9, 3]


@pytest.fixture(autouse=True)
def _cache_of_the_test_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def load(train: bool = True, **options) -> tuple:
    return load_image_datasets(DataArguments(**options), train=train)


def write_folders(root: Path, names: list[str], num_images: int = 2) -> str:
    """Writes a sub-folder per class. The red of an image is the index of its class, the green its own number."""
    for place, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(num_images):
            Image.new("RGB", (5, 4), (place, i, 0)).save(root / name / f"{i}.png")
    return str(root)


def write_parquet(root: Path, label_type: object = None, **splits: list) -> str:
    """Writes one parquet file per split. The grey value of an image is its row number."""
    root.mkdir()
    features = datasets.Features({"image": datasets.Image(), "label": label_type or Value("string")})
    for name, labels in splits.items():
        images = [np.full((4, 4, 3), i, np.uint8) for i in range(len(labels))]
        rows = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        rows.to_parquet(root / f"{name}-00000-of-00001.parquet")
    return str(root)


def greys(rows: datasets.Dataset) -> list[int]:
    return [image.getpixel((0, 0))[0] for image in rows["image"]]


# ---- digits ----


def test_digits_are_split_evenly_and_always_alike():
    splits = load_digits()
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 1437, "test": 360}
    for name, share in (("train", 1437 / 1797), ("test", 360 / 1797)):
        counts = Counter(splits[name]["label"])
        assert set(counts) == set(range(10))
        assert all(abs(counts[label] - share * total) < 1 for label, total in enumerate(DIGIT_COUNTS))
    assert splits["test"]["label"][:10] == load_digits()["test"]["label"][:10] == FIRST_TEST_LABELS


def test_every_digit_is_in_one_split_only():
    images = [np.asarray(image).tobytes() for rows in load_digits().values() for image in rows["image"]]
    arrays = np.round(sklearn.datasets.load_digits().images * 255 / 16).astype(np.uint8)
    assert Counter(images) == Counter(array.tobytes() for array in arrays)


def test_digits_are_grey_pictures_of_the_full_range():
    train_rows, eval_rows = load(dataset_name="digits")
    assert class_names(train_rows, "label") == list("0123456789")
    pixels = np.stack([np.asarray(image) for image in eval_rows["image"]])
    assert pixels.shape == (360, 8, 8)
    assert (pixels.min(), pixels.max()) == (0, 255)  # 0..16 on disk would be nearly black


# ---- class folders ----


def test_folders_give_images_with_the_label_of_their_folder(tmp_path: Path):
    names = ["ant", "bee", "cat"]
    folders = {
        "train_dir": write_folders(tmp_path / "t", names, 3),
        "validation_dir": write_folders(tmp_path / "v", names),
    }
    train_rows, eval_rows = load(**folders)
    assert class_names(train_rows, "label") == class_names(eval_rows, "label") == names
    assert (len(train_rows), len(eval_rows)) == (9, 6)
    for rows in (train_rows, eval_rows):
        assert greys(rows) == rows["label"]


@pytest.mark.parametrize("by_name", [False, True], ids=["folders", "dataset name"])
def test_folders_numbered_from_0_give_their_numbers_as_labels(tmp_path: Path, by_name: bool):
    # as in ImageNet-V2; sorted as text, 10 and 11 would come before 2
    numbers = [str(number) for number in range(12)]
    folder = write_folders(tmp_path / "v", numbers)
    source = {"dataset_name": folder, "eval_split": "train"} if by_name else {"validation_dir": folder}
    _, rows = load(train=False, **source)
    assert class_names(rows, "label") == numbers
    assert greys(rows) == rows["label"]
    assert sorted(rows["label"]) == sorted([*range(12)] * 2)


@pytest.mark.parametrize(
    "names", [["1", "10", "2"], ["0", "10", "2"], ["00", "01", "10"], ["0", "1", "n2"]], ids="-".join
)
def test_other_folders_keep_their_order_as_text(tmp_path: Path, names: list[str]):
    _, rows = load(train=False, validation_dir=write_folders(tmp_path / "v", names))
    assert class_names(rows, "label") == names
    assert greys(rows) == rows["label"]


def test_validation_folder_that_lacks_a_class_keeps_the_labels_of_training(tmp_path: Path):
    # if the parts were numbered separately, bee would be 1 in training and 0 in evaluation
    folders = {
        "train_dir": write_folders(tmp_path / "t", ["ant", "bee", "cat"]),
        "validation_dir": write_folders(tmp_path / "v", ["bee"]),
    }
    assert load(**folders)[1]["label"] == [1, 1]


def test_names_of_the_splits_can_be_chosen(tmp_path: Path):
    names = ["ant", "bee"]
    folders = {
        "train_dir": write_folders(tmp_path / "t", names),
        "validation_dir": write_folders(tmp_path / "v", names),
    }
    train_rows, eval_rows = load(**folders, train_split="fit", eval_split="check")
    assert (len(train_rows), len(eval_rows)) == (4, 4)


def test_folder_name_may_hold_a_patterns_characters(tmp_path: Path):
    train_rows, _ = load(train_dir=write_folders(tmp_path / "set [1] *", ["ant", "bee"]))
    assert train_rows["label"] == [0, 0, 1, 1]


def test_training_folder_alone_gives_no_evaluation_rows(tmp_path: Path):
    folder = write_folders(tmp_path / "t", ["ant", "bee"])
    assert load(train_dir=folder)[1] is None
    with pytest.raises(ValueError, match="no split to evaluate on among train; name one with `eval_split`"):
        load(train=False, train_dir=folder)


def test_missing_and_empty_folders_are_named(tmp_path: Path):
    (tmp_path / "empty" / "ant").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no folder `.*none`; it must contain one sub-folder of images"):
        load(train_dir=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="`.*empty` has no class folder with images .*: ant"):
        load(train_dir=str(tmp_path / "empty"))


def test_folder_without_classes_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="one class only, `ant`; it must contain one sub-folder of images for"):
        load(train_dir=write_folders(tmp_path / "t", ["ant"]))


# ---- parquet directories ----


def test_parquet_directory_keeps_its_classes_and_rows(tmp_path: Path):
    label_type = ClassLabel(names=["cat", "ant"])
    name = write_parquet(tmp_path / "p", label_type, train=[0, 1, 1], validation=[1, 0])
    train_rows, eval_rows = load(dataset_name=name)
    assert class_names(train_rows, "label") == ["cat", "ant"]
    assert (train_rows["label"], eval_rows["label"]) == ([0, 1, 1], [1, 0])
    assert (greys(train_rows), greys(eval_rows)) == ([0, 1, 2], [0, 1])


def test_bare_numbers_have_no_names(tmp_path: Path):
    train_rows, _ = load(dataset_name=write_parquet(tmp_path / "p", Value("int64"), train=[0, 7]))
    assert train_rows["label"] == [0, 7]
    assert class_names(train_rows, "label") is None


@pytest.mark.parametrize("label_type", ["string", "large_string"])
@pytest.mark.parametrize("train", [True, False])
def test_class_names_get_the_indices_of_training_in_both_splits(tmp_path: Path, label_type: str, train: bool):
    # encoded separately, or without the training split, "b" and "c" would be 0 and 1 in evaluation
    name = write_parquet(tmp_path / "p", Value(label_type), train=list("cabba"), validation=list("bc"))
    train_rows, eval_rows = load(train, dataset_name=name)
    assert class_names(eval_rows, "label") == ["a", "b", "c"]
    assert eval_rows["label"] == [1, 2]
    assert (train_rows["label"] if train else train_rows) == ([2, 0, 1, 1, 0] if train else None)


def test_numbers_as_class_names_are_indices(tmp_path: Path):
    numbers = [str(number) for number in range(11)]
    train_rows, _ = load(dataset_name=write_parquet(tmp_path / "p", train=numbers[::-1]))
    assert class_names(train_rows, "label") == numbers
    assert train_rows["label"] == list(range(11))[::-1]


def test_classes_that_a_dataset_orders_itself_keep_that_order(tmp_path: Path):
    name = write_parquet(tmp_path / "p", ClassLabel(names=["1", "0"]), train=[0, 1, 1])
    train_rows, _ = load(dataset_name=name)
    assert class_names(train_rows, "label") == ["1", "0"]
    assert train_rows["label"] == [0, 1, 1]


def test_few_samples_do_not_change_the_classes(tmp_path: Path):
    name = write_parquet(tmp_path / "p", train=list("cabba"), validation=list("bc"))
    train_rows, eval_rows = load(dataset_name=name, max_train_samples=1, max_eval_samples=1)
    assert class_names(train_rows, "label") == class_names(eval_rows, "label") == ["a", "b", "c"]
    assert (len(train_rows), len(eval_rows)) == (1, 1)


def test_class_that_training_lacks_is_named(tmp_path: Path):
    name = write_parquet(tmp_path / "p", train=list("aab"), test=list("abz"))
    with pytest.raises(ValueError, match="evaluation split has labels that the training split lacks: z; remove"):
        load(dataset_name=name)


def test_row_without_a_class_name_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="column `label` has rows without a label; remove them"):
        load(dataset_name=write_parquet(tmp_path / "p", train=["a", None]))


def test_samples_are_drawn_from_all_classes_and_always_alike(tmp_path: Path):
    # the first rows of sorted classes are all of one class
    name = write_parquet(tmp_path / "p", Value("int64"), train=[i // 50 for i in range(200)])
    rows = load(dataset_name=name, max_train_samples=40)[0]
    assert len(rows) == len(set(greys(rows))) == 40
    assert set(rows["label"]) == {0, 1, 2, 3}
    assert [grey // 50 for grey in greys(rows)] == rows["label"]
    assert greys(load(dataset_name=name, max_train_samples=40)[0]) == greys(rows)


@pytest.mark.parametrize("max_samples", [3, 99])
def test_enough_samples_leave_the_rows_as_they_are(tmp_path: Path, max_samples: int):
    name = write_parquet(tmp_path / "p", Value("int64"), train=[0, 1, 2])
    assert load(dataset_name=name, max_train_samples=max_samples)[0]["label"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("splits", "eval_split", "expected"),
    [
        ({"validation": [1], "test": [2]}, None, [1]),
        ({"test": [2]}, None, [2]),
        ({"validation": [1], "test": [2]}, "test", [2]),
        ({"validation": [1]}, "train", [0]),
    ],
)
def test_evaluation_split_is_validation_else_test_unless_named(
    tmp_path, splits: dict, eval_split, expected: list[int]
):
    name = write_parquet(tmp_path / "p", Value("int64"), train=[0], **splits)
    assert load(dataset_name=name, eval_split=eval_split)[1]["label"] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_split": "trian"}, "no split `trian`, only train, test; set `train_split` or `eval_split`"),
        ({"eval_split": "dev"}, "no split `dev`, only train, test"),
        ({"label_column_name": "fine"}, "no column `fine`, only image, label; set `label_column_name`"),
    ],
)
def test_missing_split_or_column_is_named_with_those_there(tmp_path: Path, options: dict, message: str):
    name = write_parquet(tmp_path / "p", Value("int64"), train=[0], test=[0])
    with pytest.raises(ValueError, match=message):
        load(dataset_name=name, **options)


def test_label_column_of_lists_is_left_to_the_checks_of_training(tmp_path: Path):
    name = write_parquet(tmp_path / "p", LargeList(Value("int64")), train=[[0], [1]])
    assert class_names(load(dataset_name=name)[0], "label") is None


def test_dataset_that_is_nowhere_is_an_os_error(tmp_path: Path):
    # the scripts print an OSError in one line
    with pytest.raises(OSError, match="none"):
        load(dataset_name=str(tmp_path / "none"))


# ---- label files ----


def write_label_file(path: Path, content: object) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def test_label_file_is_for_the_rows_before_some_are_drawn(tmp_path: Path):
    # if labels were matched by order after the selection, they would be those of other images
    label_file = write_label_file(tmp_path / "labels.json", [[i % 4] if i % 2 else [] for i in range(50)])
    name = write_parquet(tmp_path / "p", Value("int64"), train=[7], test=[0] * 50)
    train_rows, rows = load(dataset_name=name, label_file=label_file, max_eval_samples=9)
    assert train_rows["label"] == [7]  # its own label
    assert len(rows) == 9
    assert rows["label"] == [[grey % 4] for grey in greys(rows)]
    assert all(grey % 2 for grey in greys(rows))


def test_label_file_goes_with_a_flat_folder_of_images(tmp_path: Path):
    write_folders(tmp_path / "v", ["."], num_images=3)
    label_file = write_label_file(tmp_path / "labels.json", "0.png 5\n1.png 6\n2.png 7\n")
    _, rows = load(train=False, validation_dir=str(tmp_path / "v"), label_file=label_file)
    assert [image.getpixel((0, 0))[1] + 5 for image in rows["image"]] == rows["label"]
    assert class_names(rows, "label") is None


def test_label_file_wins_over_class_names_in_both_splits(tmp_path: Path):
    name = write_parquet(tmp_path / "p", train=list("ab"), validation=list("ba"))
    train_rows, rows = load(dataset_name=name, label_file=write_label_file(tmp_path / "labels.json", [[0], [1]]))
    assert (train_rows["label"], rows["label"]) == ([0, 1], [0, 1])


@pytest.mark.parametrize("names", [("train", "validation"), ("train-00000-of-00002", "train-00001-of-00002")])
@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_files_that_count_classes_in_other_orders_are_refused(tmp_path: Path, names, streaming: bool):
    # `datasets` would read the labels of the second file with the classes of the first
    for name, classes in zip(names, (["cat", "dog", "emu"], ["dog", "cat", "emu"]), strict=True):
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=classes)})
        rows = {"image": [np.zeros((4, 4, 3), np.uint8)] * 2, "label": [0, 1]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(
        ValueError, match="class 0 of column `label` is 'cat' in `.*` but 'dog' in `.*; write all files"
    ):
        load_image_datasets(DataArguments(dataset_name=str(tmp_path), streaming=streaming))


@pytest.mark.parametrize("streaming", [False, True])
def test_source_that_is_a_file_or_no_directory_is_said_before_the_hub_is_asked(tmp_path: Path, streaming: bool):
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match="`dataset_name` is the file .*data.zip, but must be a directory or a Hub id"):
        load_image_datasets(DataArguments(dataset_name=str(tmp_path / "data.zip"), streaming=streaming))
    with pytest.raises(FileNotFoundError, match="`dataset_name` is .*none, but there is no such directory"):
        load_image_datasets(DataArguments(dataset_name=str(tmp_path / "none"), streaming=streaming))
    with pytest.raises(
        ConnectionError, match="^`nodata` is not a local directory and could not be loaded .*: .*; name a directory"
    ):
        load_image_datasets(DataArguments(dataset_name="nodata", streaming=streaming))


@pytest.mark.parametrize("streaming", [False, True])
def test_folder_without_files_is_named_with_what_it_must_contain(tmp_path: Path, streaming: bool):
    with pytest.raises(FileNotFoundError, match=r"no files .*one folder of images per class, or .* parquet$"):
        load_image_datasets(DataArguments(dataset_name=str(tmp_path), streaming=streaming))


def test_folder_that_is_a_file_is_said_with_its_option(tmp_path: Path):
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(FileNotFoundError, match=r"data.zip` \(it is a file; .* unpack it\); .*`train_dir`"):
        load_image_datasets(DataArguments(train_dir=str(tmp_path / "data.zip")))


def write_parts(root: Path, *folders: str, file: str = "a.png") -> str:
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        if file.endswith(".png"):
            Image.new("RGB", (4, 4)).save(root / folder / file)
        else:
            (root / folder / file).write_text("x")
    return str(root)


@pytest.mark.parametrize("named", ["dataset", "folders"])
def test_labels_in_a_metadata_file_of_one_part_alone_are_refused_with_both_parts(tmp_path: Path, named: str):
    root = write_parts(tmp_path / "d", "train/cat", "train/dog", "val/cat", "val/dog")
    (tmp_path / "d" / "train" / "metadata.csv").write_text("file_name,label\ncat/a.png,cat\n")
    source = {"dataset_name": root}
    if named == "folders":
        source = {"train_dir": f"{root}/train", "validation_dir": f"{root}/val"}
    message = "d/train` has a metadata file with the column `label`, but `.*d/val` has none; add one to each part, or"
    with pytest.raises(ValueError, match=message):
        load_image_datasets(DataArguments(**source))


def test_folder_of_texts_is_said_to_hold_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    root = write_parts(tmp_path / "d", "train/cat", "train/dog", file="x.txt")
    with pytest.raises(
        ValueError, match="d` contains neither images in class folders nor rows .*its columns are text;"
    ):
        load_image_datasets(DataArguments(dataset_name=root))


@pytest.mark.parametrize("option", [{"max_eval_samples": 3}, {"label_file": "none.json"}])
def test_options_of_an_evaluation_that_there_is_not_are_refused(tmp_path: Path, option: dict):
    root = write_parts(tmp_path / "d", "cat", "dog")
    name = next(iter(option))
    with pytest.raises(ValueError, match=f"`{name}` is .*, but the data has no part to evaluate on; name one"):
        load_image_datasets(DataArguments(train_dir=root, **option))


@pytest.mark.parametrize("source", [{"dataset_name": "digits"}, {"train_dir": "a"}])
def test_configuration_of_what_has_none_is_refused(source: dict):
    with pytest.raises(ValueError, match="`dataset_config_name` is a, but only a dataset of the Hub or a directory"):
        DataArguments(dataset_config_name="a", **source)


def test_reason_of_rows_that_cannot_be_made_is_said():
    """`datasets` wraps the cause in an error that only reports a failure."""
    cause = ValueError("Invalid\nmetadata")
    with pytest.raises(ValueError, match="dataset `pets` cannot be read: Invalid metadata"):  # noqa: SIM117
        with explained_by_cause("pets"):
            raise datasets.exceptions.DatasetGenerationError("An error occurred") from cause
    with pytest.raises(ValueError, match="dataset `pets` cannot be read: An error occurred"):  # noqa: SIM117
        with explained_by_cause("pets"):
            raise datasets.exceptions.DatasetGenerationError("An error occurred")
