"""Options of an evaluation."""

from dataclasses import dataclass, field
from pathlib import Path

from ..argument_checks import check, check_choice, check_files, check_kinds
from ..model.arguments import check_crop
from ..model.image_processing_deit import EvalCrop
from .fusion import FUSIONS, Fusion


@dataclass
class EvaluationArguments:
    """Options of an evaluation; those of its data are in `DataArguments`.

    Raises:
        TypeError: from the constructor, if a value has the wrong type.
        ValueError: from the constructor, if an option is out of range, or both files are the same.
        OSError: from the constructor, if the folder of an output file does not exist or cannot be written to.
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
    verbose: bool = field(
        default=False, metadata={"help": "Also print what transformers prints, and show all warnings."}
    )

    def __post_init__(self) -> None:
        check_kinds(self)
        check_choice("fusion", self.fusion, tuple(FUSIONS))
        check_crop(self.eval_crop, "crop_ratio", self.crop_ratio)
        check("batch_size", self.batch_size, lambda v: v >= 1, "1 or more")
        check("num_workers", self.num_workers, lambda v: v >= 0, "0 or more")
        check_files({"output": self.output, "per_class_file": self.per_class_file})


@dataclass
class ReportArguments:
    """Options of a report; those of its data are in `DataArguments`.

    Raises:
        TypeError: from the constructor, if a value has the wrong type.
        ValueError: from the constructor, if an option is out of range, or a file exists.
        OSError: from the constructor, if the folder of the output does not exist or cannot be written to.
    """

    models: list[str] = field(
        metadata={
            "help": "Hub ids or directories of image classifiers, or of distillation jobs, which stand for their "
            "students.",
            "aliases": ["--model_name_or_path"],
        }
    )
    output: str = field(
        default="report.html",
        metadata={
            "help": "NAME.html for the page; NAME.json with all its numbers is written next to it. NAME.json writes "
            "the numbers alone."
        },
    )
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "Hub id, directory, timm/NAME on the Hub, or timm:NAME[@FILE] of a teacher to compare with. "
            "Default: the teacher of the job or run of a model, if it is a local directory."
        },
    )
    thumbnails: int = field(
        default=12,
        metadata={"help": "Images in each list of mistakes and of different heads, 0 to 100; 0 for a page without."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace the files if they exist."})
    batch_size: int = field(default=64, metadata={"help": "Images per batch."})
    num_workers: int = field(default=2, metadata={"help": "Data workers (processes that decode images)."})
    verbose: bool = field(
        default=False, metadata={"help": "Also print what transformers prints, and show all warnings."}
    )

    def __post_init__(self) -> None:
        check_kinds(self)
        check("batch_size", self.batch_size, lambda v: v >= 1, "1 or more")
        check("num_workers", self.num_workers, lambda v: v >= 0, "0 or more")
        check("thumbnails", self.thumbnails, lambda v: 0 <= v <= 100, "in [0, 100]")
        if Path(self.output).suffix not in (".html", ".json"):
            raise ValueError(f"`output` is {self.output}, but must end in .html or .json")
        for file in self.files:
            check_files({"output": file})
            if file.exists() and not self.overwrite:
                raise ValueError(f"`{file}` already exists; name another file with --output, or pass --overwrite true")

    @property
    def files(self) -> list[Path]:
        """The files that are written: the page, unless only the numbers are wanted, and the numbers."""
        return list(dict.fromkeys([Path(self.output), Path(self.output).with_suffix(".json")]))

    @property
    def page(self) -> Path | None:
        """The page, or None if only the numbers are wanted."""
        return self.files[0] if len(self.files) == 2 else None
