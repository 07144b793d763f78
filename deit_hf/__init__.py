"""Trains DeiT with a teacher, as in the paper; plain transformers loads the checkpoints.

Public names are imported on first use (PEP 562), so that `import deit_hf` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .distillation.losses import hard_distillation_loss, soft_distillation_loss
    from .distillation.teacher import Teacher
    from .jobs.distill import distill
    from .model.configuration_deit import DeiTConfig
    from .model.conversion import convert_checkpoint
    from .model.modeling_deit import DeiTForImageClassification, DeiTForImageClassificationWithTeacher, DeiTModel
    from .training.arguments import DistillationArguments
    from .training.trainer import DistillationTrainer

__version__ = "0.1.0"
__all__ = [
    "DeiTConfig",
    "DeiTForImageClassification",
    "DeiTForImageClassificationWithTeacher",
    "DeiTModel",
    "DistillationArguments",
    "DistillationTrainer",
    "Teacher",
    "convert_checkpoint",
    "distill",
    "hard_distillation_loss",
    "soft_distillation_loss",
]

_MODULES = {
    "DeiTConfig": "model.configuration_deit",
    "DeiTForImageClassification": "model.modeling_deit",
    "DeiTForImageClassificationWithTeacher": "model.modeling_deit",
    "DeiTModel": "model.modeling_deit",
    "DistillationArguments": "training.arguments",
    "DistillationTrainer": "training.trainer",
    "Teacher": "distillation.teacher",
    "convert_checkpoint": "model.conversion",
    "distill": "jobs.distill",
    "hard_distillation_loss": "distillation.losses",
    "soft_distillation_loss": "distillation.losses",
}


if not TYPE_CHECKING:  # a type checker that saw it would accept any name

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
        globals()[name] = value  # later lookups do not call this function
        return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
