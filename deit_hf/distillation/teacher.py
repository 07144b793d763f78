"""The teacher (arXiv:2012.12877 sec. 4, "strong image classifier"): any classifier, answering in the student's terms.

It lives outside the student: never trained, wrapped, averaged or saved with it. What to learn from its answers is in
losses.py.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModelForImageClassification

from ..model.configuration_deit import to_pair
from ..model.image_processing_deit import crop_size, warn_of_known_faults
from ..model.labels import match_labels, real_names
from ..model.safe_loading import check_recorded_weights, named_errors
from ..model.timm_models import create_timm_model, is_timm_source

logger = logging.getLogger(__name__)


class Teacher(nn.Module):
    """A frozen classifier that takes the student's pixels and answers in the student's label order.

    It re-normalises the pixels from the student's statistics to its own, resizes them to its own resolution, and
    stays in eval mode whatever is called. Official losses.py:47-48 feeds the student's tensor as it is.

    Attributes:
        image_size: (height, width) in pixels that the module gets; None leaves the student's size.
        id2label: the module's class names, or None where they are not known.
        num_classes: classes of the module.
    """

    label_indices: Tensor | None
    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(
        self,
        module: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int | tuple[int, int] | None = None,
        id2label: Mapping[int, str] | None = None,
        name: str = "teacher",
        student_mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        student_std: Sequence[float] = IMAGENET_DEFAULT_STD,
    ):
        """Freezes `module` (pixels in; logits or a transformers output out) and tries it once on an empty image.

        Args:
            module: the classifier.
            mean: per channel, of pixels in [0, 1], that the module expects.
            std: per channel.
            image_size: pixels, one number or (height, width); None if the module takes the student's size.
            id2label: class names, if they mean something.
            name: for messages.
            student_mean: statistics that the incoming pixels were normalised with.
            student_std: per channel.

        Raises:
            TypeError: `module` is no module.
            ValueError: statistics of other lengths, or names for another number of classes than the module has.
        """
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"the teacher is a {type(module).__name__}, but must be a torch.nn.Module; to load one by name use "
                "Teacher.from_pretrained(source, student_config=config)"
            )
        if not len(mean) == len(std) == len(student_mean) == len(student_std):
            raise ValueError(
                f"mean and std of teacher `{name}` and student have {len(mean)}, {len(std)}, {len(student_mean)} and "
                f"{len(student_std)} channels, but must have the same number"
            )
        self.name = name
        self.module = module.requires_grad_(False)
        self.image_size = None if image_size is None else to_pair(image_size)
        self.id2label = None if id2label is None else {int(index): label for index, label in id2label.items()}
        self.student_mean, self.student_std = tuple(student_mean), tuple(student_std)
        self._matched_to: dict[int, str] | None = None
        # teacher pixels = (student pixels * student_std + student_mean - mean) / std, as one scale and one shift
        scale = torch.tensor(student_std) / torch.tensor(std)
        shift = (torch.tensor(student_mean) - torch.tensor(mean)) / torch.tensor(std)
        self.register_buffer("pixel_scale", scale.view(1, -1, 1, 1))
        self.register_buffer("pixel_shift", shift.view(1, -1, 1, 1))
        self.register_buffer("label_indices", None)
        self.eval()
        self.num_classes = self._count_classes()

    def train(self, mode: bool = True) -> "Teacher":
        """Stays in eval mode: a teacher's batch statistics and dropout never take part in training."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits in the student's label order.

        Args:
            pixel_values: (B, channels, height, width), normalised with the student's statistics.

        Returns:
            (B, C) in float32, without gradient. C is the student's number of classes once labels are matched.
        """
        pixel_values = pixel_values.float() * self.pixel_scale.float() + self.pixel_shift.float()
        if self.image_size is not None and tuple(pixel_values.shape[-2:]) != self.image_size:
            pixel_values = F.interpolate(
                pixel_values, self.image_size, mode="bicubic", align_corners=False, antialias=True
            )
        logits = _logits(self.module(pixel_values.to(_dtype(self.module)))).float()  # (B, C of the teacher)
        return logits if self.label_indices is None else logits[:, self.label_indices]

    def _count_classes(self) -> int:
        channels, (height, width) = self.pixel_scale.shape[1], self.image_size or (224, 224)
        device = next(iter(self.module.parameters()), self.pixel_scale).device
        self.to(device)
        logits = self(torch.zeros(1, channels, height, width, device=device))
        if logits.ndim != 2:
            raise ValueError(
                f"teacher `{self.name}` answers in shape {tuple(logits.shape)}, but must answer in (batch, classes)"
            )
        if self.id2label is not None and len(self.id2label) != logits.shape[1]:
            raise ValueError(
                f"teacher `{self.name}` has {logits.shape[1]} classes but {len(self.id2label)} names in `id2label`"
            )
        return logits.shape[1]

    def check_student_pixels(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Refuses a student whose pixels are normalised otherwise than this teacher was told.

        Raises:
            ValueError: the statistics differ; names both.
        """
        if (mean, std) != (self.student_mean, self.student_std):
            raise ValueError(
                f"the student's pixels have mean {mean} and std {std}, but the teacher was told {self.student_mean} "
                f"and {self.student_std}; make it with `student_mean=` and `student_std=`"
            )

    def match_labels(self, student_config: Any) -> None:
        """From now on answers come in the label order of `student_config`: by name when both sides have real names.

        Raises:
            ValueError: the label sets do not fit; names both sides.
        """
        if self._matched_to == student_config.id2label:
            return  # said once already
        match = match_labels(
            real_names(student_config.id2label),
            student_config.num_labels,
            real_names(self.id2label),
            self.num_classes,
            side="the student",
            own_side=f"teacher `{self.name}`",
            advice="use a teacher that was trained on these labels, or give both the same names in `id2label`",
        )
        if match.note is not None:
            logger.warning("%s", match.note)
        indices = match.indices
        self.label_indices = None if indices is None else torch.tensor(indices, device=self.pixel_scale.device)
        self._matched_to = dict(student_config.id2label)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        *,
        student_config: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        student_mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        student_std: Sequence[float] = IMAGENET_DEFAULT_STD,
    ) -> "Teacher":
        """Loads a teacher by name, with its own normalisation, resolution and labels.

        Args:
            source: a transformers id or directory (any image classifier), `timm/<name>` on the Hub, or
                `timm:<name>` or `timm:<name>@<file.pth or .safetensors>`, such as
                `timm:regnety_160@regnety_160-a5fe301d.pth`, the paper's.
            student_config: gives the label order of the answers.
            dtype: of the weights; as stored by default.
            device: where the teacher computes; CPU by default.
            student_mean: statistics that the incoming pixels are normalised with.
            student_std: per channel.

        Raises:
            FileNotFoundError: the file after `@` does not exist.
            OSError: the source is not found, here or on the Hub.
            ValueError: it does not fit the student or is no classifier; names both sides.
        """
        source = str(source)
        load = _load_timm if is_timm_source(source) else _load_transformers
        module, own = load(source)
        teacher = cls(
            module.to(dtype=dtype, device=device),
            name=source,
            student_mean=student_mean,
            student_std=student_std,
            **own,
        )
        teacher.match_labels(student_config)
        return teacher.to(device=device)


