"""The accuracy of a teacher on training views, compared with independent arithmetic on images of one colour each."""

import random

import datasets
import numpy as np
import pytest
import torch
from torch import Tensor

from deit_hf.data.dataset import ImageDataset, TrainingViews
from deit_hf.data.finishing import PixelFinisher
from deit_hf.data.mixing import Mixing, dominating_classes
from deit_hf.data.sources.shards import ShardedRows
from deit_hf.data.streaming import ImageStream, StreamViews
from deit_hf.data.transforms import training_view
from deit_hf.evaluation import teacher_fit
from deit_hf.evaluation.teacher_fit import Counted, TeacherFit, measure_fit

NUM_CLASSES = 3  # red, green, blue images
VIEW = {"crop_mode": "simple", "random_augment": "none", "color_jitter": 0.0, "random_erase_prob": 0.0}
MIXUP = Mixing(mixup_alpha=1.0, cutmix_alpha=0.0, switch_prob=0.0, block_size=64, seed=5)


def rows_of(number: int, wrong_label_of: int | None = None) -> datasets.Dataset:
    """Images of the colour of their class; those of class `wrong_label_of` have the label of the next class."""
    classes = [i % NUM_CLASSES for i in range(number)]
    images = [np.broadcast_to(255 * np.eye(3, dtype=np.uint8)[each], (8, 8, 3)).copy() for each in classes]
    labels = [(each + 1) % NUM_CLASSES if each == wrong_label_of else each for each in classes]
    names = datasets.ClassLabel(names=["red", "green", "blue"])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


def views_of(rows: datasets.Dataset, *, stream: bool = False) -> TrainingViews:
    statistics = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    options = {"horizontal_flip_prob": 0.5, "crop_min_scale": 1.0, **VIEW}
    view = training_view((8, 8), **statistics, **options)
    columns = {"image_column_name": "image", "label_column_name": "label"}
    if stream:
        sharded = ShardedRows(rows.to_iterable_dataset(num_shards=3))
        images = ImageStream(sharded, num_images=len(rows), **columns)
        return StreamViews(images, view, seed=1, num_classes=NUM_CLASSES)
    return TrainingViews(ImageDataset(rows, num_classes=NUM_CLASSES, **columns), view, seed=1)


class ByColour:
    """Answers the strongest colour of an image; keeps the pixels that it saw."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, pixel_values: Tensor) -> Tensor:
        self.seen.append(pixel_values)
        return pixel_values.mean(dim=(2, 3))


def measure(teacher: ByColour, views: TrainingViews, mixing: Mixing | None) -> tuple[Counted | None, Counted | None]:
    finish = PixelFinisher((0.0,) * 3, (1.0,) * 3)
    return measure_fit(teacher, views, mixing=mixing, finish=finish, batch_size=16, device=torch.device("cpu"))


def test_dominating_class_is_the_one_with_the_greater_share():
    """Fails if the kept share is read as that of the partner, or a tie of two classes counts."""
    labels = torch.tensor([0, 1, 0, 1, 2, 0, 2, 2])
    ratios = torch.tensor([0.7, 0.7, 0.2, 0.2, 0.5, 0.5, 0.5, 0.5])
    assert dominating_classes(labels, ratios).tolist() == [0, 1, 1, 0, -1, -1, 2, 2]


@pytest.mark.parametrize("stream", [False, True])
def test_a_teacher_that_sees_the_strongest_colour_is_always_right(stream: bool):
    """Fails if labels and views do not belong together, or the mixes of pixels and of targets differ."""
    unmixed, mixed = measure(ByColour(), views_of(rows_of(40), stream=stream), MIXUP)
    assert unmixed == (40, 40)  # the others of 48 views, in whole batches, repeat an image
    assert mixed is not None
    assert mixed.num_correct == mixed.num_images == 40


@pytest.mark.parametrize("stream", [False, True])
def test_wrong_answers_are_counted(stream: bool):
    """One class of three is labelled wrongly, so the strongest colour is right on two thirds of the images."""
    unmixed, mixed = measure(ByColour(), views_of(rows_of(48, wrong_label_of=1), stream=stream), MIXUP)
    assert unmixed == (32, 48)
    assert mixed is not None
    assert 20 <= mixed.num_correct <= 44  # two thirds in the mean


def test_pairs_of_views_have_mixes_of_their_own():
    """Fails if 64 views share a mix, as in a training: the interval would be far too narrow."""
    teacher = ByColour()
    measure(teacher, views_of(rows_of(48)), MIXUP)
    strongest = torch.cat(teacher.seen[1::2]).amax(dim=(1, 2, 3))  # the greater share, unless both classes are equal
    assert len(strongest[strongest < 0.99].unique()) >= 10


def test_without_mixing_there_is_one_number():
    teacher = ByColour()
    assert measure(teacher, views_of(rows_of(16)), None) == ((16, 16), None)
    assert len(teacher.seen) == 1


def test_a_large_dataset_and_a_slow_teacher_are_measured_in_part(monkeypatch: pytest.MonkeyPatch):
    views = views_of(rows_of(600))
    unmixed, _ = measure(ByColour(), views, None)
    assert unmixed == (512, 512)
    assert len({key.sample for key in views.some_keys(512)}) == 512  # each image once
    monkeypatch.setattr(teacher_fit, "LONGEST", -1.0)
    assert measure(ByColour(), views, None) == ((16, 16), None)


def test_no_random_state_changes():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    measure(ByColour(), views_of(rows_of(20)), MIXUP)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_a_bad_image_does_not_end_the_measurement():
    """A training may never show it, and raises the error itself if it does."""
    rows = rows_of(20).cast_column("image", datasets.Image(decode=False))
    images = [{"bytes": b"broken" if i == 7 else row["image"]["bytes"], "path": None} for i, row in enumerate(rows)]
    broken = datasets.Dataset.from_dict({"image": images, "label": rows["label"]}, features=rows_of(1).features)
    views = views_of(broken)
    assert measure(ByColour(), views, None)[0] == (20, 20)
    assert not views.skip_bad_images  # of the training


def test_words_and_metrics_have_numbers_and_intervals():
    fit = TeacherFit(evaluation=Counted(8, 10), views=Counted(354, 512), mixed=Counted(270, 510), note="a note")
    assert fit.in_words() == (
        "top-1 69.14 % (512 views, 95 % interval 65.0 to 73.0); predicts the dominating class of 52.94 % (510 mixed "
        "views, 95 % interval 48.6 to 57.2); a note"
    )
    assert fit.metrics() == {
        "teacher_top1_on_evaluation": 0.8,
        "teacher_evaluation_images": 10,
        "teacher_top1_on_views": 354 / 512,
        "teacher_views": 512,
        "teacher_top1_on_mixed_views": 270 / 510,
        "teacher_mixed_views": 510,
    }
    assert TeacherFit().in_words() == "not measured"
    assert TeacherFit().metrics() == {}
