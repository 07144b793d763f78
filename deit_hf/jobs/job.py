"""A distillation job: what it consists of, and its stages."""

import contextlib
import json
import logging
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from ..analysis.latency import milliseconds
from ..distillation.teacher import Teacher
from ..distillation.teacher_view import own_processor
from ..evaluation.teacher_fit import TeacherFit
from ..model.arguments import ModelArguments
from ..model.build import build_student, load_classifier
from ..model.image_processing_deit import crop_size
from ..model.labels import real_names
from ..reliability.checkpoints import is_finished
from ..reliability.run_lock import decided_by_first
from ..training.arguments import DistillationArguments
from ..training.changeable_options import HARMLESS, NOT_RECORDED
from ..training.preflight import measure
from ..training.progress import duration
from ..training.run import train
from ..training.same_run import weights_facts
from .arguments import JobArguments
from .directory import RESULTS_FILE, TEACHER_FILE, begin_job, read_json, write_json
from .plan import RUNS_FOLDER, JobRun, load_data, plan_student, plan_teacher, repeats_digits, without_teacher
from .results import rows_of_run
from .teacher_stage import measure_teacher, why_it_does_not_fit

logger = logging.getLogger(__name__)


class Job:
    """A job: its data, teacher and student are loaded and checked when it is created; nothing is written before `run`.

    Attributes:
        data: the data of all runs.
        misfit: why the teacher has to be fitted to the data first; None if it is used as it is.
        processor: the student's image processor.
        identity: what the job consists of, to recognise it in a directory.
    """

    def __init__(self, job_args: JobArguments, options: Mapping[str, Any], *, is_main_process: bool):
        self.job_args, self.options, self.is_main_process = job_args, options, is_main_process
        self.data = load_data(options, is_main_process=is_main_process)
        self.source = options.get("teacher_model_name_or_path")
        self.misfit, teacher_size = self._check_teacher()
        run = plan_student(self.data, options, teacher="unused")
        model_args, _, self.args = run.arguments(Path(RUNS_FOLDER))
        student, self.processor = self._build(model_args)
        self.student_has_token = hasattr(student, "distillation_classifier") and model_args.variant is None
        self._warn_of_size(student.num_parameters(), teacher_size)
        self.identity = self._identity(model_args, run.defaults())

    def _check_teacher(self) -> tuple[str | None, int | None]:
        """Returns why the teacher does not fit the data, or None; and its number of parameters, if it exists."""
        self.teacher_classes: list[str] | None = None
        if self.source is None:
            return "it is trained from scratch", None
        teacher = Teacher.from_pretrained(self.source, student_config=None)
        self.teacher_classes = real_names(teacher.id2label)
        size = sum(each.numel() for each in teacher.module.parameters())
        epochs = self.job_args.teacher_epochs
        if epochs == 0:
            teacher.match_labels(PreTrainedConfig(**self.data.labels))
            return None, size
        misfit = why_it_does_not_fit(teacher, self.data)
        return misfit or (None if epochs is None else f"`teacher_epochs` is {epochs:g}"), size

    def _build(self, model_args: ModelArguments) -> tuple[Any, Any]:
        with _quiet_models():  # the run logs it
            return build_student(model_args, self.data.labels)

    def _warn_of_size(self, student: int, teacher: int | None) -> None:
        if teacher is not None and student > teacher and self.is_main_process:
            logger.warning(
                "the student has %.2f million parameters, more than the teacher (%.2f million); name a "
                "smaller student with `--student` or `--variant`",
                *(student / 1e6, teacher / 1e6),
            )

    def _identity(self, model_args: ModelArguments, defaults: Mapping[str, Any]) -> dict[str, Any]:
        teacher = None if self.source is None else weights_facts(self.source)
        ignored = HARMLESS | NOT_RECORDED | {"variant"}
        own = {name: value for name, value in self.options.items() if name not in ignored}
        fitting = [self.job_args.teacher_epochs, self.job_args.teacher_train_only]
        identity = {
            "data": self.data.fingerprints(),
            "classes": self.data.names,
            "teacher": teacher,
            "teacher_classes": self.teacher_classes,
            "teacher_fitting": None if self.misfit is None else fitting,
            "student": weights_facts(model_args.model_name_or_path) or model_args.variant,
            "options": {name: value for name, value in own.items() if value != defaults.get(name)},
        }
        return dict(json.loads(json.dumps(identity, default=str)))  # as it is when it is read from the file

    # ---- stages ----

    def run(self, directory: Path) -> dict[str, Any]:
        """Runs the stages that are not finished; returns the results for `results_table`."""
        runs = self.runs(directory)
        overwrite = bool(self.options.get("overwrite_output_dir"))
        results = None if overwrite else self._agreed(partial(read_json, directory / RESULTS_FILE))
        if results is not None and runs.keys() <= {*results["runs"]}:
            self._log("already finished: %s; nothing to do; to repeat it, set `overwrite_output_dir`", directory)
            return results
        self._log_plan(runs, directory, overwrite=overwrite)
        self._agreed(partial(begin_job, directory, self.identity, overwrite=overwrite))
        for number, run in enumerate(runs.values(), start=1):
            if run.name == "student":
                teacher = self._teacher_accuracy(directory, "evaluation")
                self._log_teacher(teacher)
            finished = self._is_done(run, directory, overwrite=overwrite)
            state = " (finished earlier)" if finished else ""
            self._log("\nstage %d of %d: %s, in %s%s", number, len(runs), run.name, directory / run.name, state)
            if not finished:
                self._train(run, directory)
        results = self._results(directory, runs)
        self._agreed(partial(write_json, directory / RESULTS_FILE, results))
        return results

    def _agreed(self, function: Callable[[], Any]) -> Any:
        """Calls a function that reads or writes files in the first process; all wait for its result."""
        return decided_by_first(function, self.args.distributed_state)

    def _train(self, run: JobRun, directory: Path) -> None:
        if "metric_for_best_model" not in run.options:
            model, _ = self._build(run.arguments(directory)[0])
            two_heads = hasattr(model, "distillation_classifier")
            run.options["metric_for_best_model"] = "top1_average" if two_heads else "top1"
        # the test part is for the final table, which measures the teacher on its own views
        parts = self.data.parts if run.name != "teacher" else replace(self.data.parts, test=None)
        train(*run.arguments(directory), parts=parts)
        self.args.distributed_state.wait_for_everyone()  # the first process has written all files

    def runs(self, directory: Path) -> dict[str, JobRun]:
        """The trainings of the job by name, in order."""
        planned = []
        if self.misfit is not None:
            planned.append(plan_teacher(self.data, self.options, self.job_args))
        planned.append(plan_student(self.data, self.options, teacher=self.teacher_in(directory)))
        if self.args.push_to_hub:
            planned[-1].options.setdefault("hub_model_id", directory.name)  # not that of its folder, `student`
        if self.job_args.compare:
            planned.append(plan_student(self.data, self.options, teacher=None))
        return {run.name: run for run in planned}

    def teacher_in(self, directory: Path) -> str:
        """Source of the teacher: its folder in the directory of the job if it is fitted to the data."""
        return str(self.source) if self.misfit is None else str(directory / "teacher")

    def _is_done(self, run: JobRun, directory: Path, *, overwrite: bool) -> bool:
        return not overwrite and self._agreed(partial(is_finished, directory / run.name))

    def _log_plan(self, runs: Mapping[str, JobRun], directory: Path, *, overwrite: bool) -> None:
        self._log("job in %s", directory)
        if self.misfit is None:
            self._log("teacher: %s is used as it is", self.source)
        elif self.source is not None:
            self._log("teacher: %s is fine-tuned on the data first, because %s", self.source, self.misfit)
        for run in runs.values():
            self._log("%s: %s", run.name, run.in_words())
        left = [run for run in runs.values() if not self._is_done(run, directory, overwrite=overwrite)]
        if left:
            seconds = sum(self._estimate(run, directory) for run in left)
            self._log("estimated time: %s for %s", duration(seconds), " and ".join(run.name for run in left))

    def _estimate(self, run: JobRun, directory: Path) -> float:
        """Estimates the seconds of a run from its first steps; the steps of an interrupted run count again."""
        has_token = self.student_has_token and run.name == "student"
        alone = without_teacher(run, has_token=has_token)  # the teacher may not exist yet
        model_args, data_args, args = alone.arguments(directory)
        needs = measure(model_args, data_args, args, self.data.parts)
        if run.name != "student" or self.source is None:
            return needs.seconds
        return needs.seconds + needs.num_steps * needs.images_per_step * self._seconds_of_teacher(args)

    def _seconds_of_teacher(self, args: DistillationArguments) -> float:
        """Seconds per image of the teacher, in batches."""
        teacher = Teacher.from_pretrained(str(self.source), student_config=None, device=args.device)
        batch = args.per_device_train_batch_size
        pixels = torch.zeros(batch, 3, *crop_size(self.processor), device=args.device)
        return milliseconds(teacher, pixels, num_measured=2) / 1000 / batch / args.world_size

    def _log(self, message: str, *values: Any) -> None:
        if self.is_main_process:
            logger.info(message, *values)

    # ---- what was achieved ----

    def _teacher_accuracy(self, directory: Path, part: str) -> dict[str, Any]:
        """Measures the teacher on its own views and on the student's, once per part; all processes call it."""
        path = directory / TEACHER_FILE.format(part)
        stored: dict[str, Any] | None = self._agreed(partial(read_json, path))
        if stored is not None:
            return stored
        source = self.teacher_in(directory)
        own = own_processor(Teacher.from_pretrained(source, student_config=None))
        with _quiet_models():
            found = {
                views: measure_teacher(source, self.data, part, processor, self.args)
                for views, processor in (("own", own), ("student", self.processor))
            }
        self._agreed(partial(write_json, path, found))
        return found

    def _log_teacher(self, accuracy: Mapping[str, Any]) -> None:
        own, students = (100 * accuracy[views]["top1"] for views in ("own", "student"))
        self._log(
            "teacher: top-1 %.1f on its own views, %.1f on the student's views (validation part, %d images)",
            *(own, students, accuracy["own"]["images"]),
        )

    def _results(self, directory: Path, runs: Mapping[str, JobRun]) -> dict[str, Any]:
        part = self.data.final_part
        prefix = "eval" if part == "evaluation" else "test"
        accuracy = self._teacher_accuracy(directory, part)
        teacher = Teacher.from_pretrained(self.teacher_in(directory), student_config=None)
        size = teacher.image_size or crop_size(self.processor)
        rows = rows_of_run("teacher", _named(accuracy["own"], prefix), prefix, self._facts(teacher.module, size))
        rows += rows_of_run("teacher, on the student's views", _named(accuracy["student"], prefix), prefix, {})
        for name in ("student", "plain"):
            if name in runs:
                model, processor = load_classifier(str(directory / name))
                metrics = read_json(directory / name / f"{prefix}_results.json") or {}
                title = name if name == "student" else "student without teacher"
                rows += rows_of_run(title, metrics, prefix, self._facts(model, crop_size(processor)))
        return {
            "runs": [*runs],
            "part": part,
            "part_name": self.data.parts.names[part],
            "images": accuracy["own"]["images"],
            "class_counts": self.data.images(part).class_counts(),
            "device": str(self.args.device),
            "repeats_digits": repeats_digits(self.options),
            "rows": rows,
            "teacher_fit": TeacherFit.from_metrics(
                read_json(directory / "student" / "train_results.json") or {}
            ).metrics(),
        }

    def _facts(self, model: Any, image_size: tuple[int, int]) -> dict[str, float]:
        tensors, device = [*model.parameters(), *model.buffers()], self.args.device
        return {
            "parameters": sum(each.numel() for each in model.parameters()),
            "megabytes": sum(each.numel() * each.element_size() for each in tensors) / 1e6,
            "milliseconds": milliseconds(model.to(device).eval(), torch.zeros(1, 3, *image_size, device=device)),
        }

    def next_commands(self, directory: Path) -> list[str]:
        """Commands that use the student, with real paths."""
        student, onnx = (shlex.quote(str(directory / name)) for name in ("student", "onnx"))
        return [
            f"deit-hf predict {student} {shlex.quote(self.data.example() or 'PHOTO.jpg')}",
            f"deit-hf evaluate {student} {self.data.flags()}",
            f"deit-hf export {student} {onnx}",
            f"deit-hf push {student} --hub_model_id USER/{shlex.quote(directory.name)}",
        ]


@contextlib.contextmanager
def _quiet_models() -> Iterator[None]:
    """Leaves out what is logged while a model is loaded, because its run logs the same."""
    models = logging.getLogger(__name__.partition(".")[0])
    before = models.level
    models.setLevel(logging.ERROR)
    try:
        yield
    finally:
        models.setLevel(before)


def _named(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in metrics.items()}
