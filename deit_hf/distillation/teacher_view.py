"""The image processor of a teacher, for those who ask it about its own view of an image, not the student's."""

from typing import Any

import timm
import torch
from transformers import AutoImageProcessor, PreTrainedConfig

from ..model.image_processing_deit import make_processor, savable_processor, statistics_of
from ..model.safe_loading import named_errors
from ..model.timm_models import is_timm_source
from .teacher import Teacher


def own_processor(teacher: Teacher) -> Any:
    """The image processor of a teacher: the views on which its accuracy is published."""
    if is_timm_source(teacher.name) and not teacher.name.startswith("timm/"):
        view = timm.data.resolve_model_data_config(teacher.module)
        squash = view["crop_mode"] == "squash"
        return make_processor(
            tuple(view["input_size"][1:]),
            crop_ratio=None if squash else view["crop_pct"],
            eval_crop="squash" if squash else "center",
            mean=view["mean"],
            std=view["std"],
        )
    with named_errors(teacher.name):
        return savable_processor(AutoImageProcessor.from_pretrained(teacher.name, trust_remote_code=False))


def load_with_own_view(source: str, *, student_config: PreTrainedConfig, device: torch.device) -> tuple[Teacher, Any]:
    """Loads a teacher that takes the pixels of its own image processor, and that processor.

    Args:
        source: as for `Teacher.from_pretrained`.
        student_config: defines the label order of the logits.
        device: of the teacher.

    Raises:
        OSError: the source does not exist.
        ValueError: the source is not a trained classifier, or its classes do not match the student's.
    """
    processor = own_processor(Teacher.from_pretrained(source, student_config=None))
    pixels = statistics_of(processor)
    teacher = Teacher.from_pretrained(
        source, student_config=student_config, student_mean=pixels["mean"], student_std=pixels["std"], device=device
    )
    return teacher, processor
