"""Whether an optimizer step counts: set in one place, read by the averaged weights and the log."""

from dataclasses import dataclass, field


@dataclass
class StepOutcome:
    """The outcome of the optimizer step in progress, and the steps skipped so far.

    `NumericalFaults` sets it before the optimizer steps; the averaged weights and the loss log read it after the step.

    Attributes:
        is_skipped: whether the step in progress changes nothing.
        skipped_steps: numbers of the skipped steps of this training, including those before a resume.
    """

    is_skipped: bool = False
    skipped_steps: list[int] = field(default_factory=list)

    def begin(self) -> None:
        """Starts a step that counts, unless it is skipped."""
        self.is_skipped = False

    def skip(self, step: int) -> None:
        """Marks the step in progress as skipped."""
        self.is_skipped = True
        self.skipped_steps.append(step)
