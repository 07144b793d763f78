"""Which student, teacher and data a run takes: the options of the scripts beside the training's (arguments.py)."""

import difflib
import json
from dataclasses import dataclass, field, fields

from .arguments import check
from .configuration_deit import VARIANTS, DeiTConfig


@dataclass
class ModelArguments:
    """Student and teacher.

    Raises:
        ValueError: from the constructor, when no student or two are named.
    """

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Weights to start from: Hub id, directory, or timm:NAME[@FILE] for a model of timm."},
    )
    variant: str | None = field(
        default=None,
        metadata={"help": "DeiT to train from scratch, such as deit_tiny_distilled_patch16_224."},
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Pixels; the position table of loaded weights is resized to it."}
    )
    drop_path_rate: float | None = field(
        default=None, metadata={"help": "Stochastic depth of a DeiT student, in [0, 1); 0.1 in the paper."}
    )
    config_overrides: dict | str | None = field(
        default=None, metadata={"help": 'Other fields of DeiTConfig for a variant, as JSON: {"hidden_size": 96}.'}
    )
    use_distillation_token: bool | None = field(
        default=None,
        metadata={
            "help": "For loaded weights: whether the student has the token. By default as the weights have it, and "
            "also when there is a teacher; false with a teacher is usual distillation."
        },
    )
    teacher_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id, directory, timm/NAME on the Hub, or timm:NAME[@FILE]."}
    )

    def __post_init__(self) -> None:
        self._check_source()
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

    def _check_config_overrides(self) -> None:
        if not self.config_overrides:
            return
        if self.variant is None:
            raise ValueError("`config_overrides` changes a `variant`; loaded weights have the sizes that they have")
        if isinstance(self.config_overrides, str):
            try:
                self.config_overrides = json.loads(self.config_overrides)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"`config_overrides` is {self.config_overrides!r}, which is no JSON: {error}"
                ) from error
        if not isinstance(self.config_overrides, dict):
            raise ValueError(
                f'`config_overrides` is {self.config_overrides!r}, but must be like {{"hidden_size": 96}}'
            )
        known = {option.name for option in fields(DeiTConfig)} | {"num_labels"}
        for name in self.config_overrides:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean `{close[0]}`?" if close else ""
                raise ValueError(f"`config_overrides` has `{name}`, which is no field of DeiTConfig{hint}")


@dataclass
class DataArguments:
    """Where images and labels come from; the names are those of transformers' `run_image_classification.py`.

    Raises:
        ValueError: from the constructor, when no source is named, or two.
    """

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Hub id, builder, local directory of parquet files or class folders, or digits: scikit-learn's "
            "handwritten digits, which need no download."
        },
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the dataset."})
    train_dir: str | None = field(default=None, metadata={"help": "Folder with one sub-folder of images per class."})
    validation_dir: str | None = field(default=None, metadata={"help": "The same for evaluation."})
    train_split: str = field(default="train", metadata={"help": "Name of the training split."})
    eval_split: str | None = field(
        default=None, metadata={"help": "Name of the evaluation split; validation, else test, by default."}
    )
    image_column_name: str = field(default="image", metadata={"help": "Column that holds the images."})
    label_column_name: str = field(default="label", metadata={"help": "Column that holds the class indices or names."})
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Use only so many, drawn at random, the same ones every time."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Use only so many, drawn at random, the same ones every time."}
    )

    def __post_init__(self) -> None:
        folders = self.train_dir is not None or self.validation_dir is not None
        if (self.dataset_name is not None) == folders:
            raise ValueError(
                f"`dataset_name` is {self.dataset_name}, `train_dir` {self.train_dir} and `validation_dir` "
                f"{self.validation_dir}; give either a dataset or folders"
            )
        if self.train_dir is not None and self.validation_dir is not None and self.eval_split == self.train_split:
            raise ValueError(
                f"`train_split` and `eval_split` are both {self.eval_split!r}, but the two folders need two names; "
                "leave both out"
            )
        for name in ("max_train_samples", "max_eval_samples"):
            if getattr(self, name) is not None:
                check(name, getattr(self, name), lambda v: v >= 1, "1 or more")
