"""Speed of training views, compared with timm's transforms for the same recipe and the same files.

Both run in one data worker and alternate image by image, with the same random numbers. Load on the machine slows both
down equally, so the ratio is the result.
"""

import io
import time
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import PIL.Image
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..argument_checks import check
from ..data.dataset import ImageDataset, TrainingViews
from ..data.sampling import ViewKey, ViewSampler
from ..data.transforms import View, training_view
from .peers import PAPER, timm_view

GENERATED_SIZE = (375, 500)  # (height, width) in pixels, a common size in ImageNet
JPEG_QUALITY = 90


@dataclass(frozen=True)
class InputSpeed:
    """Result of a benchmark.

    Attributes:
        ours: images per second of CPU time with deit_hf, one value per round.
        timm: the same with timm.
        num_equal: views of the first round that were equal bit for bit.
        num_images: images per round.
    """

    ours: list[float]
    timm: list[float]
    num_equal: int
    num_images: int

    @property
    def ratios(self) -> list[float]:
        """Speed of deit_hf divided by that of timm, one value per round; deit_hf is faster if it is above 1."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.timm, strict=True)]

    def __str__(self) -> str:
        ratios = self.ratios
        return (
            f"deit_hf  {np.median(self.ours):8.1f} images per second and core\n"
            f"timm     {np.median(self.timm):8.1f} images per second and core\n"
            f"ratio    {np.median(ratios):8.3f} (median of {len(ratios)} rounds; {min(ratios):.3f} to "
            f"{max(ratios):.3f})\n"
            f"equal    {self.num_equal} of {self.num_images} views, bit for bit"
        )


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
    (_, _, num_equal), *counted = list(tqdm(loader, unit="round", leave=False))
    return InputSpeed([ours for ours, *_ in counted], [theirs for _, theirs, _ in counted], num_equal, len(rows))


class _Rounds(Dataset):
    """A dataset whose items are measured rounds, so that a data worker runs them."""

    def __init__(self, rows: datasets.Dataset, image_size: int, num_rounds: int, image_column_name: str):
        files = rows.cast_column(image_column_name, datasets.Image(decode=False))
        self.files = [file["bytes"] or file["path"] for file in files[image_column_name]]
        labels = rows.select_columns([image_column_name]).add_column("label", [0] * len(rows))
        images = ImageDataset(labels, image_column_name=image_column_name, label_column_name="label", num_classes=1)
        self.views = TrainingViews(images, _paper_view(image_size), seed=0)
        self.timm_view = timm_view(image_size)
        self.num_rounds = num_rounds

    def __len__(self) -> int:
        return self.num_rounds

    def __getitem__(self, index: int) -> tuple[float, float, int]:
        sampler = ViewSampler(len(self.files), step_size=len(self.files), num_repeats=1, seed=0)
        sampler.set_epoch(index)
        seconds, num_equal = [0.0, 0.0], 0
        for key in sampler:
            views = {}
            for side in (0, 1) if key.position % 2 else (1, 0):
                views[side], duration = self._timed(side, key)
                seconds[side] += duration
            num_equal += torch.equal(views[0], views[1])
        ours, theirs = (len(self.files) / duration for duration in seconds)
        return ours, theirs, num_equal

    def _timed(self, side: int, key: ViewKey) -> tuple[torch.Tensor, float]:
        """Returns a view of deit_hf (`side` 0) or timm (`side` 1), and its CPU time in seconds."""
        if side == 0:
            start = time.process_time()
            view = self.views[key]["pixel_values"]
            return view, time.process_time() - start
        with self.views.seeded(key):  # not timed: timm seeds a worker, not a view
            start = time.process_time()
            view = self._load_like_timm(self.files[key.sample])
            return view, time.process_time() - start

    def _load_like_timm(self, file: Any) -> torch.Tensor:
        """Loads and transforms an image like timm's `ImageDataset`, from bytes in memory or from a path."""
        image = PIL.Image.open(file if isinstance(file, str) else io.BytesIO(file))
        return self.timm_view(image.convert("RGB"))


def _paper_view(image_size: int) -> View:
    names = ("crop_min_scale", "horizontal_flip_prob", "random_augment", "color_jitter", "random_erase_prob")
    return training_view(
        (image_size, image_size),
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        **{name: PAPER[name] for name in names},
    )
