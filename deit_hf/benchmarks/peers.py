"""The same DeiT in timm and in transformers, and timm's own training, for a comparison of equal work."""

import dataclasses
import io
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import datasets
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

from ..data.sources.arguments import DataArguments
from ..data.transforms import View, posterize
from ..model.configuration_deit import DeiTConfig, to_pair
from ..model.conversion import Classifier, to_timm_state_dict
from ..training.arguments import DistillationArguments
from .comparison import autocast

PAPER: dict[str, Any] = {option.name: option.default for option in dataclasses.fields(DistillationArguments)}


def view_options(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The views of a recipe in the words of timm, as in the official code (datasets.py:82-91, main.py).

    Args:
        recipe: options of `DistillationArguments`; `random_augment` is a policy of timm, or none.
    """
    return {
        "scale": (recipe["crop_min_scale"], 1.0),
        "hflip": recipe["horizontal_flip_prob"],
        "auto_augment": None if recipe["random_augment"] == "none" else recipe["random_augment"],
        "color_jitter": recipe["color_jitter"] or None,
        "interpolation": "bicubic",
        "re_prob": recipe["random_erase_prob"],
        "re_mode": "pixel",
        "re_count": 1,
    }


def mixing_options(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Mixing and smoothing of a recipe in the words of timm."""
    return {
        "mixup_alpha": recipe["mixup_alpha"],
        "cutmix_alpha": recipe["cutmix_alpha"],
        "switch_prob": recipe["mixup_switch_prob"],
        "label_smoothing": recipe["label_smoothing"],
    }


def timm_architecture(variant: str, config: DeiTConfig) -> nn.Module:
    """Returns timm's model of a variant with the sizes of a configuration, initialised by timm."""
    return timm.create_model(
        variant,
        num_classes=config.num_labels,
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        mlp_ratio=(config.intermediate_size + 0.5) / config.hidden_size,  # timm rounds the width down
        drop_path_rate=config.drop_path_rate,
    )


def timm_model(variant: str, ours: Classifier) -> nn.Module:
    """Returns timm's model of a variant with the weights, sizes and stochastic depth of ours."""
    model = timm_architecture(variant, ours.config)
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
    view = create_transform((3, image_size, image_size), is_training=True, **view_options(PAPER))
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


def encoded_images(rows: datasets.Dataset, data_args: DataArguments) -> tuple[list[bytes | str], list[int]]:
    """Returns the images of rows as bytes or paths, and their labels."""
    undecoded = rows.cast_column(data_args.image_column_name, datasets.Image(decode=False))
    files = [file["bytes"] or file["path"] for file in undecoded[data_args.image_column_name]]
    return files, list(rows[data_args.label_column_name])


def timm_loader(
    images: TimmImages,
    image_size: int | tuple[int, int],
    batch_size: int,
    *,
    recipe: Mapping[str, Any],
    num_classes: int,
    device: torch.device,
    **options: Any,
) -> Any:
    """Returns timm's loader of complete batches of mixed training views and their targets.

    Args:
        images: of the training; gets the view as its `transform`.
        image_size: of a view in pixels, one number or (height, width).
        batch_size: images per step.
        recipe: options of `DistillationArguments`.
        num_classes: of the images.
        device: of the batches.
        options: others of timm's `create_loader`.
    """
    loader = create_loader(
        images,
        (3, *to_pair(image_size)),
        batch_size,
        is_training=True,
        **view_options(recipe),
        collate_fn=FastCollateMixup(**mixing_options(recipe), num_classes=num_classes),
        device=device,
        pin_memory=device.type != "cpu",
        **options,
    )
    _replace_posterize(images.transform)
    return loader


def timm_task(model: nn.Module, teacher: nn.Module | None, device: torch.device, *, weight: float = 0.5) -> Any:
    """Returns timm's objective: of labels alone, or of labels and the decisions of a teacher.

    Args:
        model: timm's.
        teacher: takes the student's pixels; its decisions are the targets of the distillation head.
        device: of the model.
        weight: of the distillation loss; the label loss has weight 1 minus this.
    """
    criterion = SoftTargetCrossEntropy()
    if teacher is None:
        return ClassificationTask(model, criterion, device=device, verbose=False)
    # our wrapper of the teacher, so that both packages ask the same one
    options: Any = {"distill_type": "hard", "task_loss_weight": 1 - weight, "device": device, "verbose": False}
    return TokenDistillationTask(model, _Answers(teacher), criterion, **options)


def steps(
    batches: Iterable[Any],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[Tensor]:
    """Takes one optimizer step for each batch, and yields its loss.

    Args:
        batches: pixels and targets.
        loss_of: the loss of pixels and targets.
        optimizer: of the model.
        device: of the model.
        dtype: of the products.
    """
    for pixels, targets in batches:
        with autocast(device, dtype):
            loss = loss_of(pixels, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.detach()


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
        self.task = timm_task(model.to(device), teacher, device)
        self.optimizer = create_optimizer_v2(model, opt="adamw", lr=5e-4, weight_decay=PAPER["weight_decay"])
        if compiled:
            self.task.compile()
        options: Any = {"recipe": PAPER, "num_classes": num_classes, "num_workers": num_workers, "device": device}
        options["persistent_workers"] = False  # as in `Trainer`
        self._make_loader = partial(timm_loader, images, image_size, batch_size, **options)

    def run(self, num_epochs: int) -> None:
        """Trains on all complete batches of some epochs."""
        self.task.train()
        loader = self._make_loader()
        for _ in range(num_epochs):
            for _loss in steps(self._waited(loader), self._loss, self.optimizer, self.device, self.dtype):
                pass

    def _loss(self, pixels: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.task(pixels, targets)["loss"]
        return loss

    def _waited(self, loader: Iterable[Any]) -> Iterator[Any]:
        batches = iter(loader)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waiting.append(time.perf_counter() - start)
            if batch is None:
                return
            yield batch


class _Answers(nn.Module):
    """A teacher under another attribute than `module`, behind which timm would look for the mean and std."""

    def __init__(self, teacher: nn.Module):
        super().__init__()
        self.teacher = teacher

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.teacher(pixels)
        return logits
