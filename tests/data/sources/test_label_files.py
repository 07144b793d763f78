"""Label files: the formats, the row that each label belongs to, and errors."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from deit_hf.data.sources.label_files import read_label_file, with_labels_of

LABEL_LISTS = datasets.List(datasets.Value("int64"))


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# ---- formats ----


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([[3], [0, 2], []], [[3], [0, 2], []]),
        ("a.jpg 3\n\nmy folder/b c.jpg\t12\n", {"a.jpg": [3], "my folder/b c.jpg": [12]}),
    ],
    ids=["lists", "named lines"],
)
def test_each_kind_of_file_is_read(tmp_path: Path, content: Any, expected: Any):
    assert read_label_file(write(tmp_path / "labels", content)) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[1, 2]", "is not valid JSON: Expecting"),
        ("", "is empty"),
        ([], "is empty"),
        ([[0], 1], "has 1 at index 1"),
        ([[0], [-1]], r"has \[-1\] at index 1"),
        ([[0], [1.0]], r"has \[1.0\] at index 1"),
        ([[0], [True]], r"has \[True\] at index 1"),
        ([[0], None], "has None at index 1"),
        ([[0], [[1]]], r"has \[\[1\]\] at index 1"),
        ({"a": [0]}, r"""has the line '{"a": \[0\]}'"""),
        ("a 1\ntench\n", "has the line 'tench'"),
        ("a 1\nb tench\n", "has the line 'b tench'"),
        ("a 1\n2\n", "has the line '2'"),
    ],
)
def test_file_that_says_something_else_is_refused(tmp_path: Path, content: Any, message: str):
    formats = r"; it must be JSON such as \[\[3\], \[0, 2\], \[\]\] .* or text with lines `name index`$"
    with pytest.raises(ValueError, match=f"label file `.*labels` {message}.*{formats}"):
        read_label_file(write(tmp_path / "labels", content))


def test_name_that_comes_twice_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="label file `.*labels` names `a` more than once; give each image one line"):
        read_label_file(write(tmp_path / "labels", "a 1\na 2\n"))


def test_missing_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no label file at `.*none.json`"):
        read_label_file(tmp_path / "none.json")


# ---- matching labels with rows ----


def make_rows(paths: list[str | None]) -> datasets.Dataset:
    """Rows as in parquet files, with bytes and a name. Their own label 9 is wrong."""
    image = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    rows = datasets.Dataset.from_dict({"image": [image] * len(paths), "label": [9] * len(paths)})
    rows = rows.cast_column("image", datasets.Image())
    stored = [{**row["image"], "path": path} for row, path in zip(undecoded(rows), paths, strict=True)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"image": stored, "label": [9] * len(paths)}, features=features)


def undecoded(rows: datasets.Dataset) -> datasets.Dataset:
    return rows.cast_column("image", datasets.Image(decode=False))


def labels_and_paths(tmp_path: Path, content: Any, rows: datasets.Dataset) -> list[tuple[Any, str | None]]:
    labelled = with_labels_of(write(tmp_path / "labels", content), rows, "image", "label")
    assert labelled[0]["image"].size == (4, 4)
    return [(row["label"], row["image"]["path"]) for row in undecoded(labelled)]


def test_names_decide_whatever_the_order_and_whatever_else_is_named(tmp_path: Path, caplog):
    rows = make_rows(["/data/b.jpg", "/data/a.jpg"])
    content = "a.jpg 1\nb.jpg 2\nc.jpg 3\n"
    assert labels_and_paths(tmp_path, content, rows) == [(2, "/data/b.jpg"), (1, "/data/a.jpg")]
    assert "by file name: 2 of 2 images have a label" in caplog.text


def test_names_with_folders_tell_images_of_one_name_apart(tmp_path: Path):
    rows = make_rows(["/data/x/0.jpg", "/data/y/0.jpg"])
    assert [label for label, _ in labels_and_paths(tmp_path, "y/0.jpg 1\nx/0.jpg 2\n", rows)] == [2, 1]
    with pytest.raises(ValueError, match="2 images are named `0.jpg`; add folders to the names in the file"):
        labels_and_paths(tmp_path, "0.jpg 1\n", rows)


def test_numbers_of_validation_images_decide_in_a_list(tmp_path: Path, caplog):
    rows = make_rows(["ILSVRC2012_val_00000003.JPEG", "d/ILSVRC2012_val_00000001_n01440764.JPEG"])
    assert [label for label, _ in labels_and_paths(tmp_path, [[10], [20], [30], [40]], rows)] == [30, 10]
    assert "by number of the validation image: 2 of 2 images have a label" in caplog.text


def test_images_without_a_label_do_not_count(tmp_path: Path, caplog):
    rows = make_rows([f"ILSVRC2012_val_0000000{number}.JPEG" for number in (4, 2, 1)])
    content = [[], [7, 5], [], [3]]
    assert labels_and_paths(tmp_path, content, rows) == [
        ([3], "ILSVRC2012_val_00000004.JPEG"),
        ([7, 5], "ILSVRC2012_val_00000002.JPEG"),
    ]
    assert "2 of 3 images have a label" in caplog.text


def test_order_decides_where_nothing_else_can(tmp_path: Path, caplog):
    for rows in (make_rows([None, None]), make_rows(["ILSVRC2012_val_00000001.JPEG", "b.jpg"])):
        assert [label for label, _ in labels_and_paths(tmp_path, [[4], [2]], rows)] == [4, 2]
    assert "by order: 2 of 2 images have a label" in caplog.text


def test_rows_may_hold_paths_and_have_no_label_column(tmp_path: Path):
    rows = datasets.Dataset.from_dict({"file": ["/data/b.jpg", "/data/a.jpg"]})
    labelled = with_labels_of(write(tmp_path / "labels", [[2, 3], [1]]), rows, "file", "right")
    assert labelled[:] == {"file": ["/data/b.jpg", "/data/a.jpg"], "right": [[2, 3], [1]]}
    assert labelled.features["right"] == LABEL_LISTS


@pytest.mark.parametrize(
    ("content", "paths", "message"),
    [
        ([[1], [2], [3]], [None, None], "lists 3 images but there are 2; list all"),
        (
            [[1]],
            ["ILSVRC2012_val_00000002.JPEG"],
            "lists 1 images, but the data has ILSVRC2012_val_00000002; list all",
        ),
        ([[1]], ["ILSVRC2012_val_00000000.JPEG"], "the data has ILSVRC2012_val_00000000"),
        ("a.jpg 1", ["a.jpg", "x/b.jpg"], "has no `b.jpg`, the image in row 1; it names `a.jpg` and others"),
        ("x/b.jpg 1", ["x/b.jpg", "y/b.jpg"], "has no `y/b.jpg`, the image in row 1"),
        ("a.jpg 1", ["a.jpg", None], "has no ``, the image in row 1"),
        ("a.jpg 1\nx/b.jpg 1", ["a.jpg"], "has names with 0 and with 1 folders; give all names the same"),
        ([[], []], [None, None], "gives none of the 2 images a label"),
    ],
)
def test_file_that_does_not_fit_the_rows_is_refused(tmp_path: Path, content: Any, paths: list, message: str):
    with pytest.raises(ValueError, match=message):
        labels_and_paths(tmp_path, content, make_rows(paths))


def test_missing_image_column_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="no column `photo`, only image, label"):
        with_labels_of(write(tmp_path / "labels", [[1]]), make_rows([None]), "photo", "label")
