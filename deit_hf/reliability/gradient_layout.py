"""Fixes DDP's bucket layout before the first step, so that a resumed run sums gradients in the same order."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback


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
    """Runs one dummy backward pass so that DDP fixes its bucket layout before step 1.

    Args:
        wrapped_model: returns the model of the training in progress, as it is wrapped.
        image_size: (height, width) of its images.
    """

    def __init__(self, wrapped_model: Callable[[], nn.Module], image_size: tuple[int, int]):
        self.wrapped_model, self.image_size = wrapped_model, image_size

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = self.wrapped_model()
        if isinstance(model, DistributedDataParallel):
            # two images: of one, DDP would warn that the tokens' gradients have other strides
            inputs = {"pixel_values": torch.zeros(2, 3, *self.image_size, device=args.device)}
            settle_gradient_layout(model, inputs)
