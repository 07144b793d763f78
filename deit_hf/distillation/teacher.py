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
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedConfig

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
        was_asked: whether it has answered.
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
        """Freezes `module` (pixels in; logits or a transformers output out) and tries it once on an empty image.

        Args:
            module: the classifier.
            mean: per channel, of pixels in [0, 1], that the module expects. A model of timm, also in transformers'
                wrapper, tells it if it is left out.
            std: per channel, likewise.
            image_size: pixels, one number or (height, width). If it is left out, that of the model; of one that does
                not tell it, the student's.
            id2label: class names, if they mean something.
            name: for messages.
            student_mean: statistics that the incoming pixels were normalised with.
            student_std: per channel.

        Raises:
            TypeError: `module` is no module, or statistics are not numbers.
            ValueError: the module does not tell statistics that are left out, they have other lengths, or there are
                names for another number of classes than the module has.
        """
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"the teacher is a {type(module).__name__}, but must be a torch.nn.Module; to load one by name use "
                "Teacher.from_pretrained(source, student_config=config)"
            )
        own = _told_by(module)
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
        self.was_asked = True
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

    def match_labels(self, student_config: PreTrainedConfig) -> None:
        """From now on answers come in the label order of `student_config`: by name when both sides have real names.

        Raises:
            TypeError: `student_config` is not a configuration of transformers.
            ValueError: the label sets do not fit; names both sides.
        """
        if not isinstance(student_config, PreTrainedConfig):
            raise TypeError(
                f"`student_config` is a {type(student_config).__name__}, but must be the student's configuration "
                "(`student.config`)"
            )
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
        student_config: PreTrainedConfig,
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
    student_config: PreTrainedConfig,
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
            "Teacher(timm_model), Teacher(module, mean=..., std=..., image_size=...) or "
            "Teacher.from_pretrained(source, student_config=...)"
        )
    if distillation_type == "none":
        raise ValueError(
            "there is a teacher but `distillation_type` is 'none'; set it to 'hard' or 'soft', or drop the teacher"
        )
    teacher.check_student_pixels(student_mean, student_std)
    teacher.match_labels(student_config)
    return teacher


def _told_by(module: nn.Module) -> dict[str, Any]:
    """`mean`, `std` and `image_size` as far as a model itself tells them: timm's do, transformers' tell a size."""
    config = getattr(module, "config", None)
    timm_model = getattr(module, "timm_model", module)  # in transformers' wrapper
    settings = getattr(config, "pretrained_cfg", None) or getattr(timm_model, "pretrained_cfg", None)
    if not settings:
        return {"image_size": getattr(config, "image_size", None)}
    cfg = timm.data.resolve_data_config(pretrained_cfg=settings)
    built_for = getattr(getattr(timm_model, "patch_embed", None), "img_size", None)  # may be other than the weights'
    return {"mean": cfg["mean"], "std": cfg["std"], "image_size": built_for or tuple(cfg["input_size"][1:])}


def _given_or_own(
    given: Sequence[float] | None, own: Sequence[float] | None, module: nn.Module, name: str
) -> Sequence[float]:
    if given is None and own is None:
        raise ValueError(
            f"`mean` or `std` of teacher `{name}` is left out, and a {type(module).__name__} does not tell which "
            "pixels it expects; pass both (`image_mean` and `image_std` of its processor), or load the model with "
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
                f"`{key}` of teacher `{name}` is {values!r}, but must be numbers, one for each channel"
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
