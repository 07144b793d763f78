"""The teacher of a job: used as it is if it knows the classes of the data, else fitted to them first."""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader
from transformers import PreTrainedConfig

from ..data.dataset import EvaluationViews, ViewCollator
from ..data.transforms import evaluation_view
from ..distillation.teacher import Teacher
from ..evaluation.teacher_accuracy import teacher_accuracy
from ..model.image_processing_deit import statistics_of
from ..model.labels import match_labels, real_names
from ..training.arguments import DistillationArguments
from .plan import JobData


def why_it_does_not_fit(teacher: Teacher, data: JobData) -> str | None:
    """Why a teacher cannot be used as it is; None if it knows all classes of the data by name."""
    names, own = real_names(data.labels.get("id2label")), real_names(teacher.id2label)
    if names is None or own is None:
        return f"{'the data' if names is None else 'it'} has no class names"
    try:
        match_labels(names, None, own, teacher.num_classes, side="the data", own_side="it")
    except ValueError as error:
        return str(error).partition("; ")[0]
    return None


def measure_teacher(
    source: str, data: JobData, part: str, processor: Any, args: DistillationArguments
) -> dict[str, float]:
    """Measures a teacher on a part of the data, among the classes of the data; all processes call this together.

    Args:
        source: the teacher.
        data: the data of the job.
        part: `evaluation` or `test`.
        processor: makes the views: the teacher's own, or the student's, as in the training.
        args: batch size, workers and device.

    Returns:
        `HeadAccuracy.result` of one head, and `images`, their number.
    """
    config = PreTrainedConfig(**data.labels)
    pixels = statistics_of(processor)
    teacher = Teacher.from_pretrained(
        source, student_config=config, student_mean=pixels["mean"], student_std=pixels["std"], device=args.device
    )
    views = EvaluationViews(data.images(part), evaluation_view(processor))
    accelerator = Accelerator(cpu=args.use_cpu)
    loader = accelerator.prepare(
        DataLoader(
            views,
            batch_size=args.per_device_eval_batch_size,
            collate_fn=ViewCollator(None),
            num_workers=args.dataloader_num_workers,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            generator=torch.Generator().manual_seed(args.seed),
        )
    )
    batches = (send_to_device(batch, args.device) for batch in loader)
    return {**teacher_accuracy(teacher, batches, accelerator.gather_for_metrics), "images": len(views)}
