"""Speed of training views, compared with timm's transforms for the same recipe and the same files.

Both run in one data worker and take turns, a small batch each, with the same random numbers. Load on the machine slows
both down equally, so the ratio is the result. This package normalises and erases views on the device of the training,
so its speed is given without and with this work on the same core; timm's transform includes it.
"""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import PIL.Image
import timm.data
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..argument_checks import check
from ..data.dataset import ImageDataset, TrainingViews, seeded
from ..data.decoding import decode_for_view
from ..data.finishing import PixelFinisher
from ..data.sampling import ViewKey, ViewSampler
from ..data.transforms import TrainingView, random_resized_crop, training_view
from .peers import PAPER, timm_view

GENERATED_SIZE = (375, 500)  # (height, width) in pixels, a common size in ImageNet
JPEG_QUALITY = 90
BATCH_SIZE = 16  # views in one turn


@dataclass(frozen=True)
class InputSpeed:
    """Result of a benchmark.

    Attributes:
        ours: images per second of CPU time with deit_hf, one value per round: the work of a data worker.
        finished: the same with the work that a training does on the device.
        timm: the same with timm.
        largest_difference: between the crops of both before augmentation, in levels of 255; 0 if they are equal.
        mean_difference: likewise.
        num_images: images per round.
    """

    ours: list[float]
    finished: list[float]
    timm: list[float]
    largest_difference: int
    mean_difference: float
    num_images: int

    @property
    def ratios(self) -> list[float]:
        """Speed of deit_hf divided by that of timm, one value per round; deit_hf is faster if it is above 1."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.timm, strict=True)]

    @property
    def finished_ratios(self) -> list[float]:
        """The same with the work that a training does on the device."""
        return [ours / theirs for ours, theirs in zip(self.finished, self.timm, strict=True)]

    def __str__(self) -> str:
        unit = "images per second and core"
        return (
            f"deit_hf  {np.median(self.ours):8.1f} {unit}\n"
            f"         {np.median(self.finished):8.1f} with normalisation and erasing on the same core\n"
            f"timm     {np.median(self.timm):8.1f} {unit}, normalisation and erasing included\n"
            f"ratio    {_in_words(self.ratios)}\n"
            f"         {_in_words(self.finished_ratios)} with normalisation and erasing\n"
            f"crops    differ by at most {self.largest_difference} of 255 levels, {self.mean_difference:.4f} on "
            f"average ({self.num_images} images, before augmentation)"
        )


def _in_words(ratios: list[float]) -> str:
    rounds = f"median of {len(ratios)} rounds; {min(ratios):.3f} to {max(ratios):.3f}"
    return f"{np.median(ratios):8.3f} ({rounds})"


def generate_jpegs(num_images: int) -> datasets.Dataset:
    """Returns rows of image and label with generated JPEG files: smooth random textures with noise, always equal."""
    check("num_images", num_images, lambda v: v >= 1, "1 or more")
    height, width = GENERATED_SIZE
    files = []
    for index in range(num_images):
        generator = np.random.default_rng(index)
        coarse = PIL.Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        texture = np.asarray(coarse.resize((width, height), PIL.Image.Resampling.BICUBIC))
        pixels = (texture + generator.integers(-12, 13, texture.shape)).clip(0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
        files.append({"bytes": buffer.getvalue(), "path": None})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"image": files, "label": [0] * num_images}, features=features)


def measure_input(
    rows: datasets.Dataset, *, image_size: int, num_rounds: int, image_column_name: str = "image"
) -> InputSpeed:
    """Measures the speed of the paper's training views of all rows, alternating between deit_hf and timm.

    Args:
        rows: with encoded images; labels are ignored.
        image_size: height and width of a view in pixels.
        num_rounds: measured passes over all rows; one more pass comes first as a warm-up.
        image_column_name: column of images.

    Raises:
        ValueError: the column is missing, a number is out of range, or an image cannot be decoded.
    """
    if image_column_name not in rows.column_names:
        raise ValueError(
            f"the dataset has no column `{image_column_name}`, only {', '.join(rows.column_names)}; set "
            "`image_column_name`"
        )
    check("num_rounds", num_rounds, lambda v: v >= 1, "1 or more")
    check("image_size", image_size, lambda v: v >= 2, "2 pixels or more")
    rounds = _Rounds(rows, image_size, num_rounds + 1, image_column_name)
    loader = DataLoader(rounds, batch_size=None, num_workers=1)
    _, *counted = list(tqdm(loader, unit="round", leave=False))
    ours, finished, theirs = ([speeds[i] for speeds in counted] for i in range(3))
    return InputSpeed(ours, finished, theirs, *rounds.crop_difference(), len(rows))


class _Rounds(Dataset):
    """A dataset whose items are measured rounds, so that a data worker runs them."""

    def __init__(self, rows: datasets.Dataset, image_size: int, num_rounds: int, image_column_name: str):
        files = rows.cast_column(image_column_name, datasets.Image(decode=False))
        self.files = [file["bytes"] or file["path"] for file in files[image_column_name]]
        labels = rows.select_columns([image_column_name]).add_column("label", [0] * len(rows))
        images = ImageDataset(labels, image_column_name=image_column_name, label_column_name="label", num_classes=1)
        self.image_size = image_size
        self.views = TrainingViews(images, _paper_view(image_size), seed=0)
        self.finish = PixelFinisher(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        self.timm_view = timm_view(image_size)
        self.num_rounds = num_rounds

    def __len__(self) -> int:
        return self.num_rounds

    def __getitem__(self, index: int) -> tuple[float, float, float]:
        sampler = ViewSampler(len(self.files), step_size=len(self.files), num_repeats=1, seed=0)
        sampler.set_epoch(index)
        keys = list(sampler)
        ours = finishing = theirs = 0.0  # seconds
        for turn, start in enumerate(range(0, len(keys), BATCH_SIZE)):
            batch = keys[start : start + BATCH_SIZE]
            if turn % 2:
                theirs += self._time_timm(batch)
            began = time.process_time()
            views = self.views.__getitems__(batch)
            made = time.process_time()
            for view in views:
                self.finish(view["pixels"][None], [view["erasure"]])
            ours, finishing = ours + made - began, finishing + time.process_time() - made
            if turn % 2 == 0:
                theirs += self._time_timm(batch)
        count = len(self.files)
        return count / ours, count / (ours + finishing), count / theirs

    def _time_timm(self, keys: Sequence[ViewKey]) -> float:
        """Returns the CPU time of timm's views in seconds."""
        seconds = 0.0
        for key in keys:
            with seeded(*self.views.entropy(key)):  # not timed: timm seeds a worker, not a view
                start = time.process_time()
                self.timm_view(_loaded_like_timm(self.files[key.sample]))
                seconds += time.process_time() - start
        return seconds

    def crop_difference(self) -> tuple[int, float]:
        """Returns the largest and the mean difference between our crops and those of timm's class, in levels."""
        crop, *_ = timm.data.create_transform(
            self.image_size, is_training=True, separate=True, interpolation="bicubic"
        )
        largest, total = 0, 0.0
        for index, file in enumerate(self.files):
            decoded = decode_for_view(self.views.images.source(index), "an image")
            with seeded(*self.views.entropy(ViewKey(0, 0, index, 0))):
                ours = np.asarray(random_resized_crop(crop.transforms[0], decoded), np.int16)
            with seeded(*self.views.entropy(ViewKey(0, 0, index, 0))):
                theirs = np.asarray(crop.transforms[0](_loaded_like_timm(file)), np.int16)
            difference = np.abs(ours - theirs)
            largest, total = max(largest, int(difference.max())), total + float(difference.mean())
        return largest, total / len(self.files)


def _loaded_like_timm(file: Any) -> PIL.Image.Image:
    """Loads an image like timm's `ImageDataset`, from bytes in memory or from a path."""
    return PIL.Image.open(file if isinstance(file, str) else io.BytesIO(file)).convert("RGB")


def _paper_view(image_size: int) -> TrainingView:
    names = ("crop_min_scale", "horizontal_flip_prob", "random_augment", "color_jitter", "random_erase_prob")
    return training_view(
        (image_size, image_size),
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        **{name: PAPER[name] for name in names},
    )
