"""deit_hf: train DeiT with a teacher, as in the paper, into checkpoints that plain transformers loads."""

from .configuration_deit import DeiTConfig
from .modeling_deit import DeiTForImageClassification, DeiTForImageClassificationWithTeacher, DeiTModel

__version__ = "0.1.0"
