"""The teacher (arXiv:2012.12877 sec. 4, "strong image classifier"): wraps any classifier for use with the student.

It is not part of the student, so it is never trained, wrapped, averaged or saved with it. The losses are in losses.py.
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
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedConfig

from ..model.configuration_deit import to_pair
from ..model.image_processing_deit import crop_size, warn_of_known_faults
from ..model.labels import match_labels, real_names
from ..model.safe_loading import check_complete, check_recorded_weights, named_errors
from ..model.timm_models import create_timm_model, is_timm_source

logger = logging.getLogger(__name__)


class Teacher(nn.Module):
    """A frozen classifier that takes the student's pixels and returns logits in the student's label order.

    It normalises the student's pixels again with the teacher's own mean and std, resizes them to the teacher's own
    image size, and always stays in eval mode. The official losses.py:47-48 feeds the student's tensor unchanged.

    Attributes:
        image_size: (height, width) in pixels of the module's input; None keeps the student's size.
        id2label: the module's class names, or None if unknown.
        num_classes: number of classes of the module.
        was_asked: whether `forward` has been called.
    """

    label_indices: Tensor | None
    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(
        self,
        module: nn.Module,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        image_size: int | tuple[int, int] | None = None,
        id2label: Mapping[int, str] | None = None,
        name: str = "teacher",
        student_mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        student_std: Sequence[float] = IMAGENET_DEFAULT_STD,
    ):
        """Freezes `module` and tries it once on an empty image.

        Args:
            module: a classifier that takes pixels and returns logits or an output of transformers.
            mean: per channel, with which the module's input is normalised, for pixels in [0, 1]. Default: read from a
                timm model, also in transformers' wrapper; required for other models.
            std: likewise.
            image_size: of the module's input in pixels, one number or (height, width). Default: read from the model;
                if it is unknown there, the student's.
            id2label: class names. Default: those of a transformers configuration.
            name: for messages.
            student_mean: per channel, with which the student's pixels are normalised.
            student_std: likewise.

        Raises:
            TypeError: `module` is not a module, or the statistics are not numbers.
            ValueError: `mean` or `std` is missing or has a different length from the student's, or the number of names
                in `id2label` is not the module's number of classes.
        """
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"the teacher is a {type(module).__name__}, but must be a torch.nn.Module; to load one by name use "
                "Teacher.from_pretrained(source, student_config=config)"
            )
        own = _own_settings(module)
        mean, std = (_given_or_own(each, own.get(key), module, name) for each, key in ((mean, "mean"), (std, "std")))
        image_size = own.get("image_size") if image_size is None else image_size
        statistics = {"mean": mean, "std": std, "student_mean": student_mean, "student_std": student_std}
        mean, std, student_mean, student_std = _checked_statistics(name, statistics)
        self.name = name
        self.module = module.requires_grad_(False)
        self.image_size = None if image_size is None else to_pair(image_size)
        id2label = getattr(getattr(module, "config", None), "id2label", None) if id2label is None else id2label
        self.id2label = None if id2label is None else {int(index): label for index, label in id2label.items()}
        self.student_mean, self.student_std = student_mean, student_std
        self._matched_to: dict[int, str] | None = None
        self.was_asked = False
        self.layout, self._same_pixels = torch.contiguous_format, (mean, std) == (student_mean, student_std)
        # teacher pixels = (student pixels * student_std + student_mean - mean) / std, as one scale and one shift
        scale = torch.tensor(student_std) / torch.tensor(std)
        shift = (torch.tensor(student_mean) - torch.tensor(mean)) / torch.tensor(std)
        self.register_buffer("pixel_scale", scale.view(1, -1, 1, 1))
        self.register_buffer("pixel_shift", shift.view(1, -1, 1, 1))
        self.register_buffer("label_indices", None)
        self.eval()
        self.num_classes = self._count_classes()

    def train(self, mode: bool = True) -> "Teacher":
        """Does nothing: the teacher stays in eval mode, without dropout or updates of batch statistics."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixel_values: Tensor) -> Tensor:
        """Returns the logits in the student's label order.

        Args:
            pixel_values: (B, channels, height, width), normalised with the student's mean and std.

        Returns:
            (B, C) in float32, without gradient. C is the student's number of classes after `match_labels`.
        """
        self.was_asked = True
        if not self._same_pixels:  # in float32, like the buffers
            pixel_values = torch.addcmul(self.pixel_shift.float(), pixel_values, self.pixel_scale.float())
        if self.image_size is not None and tuple(pixel_values.shape[-2:]) != self.image_size:
            pixel_values = F.interpolate(
                pixel_values, self.image_size, mode="bicubic", align_corners=False, antialias=True
            )
        pixel_values = pixel_values.to(_dtype(self.module), memory_format=self.layout)
        logits = _logits(self.module(pixel_values)).float()  # (B, C of the teacher)
        return logits if self.label_indices is None else logits[:, self.label_indices]

    def use_layout(self, layout: torch.memory_format) -> None:
        """Stores weights and pixels in this memory layout."""
        self.layout, self.module = layout, self.module.to(memory_format=layout)

    def _count_classes(self) -> int:
        channels, (height, width) = self.pixel_scale.shape[1], self.image_size or (224, 224)
        device = next(iter(self.module.parameters()), self.pixel_scale).device
        self.to(device)
        logits = self(torch.zeros(1, channels, height, width, device=device))
        if logits.ndim != 2:
            raise ValueError(
                f"teacher `{self.name}` returns shape {tuple(logits.shape)}, but must return (batch, classes)"
            )
        if self.id2label is not None and len(self.id2label) != logits.shape[1]:
            raise ValueError(
                f"teacher `{self.name}` has {logits.shape[1]} classes but {len(self.id2label)} names in "
                "`id2label`; fix `id2label` in its configuration"
            )
        return logits.shape[1]

    def check_student_pixels(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Refuses a student whose mean and std differ from `student_mean` and `student_std`.

        Raises:
            ValueError: they differ; names both.
        """
        if (mean, std) != (self.student_mean, self.student_std):
            raise ValueError(
                f"the student's pixels have mean {mean} and std {std}, but the teacher was created for "
                f"{self.student_mean} and {self.student_std}; create it with `student_mean=` and `student_std=`"
            )

    def match_labels(self, student_config: PreTrainedConfig) -> None:
        """Makes `forward` return logits in the label order of `student_config`.

        Classes are matched by name if both sides have class names, else by number.

        Raises:
            TypeError: `student_config` is not a configuration of transformers.
            ValueError: the classes do not match; names both sides.
        """
        if not isinstance(student_config, PreTrainedConfig):
            raise TypeError(
                f"`student_config` is a {type(student_config).__name__}, but must be the student's configuration "
                "(`student.config`)"
            )
        if self._matched_to == student_config.id2label:
            return  # already matched, with its warning
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
        student_config: PreTrainedConfig | None,
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
            student_config: defines the label order of the logits; None keeps the teacher's own until `match_labels`.
            dtype: of the weights; as stored by default.
            device: of the teacher; CPU by default.
            student_mean: per channel, with which the student's pixels are normalised.
            student_std: likewise.

        Raises:
            FileNotFoundError: the file after `@` does not exist.
            OSError: the source does not exist, neither as a directory nor on the Hub.
            ValueError: the source is not a trained classifier, or its classes do not match the student's.
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
        if student_config is not None:
            teacher.match_labels(student_config)
        return teacher.to(device=device)


def fitting_teacher(
    teacher: Teacher | None,
    *,
    distillation_type: str,
    student_config: PreTrainedConfig,
    student_mean: tuple[float, ...],
    student_std: tuple[float, ...],
) -> Teacher | None:
    """Validates the teacher against the objective and the student, and matches its labels.

    Returns:
        The teacher, or None if `distillation_type` is `none`.

    Raises:
        TypeError: `teacher` is not a `Teacher`.
        ValueError: a teacher is missing, or given with `none`, or does not fit the student.
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
            "Teacher(timm_model), Teacher(module, mean=..., std=..., image_size=...) or "
            "Teacher.from_pretrained(source, student_config=...)"
        )
    if distillation_type == "none":
        raise ValueError(
            "there is a teacher but `distillation_type` is 'none'; set it to 'hard' or 'soft', or remove the teacher"
        )
    teacher.check_student_pixels(student_mean, student_std)
    teacher.match_labels(student_config)
    return teacher


