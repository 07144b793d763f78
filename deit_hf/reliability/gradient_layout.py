"""Fixes DDP's bucket layout before the first step, so that a resumed run sums gradients in the same order."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback

from ..model.image_processing_deit import crop_size


def settle_gradient_layout(model: DistributedDataParallel, inputs: dict[str, Tensor]) -> None:
    """One backward pass that changes nothing, after which DDP lays out the gradients as it does for all later ones.

    It lays them out anew after its first backward pass, and where in a bucket a number lies decides in which order
    three or more processes sum it. So the first step after a restart would not be that of a run that went on.

    Args:
        model: not trained yet.
        inputs: of its forward.
    """
    model.eval()  # no random numbers, no batch statistics
    outputs = model(**inputs)
    outputs["logits"].float().sum().backward()
    model.zero_grad(set_to_none=True)


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