def fitting_teacher(
    teacher: Teacher | None,
    *,
    distillation_type: str,
    student_config: Any,
    student_mean: tuple[float, ...],
    student_std: tuple[float, ...],
) -> Teacher | None:
    """The teacher, which must be there iff the objective needs it, and must know the student's pixels and labels.

    Raises:
        TypeError: it is no `Teacher`.
        ValueError: it is missing or not wanted, or does not fit the student.
    """
    if teacher is None:
        if distillation_type != "none":
            raise ValueError(
                f"`distillation_type` is {distillation_type!r} but there is no teacher; pass `teacher=`, or set "
                "`distillation_type` to 'none'"
            )
        return None
    if not isinstance(teacher, Teacher):
        raise TypeError(
            f"`teacher` is a {type(teacher).__name__}, but must be a deit_hf.Teacher; wrap it: "
            "Teacher(module, mean=..., std=..., image_size=...) or Teacher.from_pretrained(source, student_config=...)"
        )
    if distillation_type == "none":
        raise ValueError(
            "there is a teacher but `distillation_type` is 'none'; set it to 'hard' or 'soft', or drop the teacher"
        )
    teacher.check_student_pixels(student_mean, student_std)
    teacher.match_labels(student_config)
    return teacher


def _load_timm(source: str) -> tuple[nn.Module, dict[str, Any]]:
    module = create_timm_model(source)
    cfg = timm.data.resolve_model_data_config(module)
    label_names = cast(dict, module.pretrained_cfg).get("label_names")
    return module, {
        "mean": cfg["mean"],
        "std": cfg["std"],
        "image_size": tuple(cfg["input_size"][1:]),
        "id2label": None if label_names is None else dict(enumerate(label_names)),
    }


def _load_transformers(source: str) -> tuple[nn.Module, dict[str, Any]]:
    check_recorded_weights(source)
    with named_errors(source):
        module, info = AutoModelForImageClassification.from_pretrained(
            source, output_loading_info=True, trust_remote_code=False
        )
    if info["missing_keys"]:
        raise ValueError(
            f"teacher `{source}` is no trained classifier: it has no weights for "
            f"{', '.join(sorted(info['missing_keys'])[:4])}; fine-tune it first, or name another one"
        )
    with named_errors(source):
        processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    if module.config.model_type in ("deit", "vit"):
        warn_of_known_faults(source, processor.to_dict(), module.config.image_size)
    if hasattr(processor, "data_config"):  # timm models on the Hub bring timm's own processor
        mean, std, image_size = (processor.data_config[key] for key in ("mean", "std", "input_size"))
        image_size = tuple(image_size[1:])
    else:
        mean, std, image_size = processor.image_mean, processor.image_std, crop_size(processor)
    return module, {"mean": mean, "std": std, "image_size": image_size, "id2label": module.config.id2label}


def _logits(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def _dtype(module: nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
