"""Trains the student of a run with other code: timm's own training, or the official formulas in a plain loop.

Student, teacher, images, batch, epochs, learning rates, weight decay and the kinds of views and mixing are those that
`train` would use. The code, the random numbers and the initial weights are the peer's.
Differs from this package's training, and cannot be set: timm resizes a decoded JPEG with Pillow, mixes an image with
the one at the mirrored place in the batch, and draws the mixing once for each batch, not for each 64 images.
With the same seed, both peers have the same initial weights and batches, so that they differ only in their loops.
"""

import itertools
import json
import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BaseImageProcessor, set_seed
from transformers.trainer_utils import speed_metrics

from ..argument_checks import check_choice
from ..data.sources.arguments import DataArguments
from ..data.sources.load import ImageParts
from ..data.transforms import THREE_AUGMENT
from ..distillation.teacher import Teacher
from ..model.arguments import ModelArguments
from ..model.configuration_deit import DeiTConfig
from ..model.conversion import convert_checkpoint
from ..model.image_processing_deit import crop_size, statistics_of
from ..model.variants import VARIANTS
from ..reliability.checkpoints import begin_run, end_run, find_checkpoint, is_finished, remembered_places
from ..reliability.numerical_faults import NonFiniteLossError
from ..reliability.run_identity import read_identity, write_identity
from ..reliability.run_lock import run_lock
from ..reliability.stop_signals import LeaveOnSignal
from ..training.arguments import DistillationArguments
from ..training.changeable_options import HARMLESS
from ..training.progress import ViewProgress
from ..training.recipe_file import effective_options
from ..training.run import check_run_options, make_trainer
from ..training.schedule import num_warmup_steps
from .comparison import synchronize
from .peers import TimmImages, encoded_images, steps, timm_architecture, timm_loader, timm_task

PEERS = ("timm", "plain")
# Options of a training that a peer follows. Others must have their default, except those without effect on weights.
FOLLOWED = {"num_train_epochs", "per_device_train_batch_size", "learning_rate", "base_learning_rate", "seed"}
FOLLOWED |= {"warmup_epochs", "warmup_steps", "warmup_learning_rate", "min_learning_rate", "weight_decay"}
FOLLOWED |= {"adam_beta1", "adam_beta2", "adam_epsilon", "bf16", "tf32", "torch_compile", "torch_compile_backend"}
FOLLOWED |= {"distillation_weight", "mixup_alpha", "cutmix_alpha", "mixup_switch_prob", "label_smoothing"}
FOLLOWED |= {"random_augment", "color_jitter", "random_erase_prob", "crop_min_scale", "horizontal_flip_prob"}
UNUSED = {"distillation_temperature", "distillation_reduction", "ema_warmup", "num_streams", "shuffle_buffer_size"}
REQUIRED = {"distillation_type": "hard", "repeated_augmentation": 1}
SIZES = {"patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_labels"}
SIZES |= {"image_size", "drop_path_rate"}
_NOT_OF_PEERS = {"push_to_hub", "on_bad_image", "min_steps_per_epoch", "load_best_model_at_end", "teacher_cache"}
_TRAINED_BY = "trained_by"


def check_peer_options(
    peer: str, model_args: ModelArguments, data_args: DataArguments, args: DistillationArguments
) -> None:
    """Refuses options that a peer would ignore.

    Raises:
        ValueError: the peer is unknown, or an option has a value that it cannot follow; names both values.
    """
    check_choice("peer", peer, PEERS)
    check_run_options(model_args, data_args, args)
    if not VARIANTS.get(str(model_args.variant), {}).get("use_distillation_token"):
        raise ValueError(f"`variant` is {model_args.variant}, but peers train only distilled variants; name one")
    assert not isinstance(model_args.config_overrides, str)
    _refuse_unless("config_overrides", sorted({*(model_args.config_overrides or {})} - SIZES), [], peer)
    _refuse_unless("world_size", args.world_size, 1, peer)
    _refuse_unless("resume_from_checkpoint", args.resume_from_checkpoint, None, peer)
    defaults = {option.name: option.default for option in fields(args)}
    for name, value in effective_options(args).items():
        if name not in FOLLOWED | UNUSED | (HARMLESS - _NOT_OF_PEERS):
            _refuse_unless(name, value, REQUIRED.get(name, defaults[name]), peer)
    if args.random_augment == THREE_AUGMENT or not args.mixes:
        raise ValueError(
            f"`random_augment` is {args.random_augment}, `mixup_alpha` {args.mixup_alpha} and `cutmix_alpha` "
            f"{args.cutmix_alpha}, but timm's loader has no {THREE_AUGMENT} and always mixes; change them in all rows"
        )


