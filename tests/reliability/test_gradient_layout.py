"""The callback that fixes DDP's bucket layout: it uses images of the student's size, and runs only under DDP."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from deit_hf.reliability.gradient_layout import SettleGradientLayout


class Net(nn.Module):
    """Records the shape of its input, and its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.seen = nn.Conv2d(3, 4, 2), []

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        self.seen.append((tuple(pixel_values.shape), self.training))
        return {"logits": self.conv(pixel_values).mean(dim=(2, 3))}


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_training_begins_with_a_pass_of_the_students_size_under_ddp_alone(tmp_path: Path, wrapped: bool):
    net = Net()
    model = net
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        if wrapped:
            model = DistributedDataParallel(net)
        args = SimpleNamespace(device=torch.device("cpu"))
        SettleGradientLayout(lambda: model, (24, 16)).on_train_begin(args, SimpleNamespace(), SimpleNamespace())
    finally:
        torch.distributed.destroy_process_group()
    assert net.seen == ([((2, 3, 24, 16), False)] if wrapped else [])
    assert all(parameter.grad is None for parameter in net.parameters())
