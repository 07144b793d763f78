"""deit_hf: train DeiT with a teacher, as in the paper, into checkpoints that plain transformers loads."""

from .arguments import DistillationArguments
from .configuration_deit import DeiTConfig
from .conversion import convert_checkpoint
from .losses import hard_distillation_loss, soft_distillation_loss
from .modeling_deit import DeiTForImageClassification, DeiTForImageClassificationWithTeacher, DeiTModel
from .teacher import Teacher
from .trainer import DistillationTrainer

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
    "hard_distillation_loss",
    "soft_distillation_loss",
]
