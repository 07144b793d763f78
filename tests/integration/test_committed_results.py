"""The committed results: README.md shows what their files say, and so does the text that `distill digits` prints."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from deit_hf.jobs.results import DIGITS_SPREAD
from deit_hf.jobs.study import find_table, read_study, study_names
from deit_hf.jobs.study_report import rows_as_markdown, write_report
from deit_hf.jobs.study_results import read_answers, read_results, recorded
from deit_hf.jobs.study_table import StudyTable

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "scripts" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDERS = sorted(path.parent for path in RESULTS.glob("*/results.jsonl"))
BLOCKS = re.findall(r"<!-- deit-hf reproduce (\S+) --show, (\S+) -->\n(.*?)\n\n", README, flags=re.DOTALL)


def test_the_report_is_what_the_command_writes(tmp_path):
    shutil.copytree(RESULTS, tmp_path / "results")
    write_report(tmp_path / "results", "table3")
    expected = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert (tmp_path / "results" / "README.md").read_text(encoding="utf-8") == expected
    figures = set(re.findall(r"\((\S+\.png)\)", (RESULTS / "README.md").read_text(encoding="utf-8")))
    assert figures
    assert figures <= {path.name for path in RESULTS.glob("*.png")}


@pytest.mark.parametrize(("table", "folder", "text"), BLOCKS, ids=lambda value: value[:20])
def test_tables_of_the_readme_are_those_of_the_files(table: str, folder: str, text: str):
    study, _ = find_table(table)
    assert text == rows_as_markdown(StudyTable(study, RESULTS / folder).rows(table)).partition("\n\n")[0]


def test_the_readme_has_the_table_of_the_paper_in_small():
    assert "table3" in [table for table, _, _ in BLOCKS]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_each_line_agrees_with_its_answers_and_has_the_options_of_its_row(folder: Path):
    lines = read_results(folder)
    assert len({line["run"] for line in lines}) == len(lines)
    for line in lines:
        assert read_answers(folder, line)  # also compares them with the line
        study = read_study(line["study"])
        planned = recorded(study.planned_options(line["row"], line["protocol"], {}))
        differ = {name for name in {*planned, *line["options"]} if planned.get(name) != line["options"].get(name)}
        assert differ <= {"model_name_or_path"}
    assert {line["study"] for line in lines} <= {*study_names()}


def test_the_spread_that_distill_digits_announces_is_that_of_the_results():
    lines = read_results(RESULTS / "digits-cpu")
    for row, head in (("distilled", "average"), ("plain", "only")):
        values = [100 * line["top1"][head] for line in lines if line["row"] == row]
        assert len(values) == 5
        assert f"{np.mean(values):.1f} +- {np.std(values, ddof=1):.1f}" in DIGITS_SPREAD
    teacher = next(line["top1"]["only"] for line in lines if line["row"] == "teacher-convnet")
    assert f"{100 * teacher:.1f}" in DIGITS_SPREAD


def test_errors_in_the_text_of_the_readme_are_those_of_the_report():
    section = README.partition("### Does a teacher help?")[2].partition("\n### ")[0]
    report = (RESULTS / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"[+-]\d+\.\d ± \d+\.\d", section)
    assert len(found) >= 6
    assert [text for text in found if text not in report] == []
