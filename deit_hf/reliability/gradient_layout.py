"""Fixes DDP's bucket layout before the first step, so that a resumed run sums gradients in the same order."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback


def settle_gradient_layout(model: DistributedDataParallel, inputs: dict[str, Tensor]) -> None:
    """Runs one backward pass that changes no weight, after which DDP has its final bucket layout.

    DDP changes the layout once, after its first backward pass. The position of a number in a bucket decides in which
    order three or more processes sum it. Without this pass, the first step after a resume would sum in another order
    than the same step of an uninterrupted run.

    Args:
        model: before its first step.
        inputs: arguments of its forward.
    """
    model.eval()  # no random numbers, no batch statistics
    outputs = model(**inputs)
    outputs["logits"].float().sum().backward()
    model.zero_grad(set_to_none=True)


class SettleGradientLayout(TrainerCallback):
    """Runs one dummy backward pass so that DDP fixes its bucket layout before step 1.

    Args:
        wrapped_model: returns the model of the training in progress with its wrapper, such as DDP.
        image_size: (height, width) of its images.
    """

    def __init__(self, wrapped_model: Callable[[], nn.Module], image_size: tuple[int, int]):
        self.wrapped_model, self.image_size = wrapped_model, image_size

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = self.wrapped_model()
        if isinstance(model, DistributedDataParallel):
            # two images, because with one DDP warns about the strides of the tokens' gradients
            inputs = {"pixel_values": torch.zeros(2, 3, *self.image_size, device=args.device)}
            settle_gradient_layout(model, inputs)