def _refuse_unless(name: str, value: Any, wanted: Any, peer: str) -> None:
    if value != wanted and (value or wanted):  # None and False mean the same
        raise ValueError(
            f"`{name}` is {value}, but the peer {peer} trains with {wanted}; give this value to all rows, or leave "
            "the peer out"
        )


def train_peer(
    peer: str, model_args: ModelArguments, data_args: DataArguments, args: DistillationArguments, parts: ImageParts
) -> None:
    """Trains with a peer, and writes model, processor and `train_results.json` to `args.output_dir`.

    Nothing is saved before the end: a run that was stopped starts again. A finished run stays as it is.

    Args:
        peer: `timm` (its loader, mixing, task, optimizer and schedule), or `plain` (the same loader, model, optimizer
            and schedule, with the official formulas in a plain loop).
        model_args: student and teacher.
        data_args: the data.
        args: the options of the training.
        parts: the data that `data_args` describes; only its training rows are used.

    Raises:
        ValueError: the peer would ignore an option, or options, data, student and teacher do not match each other or
            an earlier run in the directory.
        OSError: the teacher is not found.
        FileExistsError: `args.output_dir` contains other files.
        NonFiniteLossError: the loss was infinite or NaN.
        TrainingStopped: a signal was received.
    """
    check_peer_options(peer, model_args, data_args, args)
    if not isinstance(parts.train, datasets.Dataset):
        raise ValueError("the training rows are a stream, but peers train on datasets that are not streamed")
    with LeaveOnSignal(), run_lock(args.output_dir, args.distributed_state):
        checkpoint = find_checkpoint(args)
        trained_by = (read_identity(args.output_dir) or {"facts": {}})["facts"].get(_TRAINED_BY, "this package")
        finished = is_finished(args.output_dir) and not args.overwrite_output_dir
        if checkpoint is not None or (finished and trained_by != peer):
            raise ValueError(
                f"`output_dir` {args.output_dir} holds a run that was trained by {trained_by}, not by the peer "
                f"{peer}; name another directory"
            )
        trainer, _ = make_trainer(model_args, data_args, args, parts)
        trainer.same_run.settle(*remembered_places(args, None))
        if finished:
            return
        begin_run(args)
        record = trainer.same_run.record()
        write_identity(args.output_dir, {**record, "facts": {**record["facts"], _TRAINED_BY: peer}})
        assert isinstance(trainer.teacher, Teacher)
        images = TimmImages(*encoded_images(parts.train, data_args))
        config, processor = trainer.model.config, trainer.processing_class
        model, results = _trained(peer, str(model_args.variant), config, processor, trainer.teacher, images, args)
        convert_checkpoint(model, config=config).save_pretrained(args.output_dir)  # also compares the logits
        processor.save_pretrained(args.output_dir)
        text = json.dumps({**results, _TRAINED_BY: peer, "timm": version("timm")}, indent=4)
        Path(args.output_dir, "train_results.json").write_text(f"{text}\n", encoding="utf-8")
        end_run(args)


