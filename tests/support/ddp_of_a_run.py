"""Trains students with a teacher on several processes, and reports how DDP wrapped them in report.json."""

import json
import sys
import tempfile
from pathlib import Path

import datasets
import numpy as np
import torch
from torch import nn

from deit_hf import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DistillationArguments,
    DistillationTrainer,
    Teacher,
)

SIZES = {"image_size": 16, "patch_size": 8, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(3, 5)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(pixel_values).mean(dim=(2, 3)))


def train(kind: str, train_only: str | None) -> dict:
    torch.manual_seed(torch.distributed.get_rank() if torch.distributed.is_initialized() else 0)
    config = DeiTConfig(**SIZES, num_hidden_layers=2, num_labels=5, use_distillation_token=kind == "distilled")
    student = (DeiTForImageClassificationWithTeacher if kind == "distilled" else DeiTForImageClassification)(config)
    images = np.random.default_rng(0).integers(0, 255, (32, 16, 16, 3), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("abcde"))})
    rows = datasets.Dataset.from_dict({"image": list(images), "label": [i % 5 for i in range(32)]}, features)
    args = DistillationArguments(
        tempfile.mkdtemp(),
        distillation_type="hard",
        max_steps=3,
        per_device_train_batch_size=4,
        train_only=train_only,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    teacher = Teacher(Net(), mean=(0.5,) * 3, std=(0.5,) * 3, image_size=16)
    trainer = DistillationTrainer(student, args, teacher=teacher, train_dataset=rows)
    trainer.train()
    wrapper = trainer.model_wrapped
    wrapped = {id(parameter) for parameter in wrapper.parameters()}
    with torch.profiler.profile() as profile:
        trainer._teacher_logits(torch.zeros(2, 3, 16, 16))
    weights = torch.cat([parameter.detach().flatten() for parameter in student.parameters()])
    everywhere = trainer.accelerator.gather(weights[None])
    return {
        "wrapper": type(wrapper).__name__,
        "find_unused_parameters": wrapper.find_unused_parameters,
        "wrapped": len(wrapped),
        "student": len({id(parameter) for parameter in student.parameters()} & wrapped),
        "teacher": type(trainer.teacher).__name__,
        "collectives_of_teacher": [e.name for e in profile.events() if "gloo" in e.name or "c10d" in e.name],
        "ranks_agree": bool((everywhere == everywhere[0]).all()),
    }


report = [train(kind, only) for kind in ("distilled", "plain") for only in (None, "classifier")]
if torch.distributed.get_rank() == 0:
    Path("report.json").write_text(json.dumps(report))
sys.stdout.write("done\n")