def _own_settings(module: nn.Module) -> dict[str, Any]:
    """Reads the model's own `mean`, `std` and `image_size`; models of transformers have only the last one."""
    config = getattr(module, "config", None)
    timm_model = getattr(module, "timm_model", module)  # in transformers' wrapper
    settings = getattr(config, "pretrained_cfg", None) or getattr(timm_model, "pretrained_cfg", None)
    if not settings:
        return {"image_size": getattr(config, "image_size", None)}
    cfg = timm.data.resolve_data_config(pretrained_cfg=settings)
    built_for = getattr(getattr(timm_model, "patch_embed", None), "img_size", None)  # may differ from `input_size`
    return {"mean": cfg["mean"], "std": cfg["std"], "image_size": built_for or tuple(cfg["input_size"][1:])}


def _given_or_own(
    given: Sequence[float] | None, own: Sequence[float] | None, module: nn.Module, name: str
) -> Sequence[float]:
    if given is None and own is None:
        raise ValueError(
            f"`mean` or `std` of teacher `{name}` is missing, and a {type(module).__name__} does not define them; "
            "pass both (`image_mean` and `image_std` of its processor), or load the model with "
            "Teacher.from_pretrained(source, student_config=...)"
        )
    return cast(Sequence[float], own if given is None else given)


