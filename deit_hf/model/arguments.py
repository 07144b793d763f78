"""Options that select the student and the teacher of a run."""

import difflib
import json
import re
from dataclasses import dataclass, field, fields
from typing import Literal

from ..argument_checks import check, check_choice, check_kinds
from .configuration_deit import DeiTConfig
from .image_processing_deit import EvalCrop
from .variants import VARIANTS

TeacherDtype = Literal["float32", "bfloat16"]


@dataclass
class ModelArguments:
    """Options of the student and the teacher.

    Raises:
        TypeError: from the constructor, if a value has the wrong type.
        ValueError: from the constructor, if not exactly one student is named or a value is out of range.
    """

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Weights to start from: Hub id, directory, or timm:NAME[@FILE] for a timm model.",
            "aliases": ["--student"],
        },
    )
    variant: str | None = field(
        default=None,
        metadata={"help": "DeiT variant to train from scratch, such as deit_tiny_distilled_patch16_224."},
    )
    image_size: int | None = field(
        default=None,
        metadata={"help": "Image size in pixels; the position table of loaded weights is resized to it."},
    )
    drop_path_rate: float | None = field(
        default=None, metadata={"help": "Stochastic depth rate of a DeiT student, in [0, 1); 0.1 in the paper."}
    )
    config_overrides: dict | str | None = field(
        default=None, metadata={"help": 'Other fields of DeiTConfig for a variant, as JSON: {"hidden_size": 96}.'}
    )
    use_distillation_token: bool | None = field(
        default=None,
        metadata={
            "help": "For loaded weights: whether the student has the distillation token. Default: true with a "
            "teacher, else as in the weights. Set false with a teacher for distillation without the token."
        },
    )
    teacher_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Teacher: Hub id, directory, timm/NAME on the Hub, or timm:NAME[@FILE]; none removes that of a "
            "recipe.",
            "aliases": ["--teacher"],
        },
    )
    teacher_dtype: TeacherDtype | None = field(
        default=None,
        metadata={
            "help": "Type of the teacher's weights: float32, or bfloat16, which is faster on most GPUs and changes "
            "some answers. Default: as stored."
        },
    )
    teacher_compile: bool = field(
        default=False,
        metadata={"help": "Compile the teacher with torch.compile; saves time in runs of more than some minutes."},
    )
    teacher_channels_last: bool = field(
        default=False,
        metadata={
            "help": "Time the teacher with channels-last for 20 steps, and use it if it is faster. A resumed run "
            "measures again, so its answers can differ by rounding."
        },
    )
    eval_crop: EvalCrop | None = field(
        default=None,
        metadata={
            "help": "Crop of the evaluation view, saved with the student: center (default), or squash, which resizes "
            "the whole image without cropping."
        },
    )
    crop_ratio: float | None = field(
        default=None,
        metadata={
            "help": "Fraction of the short side that the centre crop keeps, in (0, 1]. Default: 0.875, or 1 up to 32 "
            "pixels."
        },
    )
    model_license: str | None = field(
        default=None,
        metadata={
            "help": "Licence of the trained model for its card, by its name on the Hub, such as apache-2.0. Default: "
            "none."
        },
    )

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.teacher_model_name_or_path == "none":
            self.teacher_model_name_or_path = None
        self._check_teacher()
        self._check_source()
        if self.image_size is not None:
            check("image_size", self.image_size, lambda v: v >= 2, "2 pixels or more")
        if self.drop_path_rate is not None:
            check("drop_path_rate", self.drop_path_rate, lambda v: 0 <= v < 1, "in [0, 1)")
        if self.model_license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.model_license):
            raise ValueError(
                f"`model_license` is {self.model_license!r}, but must be a licence name of the Hub, such as "
                "apache-2.0 or mit (https://huggingface.co/docs/hub/repositories-licenses)"
            )
        check_crop(self.eval_crop, "crop_ratio", self.crop_ratio)
        self._check_config_overrides()

    def _check_source(self) -> None:
        if (self.model_name_or_path is None) == (self.variant is None):
            raise ValueError(
                f"`model_name_or_path` is {self.model_name_or_path} and `variant` is {self.variant}; give one: "
                f"weights to start from, or a DeiT to train from scratch ({', '.join(VARIANTS)})"
            )
        if self.use_distillation_token is not None and self.variant is not None:
            raise ValueError(
                f"`use_distillation_token` is for loaded weights, but `variant` is {self.variant}; name the variant "
                "with or without `_distilled` instead"
            )

    def _check_teacher(self) -> None:
        if self.teacher_dtype is not None:
            check_choice("teacher_dtype", self.teacher_dtype, ("float32", "bfloat16"))
        for name in ("teacher_dtype", "teacher_compile", "teacher_channels_last"):
            value = getattr(self, name)
            if value and self.teacher_model_name_or_path is None:
                raise ValueError(f"`{name}` is {value}, but there is no teacher; name one, or leave it out")

    def _check_config_overrides(self) -> None:
        if not self.config_overrides:
            return
        if self.variant is None:
            raise ValueError("`config_overrides` needs a `variant`; loaded weights keep their own configuration")
        if isinstance(self.config_overrides, str):
            try:
                self.config_overrides = json.loads(self.config_overrides)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"`config_overrides` is {self.config_overrides!r}, which is not valid JSON: {error}"
                ) from error
        if not isinstance(self.config_overrides, dict):
            raise ValueError(
                f"`config_overrides` is {self.config_overrides!r}, but must be a JSON object such as "
                '{"hidden_size": 96}'
            )
        known = {option.name for option in fields(DeiTConfig)} | {"num_labels"}
        for name in self.config_overrides:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean `{close[0]}`?" if close else ""
                raise ValueError(f"`config_overrides` has `{name}`, which is not a field of DeiTConfig{hint}")


def check_crop(eval_crop: EvalCrop | None, ratio_name: str, ratio: float | None) -> None:
    if eval_crop is not None:
        check_choice("eval_crop", eval_crop, ("center", "squash"))
    if ratio is not None:
        check(ratio_name, ratio, lambda v: 0 < v <= 1, "in (0, 1]")
        if eval_crop == "squash":
            raise ValueError(f"`{ratio_name}` is {ratio}, but `eval_crop` squash does not crop; set only one of them")
