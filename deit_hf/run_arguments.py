"""Which student, teacher and data a run takes, and what an evaluation does.

The options of the scripts beside the training's (arguments.py).
"""

import difflib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path

from .arguments import check, check_choice
from .configuration_deit import VARIANTS, DeiTConfig
from .evaluation import FUSIONS, Fusion
from .image_processing_deit import EvalCrop

DIGITS = "digits"  # scikit-learn's


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
    eval_crop: EvalCrop | None = field(
        default=None,
        metadata={
            "help": "Evaluation view that is saved with the student: center crop (by default), or squash: the whole "
            "image resized to a square."
        },
    )
    eval_crop_ratio: float | None = field(
        default=None,
        metadata={"help": "Share of the short side that the centre crop takes, in (0, 1]; 0.875 by default."},
    )

    def __post_init__(self) -> None:
        self._check_source()
        _check_crop(self.eval_crop, "eval_crop_ratio", self.eval_crop_ratio)
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
    label_file: str | None = field(
        default=None,
        metadata={
            "help": "Right labels of the evaluation images instead of the data's own, one or several each (such as "
            "ImageNet-ReaL's real.json): JSON list or object by file name, or text lines `label` or `name label`."
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training split in order from its shards (parquet files, or webdataset tars, whose "
            "columns are file endings such as jpg and cls) instead of loading it; the evaluation split is loaded."
        },
    )
    num_labels: int | None = field(
        default=None, metadata={"help": "Classes, where the label column has numbers without names."}
    )
    max_train_samples: int | None = field(
        default=None,
        metadata={
            "help": "Use only so many, drawn at random, the same ones every time; of a stream the first ones of each "
            "shard."
        },
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
        if self.streaming and (folders or self.dataset_name == DIGITS):
            raise ValueError(
                "`streaming` reads the shards of a dataset, so `dataset_name` must name one (a Hub id, or a directory "
                "of parquet files or webdataset tars); name it, or leave `streaming` out"
            )
        for name in ("max_train_samples", "max_eval_samples"):
            if getattr(self, name) is not None:
                check(name, getattr(self, name), lambda v: v >= 1, "1 or more")
        if self.num_labels is not None:
            check("num_labels", self.num_labels, lambda v: v >= 2, "2 or more")


@dataclass
class EvaluationArguments:
    """What to evaluate, and how; the data is in `DataArguments`.

    Raises:
        ValueError: from the constructor, when an option is out of its range.
        FileNotFoundError: from the constructor, when the folder of a file to write is not there.
    """

    model_name_or_path: str = field(metadata={"help": "Hub id or directory of any image classifier."})
    batch_size: int = field(default=64, metadata={"help": "Images at a time on each device."})
    num_workers: int = field(default=2, metadata={"help": "Processes that decode images, for each device."})
    eval_crop: EvalCrop | None = field(
        default=None,
        metadata={
            "help": "center, or squash: the whole image resized to a square; by default as the model's processor does."
        },
    )
    crop_ratio: float | None = field(
        default=None,
        metadata={"help": "Share of the short side that the centre crop takes: 0.875 (the paper's), 1 (DeiT III's)."},
    )
    fusion: Fusion = field(
        default="logit_mean",
        metadata={
            "help": "How two heads answer together: logit_mean (all published numbers) or softmax_sum (the text of "
            "sec. 4)."
        },
    )
    output_file: str | None = field(default=None, metadata={"help": "JSON file for the metrics."})
    per_class_file: str | None = field(
        default=None, metadata={"help": "JSON file for the accuracy of each class and the confusion counts."}
    )

    def __post_init__(self) -> None:
        check_choice("fusion", self.fusion, tuple(FUSIONS))
        _check_crop(self.eval_crop, "crop_ratio", self.crop_ratio)
        check("batch_size", self.batch_size, lambda v: v >= 1, "1 or more")
        check("num_workers", self.num_workers, lambda v: v >= 0, "0 or more")
        for name in ("output_file", "per_class_file"):
            file = getattr(self, name)
            if file is not None and not Path(file).parent.is_dir():
                raise FileNotFoundError(f"`{name}` is {file}, but there is no folder `{Path(file).parent}`")


def _check_crop(eval_crop: EvalCrop | None, ratio_name: str, ratio: float | None) -> None:
    if eval_crop is not None:
        check_choice("eval_crop", eval_crop, ("center", "squash"))
    if ratio is not None:
        check(ratio_name, ratio, lambda v: 0 < v <= 1, "in (0, 1]")
        if eval_crop == "squash":
            raise ValueError(f"`{ratio_name}` is {ratio}, but `eval_crop` squash crops nothing; give only one of them")
