"""What files, folders, globs and URLs stand for, without opening an image."""

import os
from pathlib import Path

import pytest

from deit_hf.data.sources.image_paths import find_images


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/ with images at three depths, hidden and other files, and a link to itself."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.JPG",
        "cat/a.png",
        "cat/deep/c.webp",
        ".hidden.jpg",
        ".cache/x.jpg",
        "__MACOSX/y.jpg",
        "notes.txt",
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "photos" / "cat" / "loop").symlink_to(tmp_path / "photos")
    return Path("photos")


EVERY = ["photos/b.JPG", "photos/cat/a.png", "photos/cat/deep/c.webp"]


def test_a_folder_stands_for_the_visible_images_at_any_depth(photos: Path):
    assert find_images(["photos"]) == EVERY


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("photos/*", EVERY),  # as if the shell had expanded it, without notes.txt
        ("photos/**/*.png", ["photos/cat/a.png"]),
        ("photos/*/*.png", ["photos/cat/a.png"]),
        ("phot?s/cat/deep", ["photos/cat/deep/c.webp"]),
    ],
)
def test_a_glob_that_no_shell_has_expanded_stands_for_its_images(photos: Path, pattern: str, names: list[str]):
    assert [name for name in find_images([pattern]) if "loop" not in name] == names


def test_order_is_that_of_the_names_and_each_image_comes_once(photos: Path):
    url = "https://example.org/x.jpg"
    named = ["photos/notes.txt", "photos/cat/a.png", url, "photos", str(photos.absolute() / "b.JPG")]
    # a file that is named itself is taken whatever its extension is
    assert find_images(named) == ["photos/notes.txt", "photos/cat/a.png", url, EVERY[0], EVERY[2]]


def test_a_file_whose_name_is_a_glob_is_that_file(photos: Path):
    Path("photos/[1].jpg").touch()
    assert find_images(["photos/[1].jpg"]) == ["photos/[1].jpg"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.jpg", r"`nowhere.jpg` does not exist \(looked in .*\); name an image, a folder, a glob"),
        ("photos/*.gif", r"`photos/\*.gif` matches no file \(looked in"),
        ("photos/*.txt", r"`photos/\*.txt` contains no image that can be read \(only other files: .txt 1\)"),
        ("empty", r"`empty` contains no image that can be read \(it is empty\)"),
        ("s3://bucket/a.jpg", "`s3://bucket/a.jpg` is not a web address"),
    ],
)
def test_what_names_no_image_is_an_error(photos: Path, path: str, message: str):
    os.mkdir("empty")
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        find_images(["photos/b.JPG", path])
