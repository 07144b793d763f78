"""Trains the rows of a table of the paper in small, run by run; the same call continues where it was stopped."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
from filelock import FileLock, Timeout

from ..argument_checks import check_choice
from ..benchmarks.comparison import environment
from ..benchmarks.peer_training import check_peer_options, train_peer
from ..data.dataset import ImageDataset
from ..data.fingerprint import images_fingerprint
from ..data.sources.arguments import DataArguments
from ..data.sources.load import ImageParts, load_image_parts
from ..hub.run_files import read_json
from ..model.labels import label_config, real_names
from ..reliability.checkpoints import find_checkpoint, is_finished
from ..reliability.run_identity import Difference
from ..training.progress import duration, say
from ..training.recipe_file import parse_recipe
from ..training.run import train
from ..training.same_run import weights_facts
from .arguments import ReproduceArguments
from .directory import write_json
from .plan import OPTION_TYPES
from .study import Study, StudyRun, find_table, folder_of
from .study_results import OF_THE_DATA, OF_THE_MACHINE, add_result, measure, read_results, recorded, top1_by_head
from .study_table import StudyTable, answer_of

RUNS = "runs"
SECONDS_BETWEEN_LOOKS = 5
SOURCES = {"model_name_or_path", "teacher_model_name_or_path"}
SHORTER = {"num_train_epochs", "max_train_samples", "max_eval_samples"}  # for a trial


def reproduce(args: ReproduceArguments, options: Mapping[str, Any], output_dir: Path) -> Path:
    """Trains all runs of a table that are not finished; returns the folder of its results.

    Several processes may share the folder: each takes the next run that no other one is training.

    Args:
        args: table, rows, seeds and size.
        options: of every run, such as the path of the data, or `num_train_epochs` for a trial.
        output_dir: for models and results, in a folder for each study, protocol and part.

    Raises:
        ValueError: a row or option is unknown, or the folder holds results of other options, images or weights.
        OSError: the data is not found, or `output_dir` is a file.
        TrainingStopped: a signal was received; the same call continues.
    """
    study, rows = find_table(args.table)
    for row in args.rows or ():
        check_choice("rows", row, tuple(rows))
    rows = rows if args.rows is None else args.rows
    if output_dir.exists() and not output_dir.is_dir():
        raise NotADirectoryError(f"`output_dir` {output_dir} is a file; name a directory")
    check_given(study, options)
    runs = study.runs(rows, args.seeds, args.protocol, options)
    _check_sources(study, rows, options)
    return _Reproduction(study, runs, args, options, output_dir).run()


def check_given(study: Study, options: Mapping[str, Any]) -> None:
    """Refuses options that the rows of a table set, and a launch of several processes."""
    for name in options:
        if name not in OF_THE_MACHINE | OF_THE_DATA | SOURCES | SHORTER:
            advice = "name the seeds with `--seeds`" if name == "seed" else "leave it out, or use deit-hf train"
            raise ValueError(f"`{name}` is set by the rows of a table; {advice}")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but each run of a table has one process; start the command "
            "several times without torchrun, and the processes share the runs"
        )
    if "dataset_name" not in {*study.data, *options}:
        raise ValueError("this table is for data of your own; name it with `--dataset_name`")


def _check_sources(study: Study, rows: Sequence[str], options: Mapping[str, Any]) -> None:
    """Refuses weights that no row would use."""
    if not study.starts_from_weights and SOURCES & {*options}:
        raise ValueError(f"no row of the study {study.name} starts from weights; leave out --student and --teacher")
    if "teacher_model_name_or_path" in options and not any("teacher" in study.rows[row] for row in rows):
        raise ValueError(f"the rows {', '.join(rows)} have no teacher; leave out --teacher")


class _Reproduction:
    def __init__(
        self,
        study: Study,
        runs: dict[str, StudyRun],
        args: ReproduceArguments,
        options: Mapping[str, Any],
        output_dir: Path,
    ):
        self.study, self.runs, self.args = study, runs, args
        self.options = options
        self.folder = folder_of(output_dir, study, args.protocol, args.part)
        self.data = {**study.data, **{name: options[name] for name in options if name in OF_THE_DATA}}
        if args.part == "validation":
            if "eval_split" in options:
                raise ValueError(
                    f"`eval_split` is {options['eval_split']}, but `part` is validation, which measures on training "
                    "images that are held out; leave one of them out"
                )
            self.data["train_val_split"] = study.validation
        self.parts: dict[int | None, ImageParts] = {}  # by number of training images
        self.fingerprints: dict[int | None, dict[str, Any]] = {}
        self.began = time.monotonic()

    def run(self) -> Path:
        self._check_options()
        self._check_results()
        self._check_data()
        self._check_begun()
        left = self._unfinished()
        say(f"{len(self.runs)} runs in {self.folder}, {len(left)} of them to do")
        while left := self._unfinished():
            if not any(self._try(run, left) for run in left):
                time.sleep(SECONDS_BETWEEN_LOOKS)  # other processes train the runs that are left
        return self.folder

    def _check_results(self) -> None:
        """Refuses a folder with results of other options, so that each table has runs of equal options only."""
        for line in StudyTable(self.study, self.folder).lines:
            planned = self.study.planned_options(line["row"], self.args.protocol, self.options)
            given, stored = recorded(planned), dict(line["options"])
            if line.get("source") is not None and "model_name_or_path" in planned:
                given["weights"], stored["weights"] = weights_facts(planned["model_name_or_path"]), line["source"]
            names = [name for name in {**given, **stored} if given.get(name) != stored.get(name)]
            if names:
                found = "; ".join(str(Difference(name, stored.get(name), given.get(name))) for name in names)
                raise ValueError(
                    f"{self.folder} holds a result of {line['run']} with other options ({found}); name another "
                    "directory with `--output_dir`, or give the same options"
                )

    def _check_data(self) -> None:
        """Loads the data of all runs, and refuses a folder with results of other images."""
        for run in self.runs.values():
            self._load(self._arguments(run)[1])
        for line in read_results(self.folder):
            same_size = self.fingerprints.get(line["options"].get("max_train_samples"))
            found = same_size or {self.args.part: next(iter(self.fingerprints.values()))[self.args.part]}
            differ = [part for part in found if found[part] != line["data"].get(part)]
            if differ:
                raise ValueError(
                    f"{self.folder} holds a result of {line['run']} with other images ({', '.join(differ)}); name "
                    "another directory with `--output_dir`"
                )

    def _check_begun(self) -> None:
        """Refuses models without a result that were trained with other options, on other images or from others."""
        for run in self.runs.values():
            stored, given, directory = read_json(self._plan_file(run)), self._plan(run), self.folder / RUNS / run.name
            if stored and directory.is_dir() and stored != given:
                names = [name for name, value in given.items() if stored.get(name) != value]
                found = "; ".join(str(Difference(name, stored.get(name), given[name])) for name in names)
                raise ValueError(
                    f"{directory} holds a model that was trained otherwise ({found}); delete it, or name another "
                    "directory with `--output_dir`"
                )

    def _plan_file(self, run: StudyRun) -> Path:
        return self.folder / RUNS / f"{run.name}.json"

    def _plan(self, run: StudyRun) -> dict[str, Any]:
        """What decides about the model of a run."""
        return {
            "options": recorded(run.options),
            "data": self.fingerprints[run.options.get("max_train_samples")],
            "source": weights_facts(run.options.get("model_name_or_path")),
        }

    def _check_needed(self, run: StudyRun) -> None:
        """Refuses to start from, or to learn from, weights that are not those of the results."""
        lines = {line["run"]: line for line in read_results(self.folder)}
        for name in run.needs:
            directory, expected = self.folder / RUNS / name, lines[name].get("model")
            if expected is not None and weights_facts(str(directory)) != expected:
                raise ValueError(
                    f"{directory} does not hold the weights of its result: a file is damaged, missing or of another "
                    "model; delete the directory, and the same command trains it again"
                )

    def _fingerprints(self, parts: ImageParts, data_args: DataArguments) -> dict[str, Any]:
        rows = {"train": parts.train, self.args.part: parts.evaluation}
        return {part: images_fingerprint(self._images(each, data_args)) for part, each in rows.items()}

    def _check_options(self) -> None:
        """Refuses options that no run can have, or that a peer would ignore, before the first run."""
        for run in self.runs.values():
            model_args, data_args, args = self._arguments(run)
            if run.peer is not None:
                check_peer_options(run.peer, model_args, data_args, args)

    def _unfinished(self) -> list[StudyRun]:
        """The runs without a result, and those whose model they need but which is not here."""
        finished = {line["run"] for line in read_results(self.folder)}
        left = {run.name: run for run in self.runs.values() if run.name not in finished}
        for run in reversed(self.runs.values()):
            if run.name in left:
                left |= {name: self.runs[name] for name in run.needs if not is_finished(self.folder / RUNS / name)}
        return [run for run in self.runs.values() if run.name in left]

    def _try(self, run: StudyRun, left: Sequence[StudyRun]) -> bool:
        """Does a run if what it needs is finished and no other process is doing it."""
        (self.folder / RUNS).mkdir(parents=True, exist_ok=True)
        if {each.name for each in left} & {*run.needs} or any(map(self._is_taken, run.needs)):
            return False
        lock = self._lock(run.name)
        try:
            with lock.acquire(timeout=0):
                if run.name in {each.name for each in self._unfinished()}:  # no other process has just finished it
                    self._do(run, left)
                return True
        except Timeout:
            return False

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.folder / RUNS / f"{name}.lock")

    def _is_taken(self, name: str) -> bool:
        """Whether another process is doing a run; its model can be finished before its result is written."""
        try:
            with self._lock(name).acquire(timeout=0):
                return False
        except Timeout:
            return True

    def _do(self, run: StudyRun, left: Sequence[StudyRun]) -> None:
        say(f"\nrun {len(self.runs) - len(left) + 1} of {len(self.runs)}: {run.name}{self._time_left(left)}")
        model_args, data_args, args = self._arguments(run)
        parts = self._load(data_args)
        self._check_needed(run)
        directory = Path(args.output_dir)
        in_one_go = not is_finished(directory) and find_checkpoint(args) is None
        write_json(self._plan_file(run), self._plan(run))
        if run.peer is None:
            train(model_args, data_args, args, parts=replace(parts, evaluation=None))
        else:
            train_peer(run.peer, model_args, data_args, args, replace(parts, evaluation=None))
        assert isinstance(parts.train, datasets.Dataset)
        images = self._images(parts.evaluation, data_args)
        answers, cosines = measure(directory, images, self._class_names(parts.evaluation, data_args), args)
        trained = read_json(directory / "train_results.json")
        line: dict[str, Any] = {
            "run": run.name,
            "study": self.study.name,
            "row": run.row,
            "seed": run.seed,
            "protocol": self.args.protocol,
            "part": self.args.part,
            "top1": top1_by_head(answers),
            "num_images": len(images),
            "num_train_images": len(parts.train),
            "seconds": trained["train_runtime"] if in_one_go else None,  # else only those of the last part
            "source": weights_facts(run.options.get("model_name_or_path")),
            "model": weights_facts(str(directory)),
            "teacher": run.teacher,
            "teacher_top1": self._top1_of(run.teacher),
            "teacher_fit": {name: value for name, value in trained.items() if name.startswith("teacher_")},
            "start": run.start,
            "peer": run.peer,
            "cosines": cosines,
            "data": self.fingerprints[data_args.max_train_samples],
            "environment": environment(args.device),
            "options": recorded(run.options),
        }
        add_result(self.folder, line, answers)
        time_in_words = f" ({duration(line['seconds'])})" if in_one_go else ""
        say(f"{run.name}: top-1 {_in_words(line['top1'])} on {len(images):,} images{time_in_words}")

    def _top1_of(self, name: str | None) -> float | None:
        return next((answer_of(line) for line in read_results(self.folder) if line["run"] == name), None)

    def _arguments(self, run: StudyRun) -> Any:
        sources: dict[str, Any] = {"output_dir": str(self.folder / RUNS / run.name)}
        if run.teacher is not None:
            sources["teacher_model_name_or_path"] = str(self.folder / RUNS / run.teacher)
        if run.start is not None:
            sources["model_name_or_path"] = str(self.folder / RUNS / run.start)
        fixed = {"eval_strategy": "no", "seed": run.seed, "training_views": False}  # hundreds of runs
        options = {**fixed, **self.data, **run.options, **sources}
        if not int(options.get("dataloader_num_workers", 0)):
            options["dataloader_persistent_workers"] = False
        return parse_recipe(OPTION_TYPES, [], defaults=options)

    def _load(self, data_args: DataArguments) -> ImageParts:
        """The data of a run; test images are only loaded to measure the finished model."""
        key = data_args.max_train_samples
        if key not in self.parts:
            parts = load_image_parts(data_args)
            if self.args.part == "test" and not parts.evaluation_is_test and data_args.eval_split is None:
                parts = replace(parts, evaluation=parts.test)  # a validation part chooses settings
            if parts.evaluation is None:
                raise ValueError(
                    f"the data has no test part to measure the models on ({', '.join(parts.names.values())}); name "
                    "one with `--eval_split`, or add it"
                )
            assert isinstance(parts.train, datasets.Dataset)
            if key is not None and len(parts.train) < key and "max_train_samples" not in self.options:
                raise ValueError(
                    f"a row trains on {key:,} images, but the data has {len(parts.train):,} to train on; name other "
                    "rows with `--rows`, or fewer images with `--max_train_samples`"
                )
            self.parts[key] = replace(parts, test=None)
            self.fingerprints[key] = self._fingerprints(parts, data_args)
        return self.parts[key]

    def _images(self, rows: datasets.Dataset, data_args: DataArguments) -> ImageDataset:
        columns = {name: getattr(data_args, name) for name in ("image_column_name", "label_column_name")}
        labels = label_config(rows, data_args.label_column_name, data_args.num_labels)
        return ImageDataset(rows, num_classes=labels["num_labels"], **columns)

    def _class_names(self, rows: datasets.Dataset, data_args: DataArguments) -> list[str] | None:
        return real_names(label_config(rows, data_args.label_column_name, data_args.num_labels).get("id2label"))

    def _time_left(self, left: Sequence[StudyRun]) -> str:
        """Estimates the time of all runs that are left, from finished runs of the same row or of as many epochs."""
        lines = read_results(self.folder)
        lines = [line for line in lines if line["seconds"] is not None]
        if not lines:
            return ""
        seconds = sum(_estimate(run, lines) for run in left)
        return f" ({duration(time.monotonic() - self.began)} so far, about {duration(seconds)} left)"


def _estimate(run: StudyRun, lines: Sequence[Mapping[str, Any]]) -> float:
    same = [line["seconds"] for line in lines if line["row"] == run.row]
    if same:
        return sum(same) / len(same)
    per_epoch = [line["seconds"] / line["options"].get("num_train_epochs", 1) for line in lines]
    return run.options.get("num_train_epochs", 1) * sum(per_epoch) / len(per_epoch)


def _in_words(top1: Mapping[str, float]) -> str:
    names = {"only": "", "average": "mean ", "cls": "class head ", "distillation": "distillation head "}
    return ", ".join(f"{names[head]}{100 * value:.2f}" for head, value in top1.items())
