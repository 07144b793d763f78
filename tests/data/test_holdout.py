"""Which images are held out for validation: a share of each class, by content, the same every time."""

import random
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from deit_hf import DeiTConfig, DeiTForImageClassification, DistillationArguments
from deit_hf.data.holdout import held_out
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.data.sources.load import load_image_parts
from deit_hf.training.saved_model import evaluate


def write_classes(root: Path, sizes: dict[str, int], *, seed: int = 0) -> Path:
    """Writes different images in class folders, `sizes` of each class; returns the root."""
    generator = np.random.default_rng(seed)
    for name, number in sizes.items():
        (root / name).mkdir(parents=True)
        for i in range(number):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(root / name / f"{i:03}.png")
    return root


def contents_of(rows) -> set[bytes]:
    return {image.tobytes() for image in rows["image"]}


def test_the_share_holds_for_each_class(tmp_path: Path):
    root = write_classes(tmp_path / "photos", {"ant": 40, "bee": 20, "cat": 3})
    parts = load_image_parts(DataArguments(str(root), train_val_split=0.15))
    assert [parts.evaluation["label"].count(label) for label in range(3)] == [6, 3, 1]
    assert [parts.train["label"].count(label) for label in range(3)] == [34, 17, 2]
    assert contents_of(parts.train).isdisjoint(contents_of(parts.evaluation))
    assert parts.names["evaluation"] == "held out of train"
    assert "10 of the 63 training images are held out" in parts.notes[0]
    assert not parts.evaluation_is_test


def test_names_order_and_place_of_the_files_do_not_count(tmp_path: Path):
    root = write_classes(tmp_path / "photos", {"ant": 20, "bee": 20})
    before = contents_of(load_image_parts(DataArguments(str(root), train_val_split=0.2)).evaluation)
    for folder in (root / "ant", root / "bee"):
        names = list(range(20))
        random.Random(1).shuffle(names)
        for path, name in zip(sorted(folder.iterdir()), names, strict=True):
            path.rename(folder / f"renamed-{name:02}.png")
    moved = root.rename(tmp_path / "elsewhere")
    after = contents_of(load_image_parts(DataArguments(str(moved), train_val_split=0.2)).evaluation)
    assert after == before
    assert len(after) == 8


def test_an_evaluation_alone_reads_the_same_images(tmp_path: Path):
    """Fails if `evaluate` needs a validation part although one can be held out."""
    root = write_classes(tmp_path / "photos", {"ant": 20, "bee": 20})
    data = DataArguments(str(root), train_val_split=0.2)
    alone = load_image_parts(data, train=False)
    assert alone.train is None
    assert contents_of(alone.evaluation) == contents_of(load_image_parts(data).evaluation)


def test_an_evaluation_of_a_training_folder_reads_the_same_images(tmp_path: Path):
    """Fails if `deit-hf evaluate --train_dir DIR --train_val_split 0.2` is refused as reading training data."""
    root = write_classes(tmp_path / "photos", {"ant": 20, "bee": 20})
    config = DeiTConfig(image_size=8, patch_size=4, hidden_size=24, intermediate_size=24, num_hidden_layers=1)
    config.num_labels = 2
    DeiTForImageClassification(config).save_pretrained(tmp_path / "model")
    data = DataArguments(train_dir=str(root), train_val_split=0.2)
    args = DistillationArguments(str(tmp_path / "out"), report_to="none")
    assert evaluate(str(tmp_path / "model"), data, args)["eval_samples"] == 8


def test_a_test_part_stays_a_test_part(tmp_path: Path):
    for part in ("train", "test"):
        write_classes(tmp_path / "photos" / part, {"ant": 8, "bee": 8}, seed=len(part))
    parts = load_image_parts(DataArguments(str(tmp_path / "photos"), train_val_split=0.25))
    assert (len(parts.train), len(parts.evaluation), len(parts.test)) == (12, 4, 16)


def test_a_validation_part_is_used_as_it_is(tmp_path: Path):
    for part in ("train", "val"):
        write_classes(tmp_path / "photos" / part, {"ant": 8, "bee": 8}, seed=len(part))
    parts = load_image_parts(DataArguments(str(tmp_path / "photos"), train_val_split=0.25))
    assert (len(parts.train), len(parts.evaluation)) == (16, 16)
    assert parts.notes == ["`train_val_split` is not used: the data has a validation part, `val`"]


def test_the_digits_have_a_validation_part_by_content():
    parts = load_image_parts(DataArguments("digits", train_val_split=0.15))
    assert (len(parts.train) + len(parts.evaluation), len(parts.test)) == (1437, 360)


def test_equal_images_are_not_separated():
    contents = [b"a", b"a", b"a", b"b", b"c", b"c"]
    assert held_out(contents, [0] * 6, 0.5) in ([0, 1, 2], [0, 1, 2, 3], [3, 4, 5])
    assert held_out(contents, [0] * 6, 0.1) == [0, 1, 2]
    # an image that two classes have
    both = held_out([b"a", b"b", b"a", b"c"], [0, 0, 1, 1], 0.5)
    assert (0 in both) == (2 in both)


def test_a_class_keeps_an_image_to_train_on():
    assert held_out([b"a", b"b", b"b"], [0, 1, 1], 0.9) == []
    assert len(held_out([b"a", b"b"], [0, 0], 0.99)) == 1


def test_data_without_two_different_images_of_a_class_is_refused(tmp_path: Path):
    root = write_classes(tmp_path / "photos", {"ant": 1, "bee": 1})
    with pytest.raises(ValueError, match="no image of 2 can be held out .* add images, or name a validation part"):
        load_image_parts(DataArguments(str(root), train_val_split=0.15))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_val_split": 15.0}, r"`train_val_split` is 15.0, but must be in \(0, 1\)"),
        ({"train_val_split": 0.1, "eval_split": "dev"}, "`train_val_split` is 0.1 and `eval_split` is dev; give one"),
        ({"train_val_split": 0.1, "streaming": True}, "`streaming` reads the training split in order"),
    ],
)
def test_a_share_that_cannot_be_held_out_is_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DataArguments("somewhere/photos", **options)
