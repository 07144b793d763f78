"""The table at the end of a job: teacher, student by head, and the student without a teacher."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.intervals import wilson_interval
from ..evaluation.metric_names import accuracy_name
from ..evaluation.teacher_fit import TeacherFit

# Mean and standard deviation of `deit-hf distill digits --compare` over seeds 0 to 4; the student with both heads.
# Of `deit-hf reproduce digits`; a test compares it with the files in scripts/results.
DIGITS_SPREAD = (
    "The digits show how the command works, not what a teacher is worth: over five seeds of these recipes, top-1 on\n"
    "the 360 test images was 95.2 +- 1.2 for the student, 94.8 +- 1.2 for the same student without a teacher, and\n"
    "99.4 for the teacher. One standard error of 360 images is 1.2. Another seed or machine can differ by 3 points."
)
HEADS = {"": "", "average": ", both heads", "cls": ", class head", "distillation": ", distillation head"}


def rows_of_run(
    name: str, metrics: Mapping[str, float], prefix: str, facts: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One row of the table for each head of a model.

    Args:
        name: of the model in the table.
        metrics: of its evaluation.
        prefix: of the names of the metrics, `eval` or `test`.
        facts: `parameters`, `megabytes` and `milliseconds`, for the first row.
    """
    rows: list[dict[str, Any]] = []
    for head, words in HEADS.items():
        top1 = metrics.get(accuracy_name("top1", head=head, prefix=prefix))
        if top1 is not None:
            balanced = metrics.get(accuracy_name("balanced_accuracy", head=head, prefix=prefix))
            rows.append({"name": f"{name}{words}", "top1": top1, "balanced": balanced, **({} if rows else facts)})
    return rows


def results_table(results: Mapping[str, Any]) -> str:
    """Formats the results of a job; accuracies are percentages."""
    rows, images = results["rows"], results["images"]
    unequal = len(set(results["class_counts"] or [])) > 1
    teacher = rows[0]["top1"]
    head = ["", "top-1", "95 % interval", *(["balanced"] if unequal else [])]
    cells = [[*head, "parameters", "size", "one image", "of the teacher"]]
    for row in rows:
        low, high = wilson_interval(round(row["top1"] * images), images)
        line = [row["name"], _percent(row["top1"]), f"{_percent(low)} to {_percent(high)}"]
        if unequal:
            line.append("" if row.get("balanced") is None else _percent(row["balanced"]))
        line += [
            f"{row['parameters'] / 1e6:.2f} M" if "parameters" in row else "",
            f"{row['megabytes']:.1f} MB" if "megabytes" in row else "",
            f"{row['milliseconds']:.1f} ms" if "milliseconds" in row else "",
            "" if row["name"].startswith("teacher") or not teacher else f"{row['top1'] / teacher:.1%}",
        ]
        cells.append(line)
    return "\n".join([*_aligned(cells), *_notes(results)])


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *rest in cells:
        numbers = (f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
        lines.append("  ".join([f"{first:{widths[0]}}", *numbers]).rstrip())
    return lines


def _notes(results: Mapping[str, Any]) -> list[str]:
    part, images = results["part_name"], results["images"]
    if results["part"] == "test":
        measured = f"Accuracy in percent on the test part (`{part}`, {images:,} images), used only for this table."
    else:
        measured = (
            f"Accuracy in percent on the validation part (`{part}`, {images:,} images). The same images chose the "
            "best epoch, so the accuracy on new images can be lower; a test part would show it."
        )
    notes = [measured, f"One image: median of a forward pass on {results['device']}, without decoding."]
    fit = TeacherFit.from_metrics(results.get("teacher_fit", {}))  # an older file has none
    if fit.views is not None:
        notes.append(f"Teacher on the training views of the student: {fit.in_words()}.")
    return [*notes, DIGITS_SPREAD] if results.get("repeats_digits") else notes
