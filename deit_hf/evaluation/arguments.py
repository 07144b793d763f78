"""What an evaluation measures, and how."""

from dataclasses import dataclass, field
from pathlib import Path

from ..argument_checks import check, check_choice, check_kinds
from ..model.arguments import check_crop
from ..model.image_processing_deit import EvalCrop
from .fusion import FUSIONS, Fusion


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
        check_kinds(self)
        check_choice("fusion", self.fusion, tuple(FUSIONS))
        check_crop(self.eval_crop, "crop_ratio", self.crop_ratio)
        check("batch_size", self.batch_size, lambda v: v >= 1, "1 or more")
        check("num_workers", self.num_workers, lambda v: v >= 0, "0 or more")
        for name in ("output_file", "per_class_file"):
            file = getattr(self, name)
            if file is not None and not Path(file).parent.is_dir():
                raise FileNotFoundError(f"`{name}` is {file}, but there is no folder `{Path(file).parent}`")
            if file is not None and Path(file).is_dir():
                raise ValueError(f"`{name}` is {file}, which is a folder; name a file in it")
