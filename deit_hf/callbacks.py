"""What happens at the events of a training, beside what transformers' Trainer does there."""

import logging
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback

from .checkpointing import settle_gradient_layout
from .effective_recipe import Run, effective_recipe
from .image_processing_deit import crop_size
from .recipes import as_block

logger = logging.getLogger(__name__)


class EpochOfViews(TrainerCallback):
    """Tells the sampler its epoch; the parent's way ends at a sampler that skips batches on several processes."""

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.view_sampler.set_epoch(int(state.epoch))


class SettleGradientLayout(TrainerCallback):
    """Gives DDP its last layout of the gradients before the first step, so that a restart sums them as before."""

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if isinstance(self.trainer.model_wrapped, DistributedDataParallel):
            height, width = crop_size(self.trainer.processing_class)
            # two images: of one, DDP would warn that the tokens' gradients have other strides
            inputs = {"pixel_values": torch.zeros(2, 3, height, width, device=args.device)}
            settle_gradient_layout(self.trainer.model_wrapped, inputs)


class SayEffectiveRecipe(TrainerCallback):
    """Says once what is in force, before the first step: see effective_recipe.py.

    With a teacher, its accuracy on the evaluation split comes first: a broken teacher shows here and not at the end.

    Attributes:
        recipe: what was said.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.recipe: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self.trainer
        measures = trainer.teacher is not None and trainer.eval_dataset is not None and args.evaluate_teacher
        run = Run(
            args=args,
            student=trainer.model,
            processor=trainer.processing_class,
            sampler=trainer.view_sampler,
            num_steps=state.max_steps,
            num_warmup_steps=trainer.num_warmup_steps(state.max_steps),
            precision=trainer.accelerator.mixed_precision,
            teacher=trainer.teacher,
            teacher_top1=trainer.evaluate_teacher()["top1"] if measures else None,
        )
        self.recipe = effective_recipe(run)
        if trainer.is_world_process_zero():
            logger.info("The recipe in force:\n%s", as_block(self.recipe))
