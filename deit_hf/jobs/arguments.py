"""Options of a job that are not options of one of its runs."""

from dataclasses import dataclass, field

from ..argument_checks import check, check_choice, check_kinds

DEFAULT_STUDENT = "facebook/deit-tiny-distilled-patch16-224"
ALL = "all"
PARTS = ("test", "validation")


@dataclass
class JobArguments:
    """Options of a distillation job.

    Raises:
        TypeError: from the constructor, if a value has the wrong type.
        ValueError: from the constructor, if a value is out of range.
    """

    compare: bool = field(
        default=False, metadata={"help": "Also train the same student without the teacher, for comparison."}
    )
    teacher_epochs: float | None = field(
        default=None,
        metadata={
            "help": "Epochs of fine-tuning the teacher on the data; 0 uses it unchanged. Default: 0 if its classes "
            "are those of the data by name, else 10."
        },
    )
    teacher_train_only: str = field(
        default="head",
        metadata={
            "help": "What to train when the teacher is fine-tuned: head (its classifier), all, or a regular "
            "expression for names of parameters."
        },
    )

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.teacher_epochs is not None:
            check("teacher_epochs", self.teacher_epochs, lambda v: v >= 0, "0 or more (0 uses the teacher as it is)")


@dataclass
class ReproduceArguments:
    """What `deit-hf reproduce` repeats.

    Raises:
        TypeError: from the constructor, if a value has the wrong type.
        ValueError: from the constructor, if a value is out of range.
    """

    table: str = field(metadata={"help": "Table to repeat; `deit-hf reproduce --help` lists them."})
    rows: list[str] | None = field(default=None, metadata={"help": "Rows of the table; by default all."})
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Each row is trained once with each seed."}
    )
    protocol: str = field(
        default="cpu", metadata={"help": "Size of the runs: cpu, or gpu, with more images and a larger student."}
    )
    part: str = field(
        default=PARTS[0],
        metadata={
            "help": "What measures the models: test, or validation: training images that are held out. Settings are "
            "chosen with the second, so that test images do not choose them."
        },
    )
    show: bool = field(
        default=False, metadata={"help": "Train nothing; write tables and plots of the results in `output_dir`."}
    )

    def __post_init__(self) -> None:
        check_kinds(self)
        check_choice("part", self.part, PARTS)
        for name in ("rows", "seeds"):
            values = getattr(self, name)
            if values is not None and (not values or len({*values}) < len(values)):
                raise ValueError(f"`{name}` is {values}; name at least one, and each once")
        for seed in self.seeds:
            check("seeds", seed, lambda v: v >= 0, "0 or more")