def _trained(
    peer: str,
    variant: str,
    config: DeiTConfig,
    processor: BaseImageProcessor,
    teacher: Teacher,
    images: TimmImages,
    args: DistillationArguments,
) -> tuple[nn.Module, dict[str, Any]]:
    """Returns the trained model of timm, and what `Trainer` reports of a training."""
    set_seed(args.seed)  # of the weights, views and mixing
    model = timm_architecture(variant, config).to(args.device)
    options: Any = {"num_workers": args.dataloader_num_workers, **statistics_of(processor)}
    options["persistent_workers"] = args.dataloader_persistent_workers
    options |= {"recipe": vars(args), "num_classes": config.num_labels, "device": args.device}
    loader = timm_loader(images, crop_size(processor), args.train_batch_size, **options)
    if not len(loader):
        raise ValueError(
            f"there are {len(images)} training images, but timm trains on complete batches of "
            f"{args.train_batch_size}; lower `per_device_train_batch_size`"
        )
    num_steps = math.ceil(args.num_train_epochs * len(loader))
    betas: Any = (args.adam_beta1, args.adam_beta2)
    rate, decay = float(args.learning_rate or 0.0), args.weight_decay
    optimizer = create_optimizer_v2(model, "adamw", lr=rate, weight_decay=decay, betas=betas, eps=args.adam_epsilon)
    schedule = _schedule(optimizer, args, num_steps=num_steps, steps_in_epoch=len(loader))
    loss_of = peer_loss(peer, model, teacher, args)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    total, start = torch.zeros((), device=args.device), time.time()
    with closing(ViewProgress(num_steps * args.train_batch_size, draws=not args.disable_tqdm)) as progress:
        progress.begin(f"peer {peer}")
        losses = steps(itertools.islice(batches, num_steps), loss_of, optimizer, args.device, dtype)
        for step, loss in enumerate(losses, start=1):
            schedule.step_update(step)
            total += loss
            progress.update(args.train_batch_size)
    synchronize(args.device)
    num_views = len(images) * args.num_train_epochs  # as `Trainer` counts them
    speed = speed_metrics("train", start, num_samples=num_views, num_steps=num_steps)
    if not math.isfinite(float(total)):
        raise NonFiniteLossError(f"the mean loss of the peer {peer} is {float(total)}; lower the learning rate")
    return model, {"epoch": args.num_train_epochs, **speed, "train_loss": float(total) / num_steps}


def peer_loss(
    peer: str, model: nn.Module, teacher: nn.Module, args: DistillationArguments
) -> Callable[[Tensor, Tensor], Tensor]:
    """Sets timm's model to training mode, and returns its loss as a function of pixels and targets.

    Args:
        peer: `timm` or `plain`.
        model: timm's, with two heads.
        teacher: takes the student's pixels.
        args: weight of the distillation loss, device, and whether to compile.
    """
    if peer == "timm":
        task = timm_task(model, teacher, args.device, weight=args.distillation_weight)
        if args.torch_compile:
            task.compile()
        task.train()
        return lambda pixels, targets: task(pixels, targets)["loss"]
    any_model: Any = model
    any_model.set_distilled_training(True)
    model.train()
    if args.torch_compile:
        model.compile()
    return lambda pixels, targets: official_loss(
        model(pixels), targets, teacher(pixels), weight=args.distillation_weight
    )


def official_loss(outputs: tuple[Tensor, Tensor], targets: Tensor, teacher_logits: Tensor, *, weight: float) -> Tensor:
    """The formulas of official losses.py:38-69 (hard) and timm's `SoftTargetCrossEntropy`, written again.

    Args:
        outputs: logits (B, C) of the class head and of the distillation head.
        targets: (B, C), mixed and smoothed.
        teacher_logits: (B, C).
        weight: of the distillation loss.
    """
    cls_logits, distillation_logits = outputs
    label_loss = torch.sum(-targets * F.log_softmax(cls_logits, dim=-1), dim=-1).mean()
    distillation_loss = F.cross_entropy(distillation_logits, teacher_logits.argmax(dim=1))
    return label_loss * (1 - weight) + distillation_loss * weight


def _schedule(
    optimizer: torch.optim.Optimizer, args: DistillationArguments, *, num_steps: int, steps_in_epoch: int
) -> CosineLRScheduler:
    """Returns timm's warm-up and cosine, set at each step."""
    rate = float(args.learning_rate or 0.0)
    warmup = num_warmup_steps(args, num_steps=num_steps, steps_in_epoch=steps_in_epoch)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(1, num_steps - warmup),
        lr_min=min(float(args.min_learning_rate or 0.0), rate),
        warmup_t=warmup,
        warmup_lr_init=min(args.warmup_learning_rate, rate),
        warmup_prefix=True,  # the cosine begins where the warm-up ends
        t_in_epochs=False,
    )
