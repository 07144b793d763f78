"""The fingerprint of training rows depends on their content, not on where they are stored."""

import io
import shutil
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import PIL.Image
import pytest

from deit_hf.data.dataset import ImageDataset, TrainingViews
from deit_hf.data.fingerprint import data_fingerprint, file_fingerprint, spread_places
from deit_hf.data.streaming import ImageStream, StreamViews


def rows_of(images: list, labels: list[int]) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


def fingerprint(rows) -> dict:
    if isinstance(rows, datasets.IterableDataset):
        stream = ImageStream(rows, image_column_name="image", label_column_name="label", num_images=12)
        return data_fingerprint(StreamViews(stream, None, seed=0, num_classes=3))
    images = ImageDataset(rows, image_column_name="image", label_column_name="label", num_classes=3)
    return data_fingerprint(TrainingViews(images, None, seed=0))


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    generator = np.random.default_rng(0)
    (tmp_path / "a").mkdir()
    for i in range(12):
        PIL.Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "a" / f"{i}.png")
    return [str(tmp_path / "a" / f"{i}.png") for i in range(12)]


LABELS = [i % 3 for i in range(12)]


def test_the_same_pictures_in_another_place_or_in_a_table_are_the_same(files: list[str], tmp_path: Path):
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    moved = [str(tmp_path / "b" / Path(file).name) for file in files]
    inside = [{"bytes": Path(file).read_bytes(), "path": None} for file in files]
    found = [fingerprint(rows_of(images, LABELS)) for images in (files, moved, inside)]
    assert found[0] == found[1] == found[2]
    assert found[0]["rows"] == 12


def _replace(files: list[str], labels: list[int]) -> None:
    shutil.copy(files[0], files[11])


def _relabel(files: list[str], labels: list[int]) -> None:
    labels[5] = (labels[5] + 1) % 3


def _swap(files: list[str], labels: list[int]) -> None:
    files[0], files[3] = files[3], files[0]  # both of the same class


def _drop(files: list[str], labels: list[int]) -> None:
    files.pop()
    labels.pop()


@pytest.mark.parametrize(
    ("change", "part"), [(_replace, "pictures"), (_relabel, "labels"), (_swap, "pictures"), (_drop, "rows")]
)
def test_other_rows_are_others(files: list[str], change, part: str):
    before, labels = fingerprint(rows_of(files, LABELS)), [*LABELS]
    change(files, labels)
    assert fingerprint(rows_of(files, labels))[part] != before[part]


def test_stream_is_known_by_its_shards_and_the_first_rows_of_some(files: list[str]):
    def of(files: list[str], labels: list[int], shards: int = 6) -> dict:
        return fingerprint(rows_of(files, labels).to_iterable_dataset(num_shards=shards))

    before = of(files, LABELS)
    assert before == of([*files], [*LABELS])
    assert of([files[1], *files[1:]], LABELS)["pictures"] != before["pictures"]
    assert of(files, [1, *LABELS[1:]])["labels"] != before["labels"]
    assert of(files, LABELS, shards=3)["shards"] != before["shards"]


def test_missing_pictures_are_for_the_training_to_report(files: list[str]):
    Path(files[3]).unlink()
    assert fingerprint(rows_of(files, LABELS))["rows"] == 12


def test_selected_rows_are_those_that_count(files: list[str]):
    rows = rows_of(files, LABELS)
    assert fingerprint(rows.select([3, 4])) == fingerprint(rows_of(files[3:5], LABELS[3:5]))


def test_only_some_pictures_of_many_are_read():
    read = []
    image = io.BytesIO()
    PIL.Image.new("RGB", (4, 4)).save(image, "png")

    class Images:
        labels = np.zeros(100_000, np.int64)

        def __len__(self) -> int:
            return len(self.labels)

        def source(self, index: int) -> dict:
            read.append(index)
            return {"bytes": image.getvalue(), "path": None}

    data_fingerprint(SimpleNamespace(images=Images()))
    assert len(read) == 256
    assert read[0] == 0
    assert read[-1] > 99_000


def test_places_are_spread_evenly():
    assert spread_places(3, 5) == [0, 1, 2]
    assert spread_places(10, 4) == [0, 2, 5, 7]


def test_large_file_is_known_by_chunks_all_over_it(tmp_path: Path):
    content = bytearray(range(256)) * 40
    (tmp_path / "file").write_bytes(content)
    before = file_fingerprint(tmp_path / "file", chunks=8, chunk_size=256)
    content[-1] ^= 1
    (tmp_path / "file").write_bytes(content)
    assert file_fingerprint(tmp_path / "file", chunks=8, chunk_size=256) != before
