"""Options of a distillation job that are not options of one of its runs."""

from dataclasses import dataclass, field

from ..argument_checks import check, check_kinds

DEFAULT_STUDENT = "facebook/deit-tiny-distilled-patch16-224"
ALL = "all"


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
            "help": "Epochs of fitting the teacher to the data; 0 uses it as it is. Default: 0 if its classes are "
            "those of the data by name, else 10."
        },
    )
    teacher_train_only: str = field(
        default="head",
        metadata={
            "help": "What to train when the teacher is fitted to the data: head (its classifier), all, or a regular "
            "expression for names of parameters."
        },
    )

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.teacher_epochs is not None:
            check("teacher_epochs", self.teacher_epochs, lambda v: v >= 0, "0 or more (0 uses the teacher as it is)")
