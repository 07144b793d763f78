"""The same DeiT in timm and in transformers, and timm's own training, for a comparison of equal work."""

import dataclasses
import io
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import PIL.Image
import timm
import torch
import transformers
from timm.data import FastCollateMixup, auto_augment, create_loader, create_transform
from timm.data.auto_augment import RandAugment
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask, TokenDistillationTask
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..data.transforms import View, posterize
from ..model.conversion import Classifier, to_timm_state_dict
from ..training.arguments import DistillationArguments
from .comparison import autocast

PAPER: dict[str, Any] = {option.name: option.default for option in dataclasses.fields(DistillationArguments)}
# The paper's recipe in the words of timm, as in the official code (datasets.py:82-91, main.py).
TIMM_VIEW: dict[str, Any] = {
    "auto_augment": PAPER["random_augment"],
    "color_jitter": PAPER["color_jitter"],
    "interpolation": "bicubic",
    "re_prob": PAPER["random_erase_prob"],
    "re_mode": "pixel",
    "re_count": 1,
}
TIMM_MIXING: dict[str, Any] = {
    "mixup_alpha": PAPER["mixup_alpha"],
    "cutmix_alpha": PAPER["cutmix_alpha"],
    "switch_prob": PAPER["mixup_switch_prob"],
    "label_smoothing": PAPER["label_smoothing"],
}


def timm_model(variant: str, ours: Classifier) -> nn.Module:
    """Returns timm's model of a variant with the weights, image size and stochastic depth of ours."""
    config = ours.config
    model = timm.create_model(
        variant, num_classes=config.num_labels, img_size=config.image_size, drop_path_rate=config.drop_path_rate
    )
    model.load_state_dict(to_timm_state_dict(ours))
    return model


def transformers_model(ours: Classifier) -> nn.Module:
    """Returns transformers' model with our weights and its fused attention (SDPA); it has no stochastic depth."""
    theirs: Any = transformers.ViTForImageClassification
    if ours.config.use_distillation_token:
        theirs = transformers.DeiTForImageClassificationWithTeacher
    with tempfile.TemporaryDirectory() as folder:
        ours.save_pretrained(folder)
        model: nn.Module = theirs.from_pretrained(folder, attn_implementation="sdpa")
    return model


def timm_view(image_size: int) -> View:
    """Calls timm's `create_transform` like the official code (official datasets.py:82-91)."""
    view = create_transform((3, image_size, image_size), is_training=True, **TIMM_VIEW)
    _replace_posterize(view)
    return view


def _replace_posterize(view: Any) -> None:
    """Replaces one operation of timm's RandAugment, which fails with Pillow 13."""
    for step in view.transforms:
        for operation in step.ops if isinstance(step, RandAugment) else ():
            if operation.aug_fn is auto_augment.posterize:
                operation.aug_fn = posterize


class TimmImages(Dataset):
    """Images and labels, loaded like timm's `ImageDataset`; timm's `create_loader` sets `transform`."""

    def __init__(self, files: Sequence[bytes | str], labels: Sequence[int]):
        self.files, self.labels = files, labels
        self.transform: View | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        assert self.transform is not None
        file = self.files[index]
        image = PIL.Image.open(io.BytesIO(file) if isinstance(file, bytes) else file).convert("RGB")
        return self.transform(image), self.labels[index]


class TimmTraining:
    """timm's own training: its loader, mixing, task and optimizer, connected as in its train.py.

    Attributes:
        waiting: seconds of each wait for a batch, to which `run` adds.
    """

    def __init__(
        self,
        variant: str,
        images: TimmImages,
        *,
        num_classes: int,
        teacher: nn.Module | None,
        image_size: int,
        batch_size: int,
        num_workers: int,
        dtype: torch.dtype,
        device: torch.device,
        compiled: bool,
    ):
        """Creates model, task, optimizer and loader.

        Args:
            variant: of the student, with timm's name.
            images: of the training.
            num_classes: of the images.
            teacher: takes the student's pixels; its decisions are the targets of the distillation head.
            image_size: side of a view in pixels.
            batch_size: images per step.
            num_workers: data workers.
            dtype: of the products.
            device: of the student.
            compiled: whether student and teacher are compiled.
        """
        self.dtype, self.device = dtype, device
        self.waiting: list[float] = []
        model: Any = timm.create_model(variant, num_classes=num_classes, img_size=image_size, drop_path_rate=0.1)
        model.to(device)
        criterion = SoftTargetCrossEntropy()
        if teacher is None:
            self.task: Any = ClassificationTask(model, criterion, device=device, verbose=False)
        else:
            # half of the loss each; our wrapper of the teacher, so that both packages ask the same one
            options: Any = {"distill_type": "hard", "task_loss_weight": 0.5, "device": device, "verbose": False}
            self.task = TokenDistillationTask(model, _Answers(teacher), criterion, **options)
        self.optimizer = create_optimizer_v2(model, opt="adamw", lr=5e-4, weight_decay=PAPER["weight_decay"])
        if compiled:
            self.task.compile()
        self._make_loader = partial(
            create_loader,
            images,
            (3, image_size, image_size),
            batch_size,
            is_training=True,
            **TIMM_VIEW,
            collate_fn=FastCollateMixup(**TIMM_MIXING, num_classes=num_classes),
            num_workers=num_workers,
            persistent_workers=False,  # as in `Trainer`
            device=device,
            pin_memory=device.type != "cpu",
        )
        self._images = images

    def run(self, num_epochs: int) -> None:
        """Trains on all complete batches of some epochs."""
        self.task.train()
        loader = self._make_loader()
        _replace_posterize(self._images.transform)
        for _ in range(num_epochs):
            batches = iter(loader)
            while (batch := self._next(batches)) is not None:
                pixels, targets = batch
                with autocast(self.device, self.dtype):
                    loss = self.task(pixels, targets)["loss"]
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()

    def _next(self, batches: Iterator[Any]) -> Any:
        start = time.perf_counter()
        batch = next(batches, None)
        self.waiting.append(time.perf_counter() - start)
        return batch


class _Answers(nn.Module):
    """A teacher under another attribute than `module`, behind which timm would look for the mean and std."""

    def __init__(self, teacher: nn.Module):
        super().__init__()
        self.teacher = teacher

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.teacher(pixels)
        return logits
