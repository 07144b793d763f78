"""A distillation as one job: data, teacher, student, table. The same call again continues where it was stopped."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from transformers import BaseImageProcessor, PreTrainedModel

from ..model.build import load_classifier
from ..reliability.run_lock import decided_by_first, run_lock
from ..reliability.stop_signals import LeaveOnSignal
from .arguments import JobArguments
from .directory import choose_directory
from .job import Job
from .options import check_options
from .plan import RUNS_FOLDER, job_name
from .results import results_table


class Outcome(NamedTuple):
    """The outcome of a job.

    Attributes:
        output_dir: its directory; the student is in the folder `student`.
        results: for `results_table`.
        next_commands: commands that use the student.
        is_main_process: whether this is the process that prints.
    """

    output_dir: Path
    results: dict[str, Any]
    next_commands: list[str]
    is_main_process: bool


class Distilled(NamedTuple):
    """The result of a job.

    Attributes:
        model: the student, with the weights of its best epoch.
        processor: its image processor.
        table: accuracy, size and speed of teacher and student, as text.
        output_dir: the directory of the job; the student is in its folder `student`.
    """

    model: PreTrainedModel
    processor: BaseImageProcessor
    table: str
    output_dir: Path


def distill(
    data: str | os.PathLike | None = None,
    *,
    teacher: str | os.PathLike | None = None,
    student: str | os.PathLike | None = None,
    variant: str | None = None,
    output_dir: str | os.PathLike | None = None,
    compare: bool = False,
    teacher_epochs: float | None = None,
    teacher_train_only: str = "head",
    **options: Any,
) -> Distilled:
    """Trains a small student with a teacher on images in classes; the command is `deit-hf distill`.

    The same call again continues a job that was stopped, and returns the result of a finished one.

    Args:
        data: folder of class folders, possibly in parts (`train/`, `val/`, `test/`), Hub id, directory of parquet
            files, or `digits`. Without a validation part, 15 % of each class is held out.
        teacher: any classifier: Hub id, directory, `timm/NAME` or `timm:NAME@FILE`. If its classes are not those of
            the data, its classifier is trained on the data first.
        student: weights to start from. Default: facebook/deit-tiny-distilled-patch16-224.
        variant: DeiT to train from scratch instead of `student`.
        output_dir: directory of the job. Default: `runs/NAME` after the data.
        compare: also train the same student without the teacher.
        teacher_epochs: epochs of fine-tuning the teacher on the data; 0 uses it unchanged.
        teacher_train_only: what is trained then: `head`, `all`, or a regular expression for names of parameters.
        options: options of `ModelArguments`, `DataArguments` and `DistillationArguments` for the student's training.

    Returns:
        The student with its processor, and the table of the results.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: data, teacher, student and options do not fit each other, or `output_dir` holds another job.
        OSError: a source is not found.
        TrainingStopped: a signal was received; the same call continues.
    """
    named = {
        "dataset_name": data,
        "teacher_model_name_or_path": teacher,
        "model_name_or_path": student,
        "variant": variant,
        "output_dir": output_dir,
    }
    for name, source in (("data", data), ("teacher", teacher), ("student", student), ("output_dir", output_dir)):
        if source is not None and not isinstance(source, str | os.PathLike):
            raise TypeError(f"`{name}` is a {type(source).__name__}, but must be a name or a path, as text")
    given = {name: value for name, value in named.items() if value is not None}
    plain = {name: os.fspath(v) if isinstance(v, os.PathLike) else v for name, v in {**options, **given}.items()}
    outcome = run_job(JobArguments(compare, teacher_epochs, teacher_train_only), plain)
    model, processor = load_classifier(str(outcome.output_dir / "student"))
    return Distilled(model, processor, results_table(outcome.results), outcome.output_dir)


def run_job(job_args: JobArguments, options: Mapping[str, Any]) -> Outcome:
    """Runs all stages of a job that are not finished.

    Args:
        job_args: options of the job.
        options: options of its runs that the user gave, by name.
    """
    options = dict(options)
    output_dir, overwrite = options.pop("output_dir", None), bool(options.get("overwrite_output_dir"))
    args = check_options(options)
    with LeaveOnSignal():
        job = Job(job_args, options, is_main_process=args.process_index == 0)
        where: Any = {"name": job_name(job.data.args), "folder": Path(RUNS_FOLDER), "overwrite": overwrite}
        choose = partial(choose_directory, output_dir, job.identity, **where)
        directory = decided_by_first(choose, args.distributed_state)
        assert directory is not None
        with run_lock(directory, args.distributed_state):
            return Outcome(directory, job.run(directory), job.next_commands(directory), job.is_main_process)
