"""Class folders as users have them: nested, linked, with other files, and with unusual names."""

import os
from collections import Counter
from pathlib import Path

import datasets
import pytest
from PIL import Image

from deit_hf.data.sources.arguments import DataArguments
from deit_hf.data.sources.class_folders import nearest_name, picture_endings, read_class_folders
from deit_hf.data.sources.load import load_image_parts
from deit_hf.model.labels import class_names


@pytest.fixture(autouse=True)
def _cache_of_the_test_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(root: Path, *files: str) -> Path:
    """Writes images, one-byte files for other extensions, and folders for names that end with a slash."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        elif path.suffix.lower() in (".png", ".jpg", ".gif"):
            Image.new("RGB", (5, 4)).save(path)
        else:
            path.write_bytes(b"x")
    return root


def classes(root: Path) -> dict[str, list[str]]:
    """Paths of the images of each class, relative to the folder of the class."""
    found = read_class_folders(root).classes
    return {name: [os.path.relpath(path, root / name) for path in paths] for name, paths in found.items()}


def load(train: bool = True, **options):
    return load_image_parts(DataArguments(**options), train=train)


# ---- the class of an image ----


@pytest.mark.parametrize("by_name", [True, False], ids=["dataset name", "train dir"])
def test_class_is_the_first_level_at_any_depth(tmp_path: Path, by_name: bool):
    """Fails if the innermost folder is taken as the class (siteA, siteB, c)."""
    root = write(tmp_path / "data", "train/cat/siteA/1.png", "train/cat/siteB/2.png", "train/dog/a/b/c/3.png")
    write(root, "train/dog/4.png")
    source = {"dataset_name": str(root)} if by_name else {"train_dir": str(root / "train")}
    rows = load(**source).train
    assert class_names(rows, "label") == ["cat", "dog"]
    names = [Path(image["path"]).name for image in rows.cast_column("image", datasets.Image(decode=False))["image"]]
    assert list(zip(names, rows["label"], strict=True)) == [("1.png", 0), ("2.png", 0), ("4.png", 1), ("3.png", 1)]


def test_parts_of_different_depths_go_together(tmp_path: Path):
    write(tmp_path, "train/cat/siteA/1.png", "train/dog/siteA/1.png", "v/deep/cat/1.png", "v/deep/dog/2.png")
    parts = load(train_dir=str(tmp_path / "train"), validation_dir=str(tmp_path / "v" / "deep"))
    assert (parts.train["label"], parts.evaluation["label"]) == ([0, 1], [0, 1])


@pytest.mark.parametrize("numbered", [False, True])
def test_rows_and_labels_of_plain_folders_are_those_of_datasets(tmp_path: Path, numbered: bool):
    """Views are a function of the row, so another order would change the training."""
    names = [str(i) for i in range(11)] if numbered else ["cat", "cat 2", "cat-2", "Zebra", "é"]
    write(tmp_path / "t", *(f"{name}/{i}.png" for name in names for i in ("10", "9", "a b", "A")))
    rows = load(train_dir=str(tmp_path / "t")).train
    pattern = {"train": str(tmp_path / "t" / "**")}
    theirs = datasets.load_dataset("imagefolder", data_files=pattern, split="train")
    folders = [theirs.features["label"].names[label] for label in theirs["label"]]
    assert [class_names(rows, "label")[label] for label in rows["label"]] == folders
    assert class_names(rows, "label") == (names if numbered else theirs.features["label"].names)
    undecoded = [each.cast_column("image", datasets.Image(decode=False))["image"][:] for each in (rows, theirs)]
    assert undecoded[0] == undecoded[1]


def test_one_class_is_refused_and_the_folders_in_it_are_named(tmp_path: Path):
    write(tmp_path, "flowers/rose/1.png", "flowers/tulip/1.png", "empty/")
    message = "images of one class only, `flowers` .class folders without images: empty.*; if the classes are rose, "
    with pytest.raises(ValueError, match=message + "tulip, name `.*/flowers`"):
        load(train_dir=str(tmp_path))


def test_parts_inside_of_classes_are_refused(tmp_path: Path):
    """Fails if `cat/test` is trained on."""
    write(tmp_path, *(f"{name}/{part}/1.png" for name in ("cat", "dog") for part in ("train", "test")))
    with pytest.raises(ValueError, match="class folder `.*/cat` contains the parts test, train; put the class"):
        load(train_dir=str(tmp_path))


# ---- classes of two parts ----


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Cat",
            r"`.*/val/Cat` is a class that the training part lacks: `.*/train` has no such class; the most similar is",
        ),
        ("tulips", r"`.*/val/tulips` is a class that the training part lacks: `.*/train` has no such class; rename"),
        ("caf\u00e9", r"the most similar is 'cafe\\u0301', not 'caf\\xe9'"),
        ("horse", r"the class folder `.*/train/horse` has no readable images"),
    ],
)
@pytest.mark.parametrize("by_name", [True, False], ids=["dataset name", "folders"])
def test_class_that_only_the_evaluation_part_has_is_refused(tmp_path: Path, name: str, message: str, by_name: bool):
    """Fails if the class is accepted, although it is never trained."""
    write(
        tmp_path,
        "train/cat/1.png",
        "train/cafe\u0301/1.png",
        "train/horse/1.heic",
        "val/cat/1.png",
        f"val/{name}/1.png",
    )
    folders = {"train_dir": str(tmp_path / "train"), "validation_dir": str(tmp_path / "val")}
    for train in (True, False):
        with pytest.raises(ValueError, match=message):
            load(train, **({"dataset_name": str(tmp_path)} if by_name else folders))


def test_class_that_the_evaluation_part_lacks_keeps_its_index(tmp_path: Path):
    write(tmp_path, *(f"train/{name}/1.png" for name in "abc"), "val/a/1.png", "val/c/1.png", "val/b/", "val/new/")
    parts = load(dataset_name=str(tmp_path))
    assert parts.evaluation["label"] == [0, 2]
    assert class_names(parts.evaluation, "label") == ["a", "b", "c"]
    assert set(parts.folders["evaluation"].empty) == {"b", "new"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Cat", "cat"), ("golden retriever", "Golden_Retriever"), ("tulip", "tulips"), ("zebra", None)],
)
def test_nearest_name(name: str, expected: str | None):
    assert nearest_name(name, ["cart", "cat", "Golden_Retriever", "tulips"]) == expected


# ---- links ----


def test_links_of_the_users_own_folders_are_followed(tmp_path: Path):
    """Fails if linked class folders are reported as empty."""
    write(tmp_path / "store", "cats/1.png", "dogs/a/1.png", "more/2.png", "one.png")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "cat").symlink_to(tmp_path / "store" / "cats")
    (tmp_path / "train" / "dog").symlink_to("../store/dogs")
    (tmp_path / "store" / "dogs" / "more").symlink_to(tmp_path / "store" / "more")
    (tmp_path / "store" / "cats" / "one.png").symlink_to(tmp_path / "store" / "one.png")
    assert classes(tmp_path / "train") == {"cat": ["1.png", "one.png"], "dog": ["a/1.png", "more/2.png"]}
    (tmp_path / "link").symlink_to(tmp_path / "train")
    assert len(load(train_dir=str(tmp_path / "link")).train) == 4
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(tmp_path / "train")
    assert len(load(dataset_name=str(tmp_path / "data")).train) == 4


def test_links_in_a_circle_and_to_nowhere_end(tmp_path: Path):
    write(tmp_path / "store", "1.png", "b/2.png")
    write(tmp_path / "t", "cat/3.png", "dog/a/4.png", "dog/b/5.png")
    (tmp_path / "t" / "cat" / "store").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "b" / "up").symlink_to("..")  # to a folder that is already read
    write(tmp_path / "above", "in/6.png", "other/7.png")
    (tmp_path / "t" / "cat" / "in").symlink_to(tmp_path / "above" / "in")
    (tmp_path / "above" / "in" / "up").symlink_to("..")  # to a folder that is reached only by this link
    (tmp_path / "store" / "back").symlink_to("../t")  # to `t`, but from outside
    (tmp_path / "t" / "dog" / "a" / "other").symlink_to("../b")
    (tmp_path / "t" / "dog" / "b" / "other").symlink_to("../a")
    for name, target in (("self", "self"), ("root", tmp_path), ("t", ".."), ("gone.png", "nowhere.png")):
        (tmp_path / "t" / "cat" / name).symlink_to(target)
    found = read_class_folders(tmp_path / "t")
    assert classes(tmp_path / "t")["cat"] == ["3.png", "in/6.png", "store/1.png", "store/b/2.png"]
    assert sorted(map(os.path.basename, found.classes["dog"])) == ["4.png", "5.png"]
    assert found.left_out == Counter(
        {"links to a folder that is already read": 7, "broken links and other entries that are not files": 2}
    )


def test_one_folder_is_not_that_of_two_classes(tmp_path: Path):
    write(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "cat" / "x").symlink_to("../dog")
    with pytest.raises(
        ValueError, match="`.*/cat/x` and `.*/dog` are the same folder, but belong to the classes 'cat' and 'dog'"
    ):
        load(train_dir=str(tmp_path))


# ---- files ----


def test_what_is_left_out_is_counted_by_ending_and_reason(tmp_path: Path):
    """Fails if .heic files, or a class with only such files, disappear without a message."""
    write(
        tmp_path, "a/1.HEIC", "a/2.heic", "a/3.JPG", "a/4.txt", "a/noending", "b/1.PNG", "only_heic/1.heic", "empty/"
    )
    write(tmp_path, "a/.DS_Store", "a/Thumbs.db", "a/.hidden.png", "__MACOSX/a/1.png", "a/@eaDir/1.png", ".git2/1.png")
    write(tmp_path, "loose.png", "metadata.csv", "a/clip.mpg")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    found = read_class_folders(tmp_path)
    assert classes(tmp_path) == {"a": ["3.JPG"], "b": ["1.PNG"]}
    assert found.empty == {"only_heic": Counter({".heic": 1}), "empty": Counter()}
    assert found.left_out == Counter(
        {
            ".heic": 3,
            ".txt": 1,
            ".mpg": 1,
            "without an extension": 1,
            "hidden": 6,
            "images outside the class folders": 1,
            "metadata files (the folders give the labels)": 1,
            "broken links and other entries that are not files": 1,
        }
    )


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "gif", "bmp", "tiff", "avif"])
def test_what_pillow_saves_is_read(tmp_path: Path, ending: str):
    if f".{ending}" not in picture_endings():
        pytest.skip("this Pillow cannot read it")
    for name in ("a", "b"):
        write(tmp_path, f"t/{name}/")
        Image.new("RGB", (6, 4), (200, 10, 10)).save(tmp_path / "t" / name / f"1.{ending.upper()}")
    rows = load(train_dir=str(tmp_path / "t")).train
    assert [image.size for image in rows["image"]] == [(6, 4), (6, 4)]


def test_names_that_are_not_utf8_are_said(tmp_path: Path):
    write(tmp_path, "a/1.png", "b/1.png")
    os.rename(tmp_path / "a" / "1.png", os.fsencode(tmp_path / "a") + b"/\xff.png")
    write(tmp_path, "a/2.png")
    assert read_class_folders(tmp_path).left_out == Counter({"names that are not UTF-8": 1})
    os.rename(tmp_path / "b", os.fsencode(tmp_path) + b"/\xfe")
    with pytest.raises(ValueError, match=r"class folder '\\udcfe' in .* has a name that is not UTF-8; rename it"):
        read_class_folders(tmp_path)


def test_folder_without_pictures_says_what_it_holds(tmp_path: Path):
    write(tmp_path, "t/cat/1.heic", "t/dog/1.heic", "t/2.png")
    for source in ({"train_dir": str(tmp_path / "t")}, {"dataset_name": str(tmp_path / "t")}):
        message = "no class folder with images .class folders without images: cat, dog; .heic 2, images outside"
        with pytest.raises(ValueError, match=message):
            load(**source)
