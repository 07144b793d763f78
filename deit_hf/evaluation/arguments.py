"""Options of an evaluation."""

from dataclasses import dataclass, field
from pathlib import Path

from ..argument_checks import check, check_choice, check_kinds
from ..model.arguments import check_crop
from ..model.image_processing_deit import EvalCrop
from .fusion import FUSIONS, Fusion


@dataclass
class EvaluationArguments:
    """Options of an evaluation; those of its data are in `DataArguments`.

    Raises:
        TypeError: from the constructor, if a value has the wrong type.
        ValueError: from the constructor, if an option is out of range.
        FileNotFoundError: from the constructor, if the folder of an output file does not exist.
    """

    model_name_or_path: str = field(metadata={"help": "Hub id or directory of any image classifier."})
    batch_size: int = field(default=64, metadata={"help": "Batch size per device."})
    num_workers: int = field(default=2, metadata={"help": "Data workers (processes that decode images) per device."})
    eval_crop: EvalCrop | None = field(
        default=None,
        metadata={
            "help": "center, or squash, which resizes the whole image without cropping. Default: as in the model's "
            "image processor."
        },
    )
    crop_ratio: float | None = field(
        default=None,
        metadata={"help": "Fraction of the short side that the centre crop keeps: 0.875 (paper) or 1 (DeiT III)."},
    )
    fusion: Fusion = field(
        default="logit_mean",
        metadata={
            "help": "How the outputs of two heads are combined: logit_mean (all published numbers) or softmax_sum "
            "(text of the paper, sec. 4)."
        },
    )
    output: str | None = field(default=None, metadata={"help": "JSON file for the metrics."})
    per_class_file: str | None = field(
        default=None, metadata={"help": "JSON file for the accuracy of each class and the confusion matrix."}
    )
    verbose: bool = field(default=False, metadata={"help": "Print what transformers prints, and silence no warning."})

    def __post_init__(self) -> None:
        check_kinds(self)
        check_choice("fusion", self.fusion, tuple(FUSIONS))
        check_crop(self.eval_crop, "crop_ratio", self.crop_ratio)
        check("batch_size", self.batch_size, lambda v: v >= 1, "1 or more")
        check("num_workers", self.num_workers, lambda v: v >= 0, "0 or more")
        for name in ("output", "per_class_file"):
            file = getattr(self, name)
            if file is not None and not Path(file).parent.is_dir():
                raise FileNotFoundError(f"`{name}` is {file}, but the folder `{Path(file).parent}` does not exist")
            if file is not None and Path(file).is_dir():
                raise ValueError(f"`{name}` is {file}, which is a folder; name a file in it")
