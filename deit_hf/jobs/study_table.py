"""What the runs of a study show: mean and spread over seeds, paired differences, disagreement between models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.answers import LABELS, disagreement, mcnemar_test, paired_difference
from .study import Study
from .study_results import RESULTS_FILE, read_answers, read_results

ANSWER = ("average", "only")  # the head that speaks for a model
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Difference:
    """How much better a row is than another one, on the same images and with the same seeds.

    Attributes:
        other: the other row.
        seeds: those that both rows have.
        mean: of the top-1 of the row minus that of the other.
        error_of_seeds: standard error of `mean` over seeds; None with one seed.
        error_of_images: standard error of `mean` over images, paired.
        significant: seeds with p < 0.05 by McNemar's test.
    """

    other: str
    seeds: list[int]
    mean: float
    error_of_seeds: float | None
    error_of_images: float
    significant: int

    @property
    def error(self) -> float:
        """Standard error of both sources together."""
        return float(np.hypot(self.error_of_seeds or 0.0, self.error_of_images))


@dataclass(frozen=True)
class Row:
    """The runs of a row.

    Attributes:
        name: of the row.
        lines: of its runs, by seed.
        top1: by head, one value for each seed, in [0, 1].
        num_images: that measured it.
        difference: to the row that it is compared with, or None.
        teacher: top-1 of its teacher, or None.
    """

    name: str
    lines: list[dict[str, Any]]
    top1: dict[str, list[float]]
    num_images: int
    difference: Difference | None
    teacher: float | None

    @property
    def answer(self) -> list[float]:
        """Top-1 of the model: of both heads together, or of its only head."""
        return next(self.top1[head] for head in ANSWER if head in self.top1)

    @property
    def error_of_images(self) -> float:
        """Standard error of one accuracy, for this number of images."""
        mean = float(np.mean(self.answer))
        return float(np.sqrt(mean * (1 - mean) / self.num_images))


def answer_of(line: Mapping[str, Any]) -> float:
    """Top-1 of a run: of both heads together, or of the only head."""
    return float(next(line["top1"][head] for head in ANSWER if head in line["top1"]))


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample; None for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


class StudyTable:
    """The results of a study that were found in a folder.

    Args:
        study: the rows.
        folder: of one protocol and part.
    """

    def __init__(self, study: Study, folder: Path):
        self.study, self.folder = study, folder
        self.lines = read_results(folder)
        for line in self.lines:
            if line["study"] != study.name or not study.has_row(line["row"], line["protocol"]):
                raise ValueError(
                    f"`{folder / RESULTS_FILE}` has a result of the row {line['row']} of the study {line['study']}, "
                    f"protocol {line['protocol']}, but the study {study.name} has no such row; delete the line"
                )
        self._answers: dict[str, dict[str, np.ndarray]] = {}
        self._top1_now = {line["run"]: answer_of(line) for line in self.lines}

    def answers(self, run: str) -> dict[str, np.ndarray]:
        """The answers of the model of a run, by head."""
        if run not in self._answers:
            line = next((line for line in self.lines if line["run"] == run), None)
            if line is None:
                raise ValueError(f"`{self.folder / RESULTS_FILE}` lacks a line of {run}, which other lines name")
            self._answers[run] = read_answers(self.folder, line)
        return self._answers[run]

    def of_row(self, row: str) -> dict[int, dict[str, Any]]:
        """The lines of a row by seed, in order of the seeds."""
        return dict(sorted((line["seed"], line) for line in self.lines if line["row"] == row))

    def rows(self, table: str) -> list[Row]:
        """The rows of a table that have results."""
        names = self.study.tables[table]
        return [self._row(name, names) for name in names if self.of_row(name)]

    def _row(self, name: str, names: Sequence[str]) -> Row:
        """A row of a table of rows `names`."""
        other = self.study.rows[name].get("against")
        lines = [*self.of_row(name).values()]
        heads = lines[0]["top1"]
        return Row(
            name,
            lines,
            {head: [line["top1"][head] for line in lines] for head in heads},
            lines[0]["num_images"],
            self.difference(name, other if other in names else None),
            self._top1_of_teacher(lines),
        )

    def _top1_of_teacher(self, lines: Sequence[Mapping[str, Any]]) -> float | None:
        """Mean top-1 of the teachers of these runs; None without one, and if it is unknown."""
        found = [self._teacher_top1(line) for line in lines if line["teacher"]]
        known = [top1 for top1 in found if top1 is not None]
        return float(np.mean(known)) if known and len(known) == len(found) else None

    def _teacher_top1(self, line: Mapping[str, Any]) -> float | None:
        """Top-1 of the teacher of a run; lines of earlier versions lack it, so the teacher's line counts."""
        top1: float | None = line.get("teacher_top1", self._top1_now.get(line["teacher"]))
        return top1

    def students_by_teacher(self) -> dict[tuple[str, float], list[dict[str, Any]]]:
        """The runs with a teacher, by its name and top-1: a teacher that was trained again is another one."""
        found: dict[tuple[str, float], list[dict[str, Any]]] = {}
        for line in self.lines:
            top1 = self._teacher_top1(line) if line["teacher"] else None
            if top1 is not None:
                found.setdefault((line["teacher"], top1), []).append(line)
        return found

    def difference(self, row: str, other: str | None) -> Difference | None:
        """Compares two rows; None if the second is None or they have no seed in common."""
        mine, others = self.of_row(row), {} if other is None else self.of_row(other)
        seeds = [seed for seed in mine if seed in others]
        if other is None or not seeds:
            return None
        first = np.stack([self._correct(mine[seed]) for seed in seeds])  # (seeds, images)
        second = np.stack([self._correct(others[seed]) for seed in seeds])
        by_seed = (first.mean(1) - second.mean(1)).tolist()
        mean, error_of_images = paired_difference(first, second)
        deviation = spread(by_seed)
        return Difference(
            other,
            seeds,
            mean,
            None if deviation is None else deviation / len(seeds) ** 0.5,
            error_of_images,
            sum(mcnemar_test(*pair) < SIGNIFICANT for pair in zip(first, second, strict=True)),
        )

    def _correct(self, line: Mapping[str, Any]) -> np.ndarray:
        answers = self.answers(line["run"])
        return next(answers[head] for head in ANSWER if head in answers) == answers[LABELS]

    def disagreement(self, plain: str, distilled: str) -> dict[str, dict[str, float]] | None:
        """Share of images on which two of labels, teacher, plain student and the heads differ, mean over seeds.

        Seeds whose teacher was trained again since do not count, because its answers are not kept.
        Source: table 4 of the paper.

        Args:
            plain: row without a teacher.
            distilled: row with a token and a teacher.
        """
        mine, others = self.of_row(distilled), self.of_row(plain)
        by_seed = []
        for seed, line in mine.items():
            top1 = self._teacher_top1(line)
            if seed not in others or top1 != self._top1_now.get(line["teacher"], top1):
                continue
            answers = self.answers(mine[seed]["run"])
            named = {
                "labels": answers[LABELS],
                "teacher": self.answers(mine[seed]["teacher"])["only"],
                "plain student": self.answers(others[seed]["run"])["only"],
                "class head": answers["cls"],
                "distillation head": answers["distillation"],
                "mean": answers["average"],
            }
            by_seed.append(disagreement(named))
        if not by_seed:
            return None
        names = by_seed[0]
        return {a: {b: float(np.mean([each[a][b] for each in by_seed])) for b in names} for a in names}
