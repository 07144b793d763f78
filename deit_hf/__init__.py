"""deit_hf: train DeiT with a teacher, as in the paper, into checkpoints that plain transformers loads."""

from .distillation.losses import hard_distillation_loss, soft_distillation_loss
from .distillation.teacher import Teacher
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
    "hard_distillation_loss",
    "soft_distillation_loss",
]
