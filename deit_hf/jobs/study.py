"""A study: tables of the paper in small, as a list of trainings with different rows, seeds and teachers.

Studies are YAML files in `recipes/tables/`. A row has options of a training, and these names:

- `teacher`: a teacher of the study, which is trained first.
- `start`: a row whose model, of the same seed, this row starts from.
- `epochs`: factor of the number of epochs.
- `recipe`: a shipped recipe; the options of the row override it.
- `against`: the row that it is compared with in the tables.
- `about`: the row in words.
- `peer`: other code that trains the row (benchmarks/peer_training.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..argument_checks import check_choice
from ..training.shipped_recipes import RECIPES, find_recipe

STUDIES = RECIPES / "tables"
OF_A_ROW = ("teacher", "start", "epochs", "recipe", "against", "peer", "about")
TEACHER, TEACHER_SEED = "teacher-", 0
_NOT_OF_A_ROW = ("output_dir", "dataset_name", "teacher_model_name_or_path", "eval_strategy", "save_strategy")


@dataclass(frozen=True)
class StudyRun:
    """One training of a study.

    Attributes:
        name: also that of its folder: row and seed.
        row: of the table; of a teacher, `teacher-` and its name.
        seed: of weights, views and mixing.
        options: of the training, without the sources of student and teacher.
        teacher: name of the run of its teacher, or None.
        start: name of the run from whose model it starts, or None.
        peer: other code that trains it, or None.
    """

    name: str
    row: str
    seed: int
    options: dict[str, Any]
    teacher: str | None = None
    start: str | None = None
    peer: str | None = None

    @property
    def needs(self) -> list[str]:
        """Names of the runs that must be finished before."""
        return [name for name in (self.teacher, self.start) if name is not None]


@dataclass(frozen=True)
class Study:
    """A study, as its file describes it.

    Attributes:
        name: of the file.
        title: what it is about.
        tables: rows of each table.
        data: options of the data source.
        validation: share of the training images that is held out when settings are chosen.
        protocols: options by protocol: `all` runs, `student`, and by name in `teachers`.
        rows: options by row.
        disagreement: rows whose heads are compared with their teacher and with a student without one.
    """

    name: str
    title: str
    tables: dict[str, list[str]]
    data: dict[str, Any]
    validation: float
    protocols: dict[str, dict[str, Any]]
    rows: dict[str, dict[str, Any]]
    disagreement: list[str] = field(default_factory=list)

    @property
    def starts_from_weights(self) -> bool:
        """Whether a student starts from weights of the Hub."""
        return any("model_name_or_path" in row for row in self.rows.values())

    def runs(
        self, rows: Sequence[str], seeds: Sequence[int], protocol: str, given: Mapping[str, Any]
    ) -> dict[str, StudyRun]:
        """The runs of some rows by name, each after those that it needs; seed by seed, so that rows grow together.

        Args:
            rows: names of rows.
            seeds: of each row.
            protocol: a protocol of the study.
            given: options of the user, which override those of all runs.

        Raises:
            ValueError: a row or the protocol is unknown; names the known ones.
        """
        check_choice("protocol", protocol, tuple(self.protocols))
        for row in rows:
            check_choice("rows", row, tuple(self.rows))
        found: dict[str, StudyRun] = {}
        for seed in seeds:
            for row in rows:
                self._add(row, seed, protocol, given, found)
        return found

    def has_row(self, row: str, protocol: str) -> bool:
        """Whether the protocol has such a row, or a teacher `teacher-NAME`."""
        if protocol not in self.protocols:
            return False
        return row in self.rows or self._is_teacher(row, protocol)

    def _is_teacher(self, name: str, protocol: str) -> bool:
        """Whether the name is that of a teacher; a row may begin with the same word."""
        teachers = self.protocols[protocol].get("teachers", {})
        return name not in self.rows and name.startswith(TEACHER) and name.removeprefix(TEACHER) in teachers

    def planned_options(self, row: str, protocol: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options of the runs of a row or of a teacher.

        Args:
            row: of the study, or `teacher-NAME`.
            protocol: of the study.
            given: options of the user.
        """
        if self._is_teacher(row, protocol):
            return self._add_teacher(row.removeprefix(TEACHER), protocol, given, {}).options
        return self._add(row, 0, protocol, given, {}).options

    def _add(
        self, row: str, seed: int, protocol: str, given: Mapping[str, Any], found: dict[str, StudyRun]
    ) -> StudyRun:
        name = f"{row}-seed{seed}"
        if name not in found:
            own, settings = self.rows[row], self.protocols[protocol]
            teacher = start = None
            if "teacher" in own:
                teacher = self._add_teacher(own["teacher"], protocol, given, found).name
            if "start" in own:
                start = self._add(own["start"], seed, protocol, given, found).name
            options = _options(
                own, settings.get("all", {}), settings.get("student", {}), given=_for_students(given, own)
            )
            found[name] = StudyRun(name, row, seed, options, teacher, start, own.get("peer"))
        return found[name]

    def _add_teacher(
        self, teacher: str, protocol: str, given: Mapping[str, Any], found: dict[str, StudyRun]
    ) -> StudyRun:
        name, settings = f"{TEACHER}{teacher}", self.protocols[protocol]
        if name not in found:
            options = _options(settings["teachers"][teacher], settings.get("all", {}), given=_for_teachers(given))
            found[name] = StudyRun(name, name, TEACHER_SEED, options)
        return found[name]


def _options(own: Mapping[str, Any], *settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a run: those of its recipe, of the protocol, its own, and those of the user."""
    options: dict[str, Any] = {}
    if "recipe" in own:
        options = dict(yaml.safe_load(find_recipe(own["recipe"]).read_text(encoding="utf-8")))
        options = {name: value for name, value in options.items() if name not in _NOT_OF_A_ROW}
    for each in (*settings, own, given):
        options |= {name: value for name, value in each.items() if name not in OF_A_ROW}
    if "epochs" in own:
        options["num_train_epochs"] *= own["epochs"]
    return options


def _for_students(given: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    other = "teacher_model_name_or_path" if "model_name_or_path" in own else "model_name_or_path"
    return {name: value for name, value in given.items() if name not in (other, "teacher_model_name_or_path")}


def _for_teachers(given: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: value for name, value in given.items() if name != "model_name_or_path"}
    source = own.pop("teacher_model_name_or_path", None)
    return own if source is None else {**own, "model_name_or_path": source}


def study_names() -> list[str]:
    """Names of the studies, sorted."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def read_study(name: str) -> Study:
    """Reads a study of this package."""
    path = STUDIES / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    return Study(name=name, title=text.partition("\n")[0].removeprefix("# ").rstrip("."), **yaml.safe_load(text))


def find_table(table: str) -> tuple[Study, list[str]]:
    """Returns the study of a table, and the rows of the table.

    Raises:
        ValueError: the table is unknown; names all tables.
    """
    studies = [read_study(name) for name in study_names()]
    known = {name: study for study in studies for name in study.tables}
    check_choice("table", table, tuple(known))
    return known[table], known[table].tables[table]


def folder_of(output_dir: Path, study: Study, protocol: str, part: str) -> Path:
    """Where the results of a study lie."""
    return output_dir / "-".join([study.name, protocol, *([] if part == "test" else [part])])