def _checked_statistics(name: str, statistics: Mapping[str, Sequence[float]]) -> list[tuple[float, ...]]:
    checked = []
    for key, values in statistics.items():
        try:
            checked.append(tuple(float(value) for value in values))
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"`{key}` of teacher `{name}` is {values!r}, but must be numbers, one per channel"
            ) from error
        if "std" in key and not all(value > 0 for value in checked[-1]):
            raise ValueError(f"`{key}` of teacher `{name}` is {checked[-1]}, but must be greater than 0")
    if len({len(values) for values in checked}) > 1:
        raise ValueError(
            f"mean and std of teacher `{name}` and student have {', '.join(str(len(each)) for each in checked)} "
            "channels, but must have the same number"
        )
    return checked


def _load_timm(source: str) -> tuple[nn.Module, dict[str, Any]]:
    module = create_timm_model(source)
    label_names = cast(dict, module.pretrained_cfg).get("label_names")
    return module, {"id2label": None if label_names is None else dict(enumerate(label_names))}


def _load_transformers(source: str) -> tuple[nn.Module, dict[str, Any]]:
    check_recorded_weights(source)
    with named_errors(source):
        module, info = AutoModelForImageClassification.from_pretrained(
            source, output_loading_info=True, trust_remote_code=False
        )
        check_complete(source, info)
        processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    if module.config.model_type in ("deit", "vit"):
        warn_of_known_faults(source, processor.to_dict(), module.config.image_size)
    if hasattr(processor, "data_config"):  # timm models on the Hub have timm's own processor
        mean, std, image_size = (processor.data_config[key] for key in ("mean", "std", "input_size"))
        image_size = tuple(image_size[1:])
    else:
        mean, std, image_size = processor.image_mean, processor.image_std, crop_size(processor)
    return module, {"mean": mean, "std": std, "image_size": image_size, "id2label": module.config.id2label}


def _logits(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def _dtype(module: nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
