"""A table of the accuracies of finished runs."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .accuracy_text import percent
from .fusion import FUSIONS
from .metric_names import accuracy_name, evaluation_parts

RESULTS = "eval_results.json"


def comparison_table(output_dirs: Sequence[str | os.PathLike]) -> str:
    """Formats a table of the top-1 accuracy of finished runs: of the only head, or of both heads and their mean.

    Balanced accuracy and macro-F1 are those of the only head, or of the mean.
    A run has one line; a run that was evaluated on several sets has one line per set, named `run [set]`.
    Notes below the table name the runs whose heads were not combined by the mean of their logits.

    Args:
        output_dirs: directories of runs, each with an `eval_results.json`, or of jobs with such directories.

    Raises:
        FileNotFoundError: an `eval_results.json` is missing.
        ValueError: an `eval_results.json` is not the JSON of an evaluation.
    """
    lines = [
        f"{'run':24} {'one head':>10} {'class':>10} {'distill.':>10} {'mean':>10} {'balanced':>10} {'macro-F1':>10}"
    ]
    notes = []
    output_dirs = [run for output_dir in output_dirs for run in _runs_in(output_dir)]
    names_of_runs = [Path(output_dir).name for output_dir in output_dirs]
    for output_dir, run_name in zip(output_dirs, names_of_runs, strict=True):
        if names_of_runs.count(run_name) > 1:
            run_name = os.fspath(output_dir)
        path = Path(output_dir) / RESULTS
        if not path.is_file():
            raise FileNotFoundError(f"no evaluation results at `{path}`; train with an evaluation split first")
        metrics = _read(path)
        for part in evaluation_parts(metrics) or [""]:
            names = [accuracy_name("top1", part=part, head=head) for head in ("", "cls", "distillation", "average")]
            answer = "" if names[0] in metrics else "average"
            names += [accuracy_name(name, part=part, head=answer) for name in ("balanced_accuracy", "macro_f1")]
            cells = (f"{percent(metrics[name]):>10}" if name in metrics else f"{'-':>10}" for name in names)
            run = f"{run_name} [{part}]" if part else run_name
            lines.append(f"{run:24} {' '.join(cells)}")
        fusion = metrics.get("eval_fusion", "logit_mean")
        if fusion != "logit_mean":
            notes.append(f"{run_name}: `mean` is the {FUSIONS[fusion]}")
    return "\n".join(lines + notes)


def _runs_in(output_dir: str | os.PathLike) -> list[str | os.PathLike]:
    """The runs of a job in its directory, or the directory itself."""
    if (Path(output_dir) / RESULTS).is_file():
        return [output_dir]
    return [path.parent for path in sorted(Path(output_dir).glob(f"*/{RESULTS}"))] or [output_dir]


def _read(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`{path}` is not valid JSON: {error}; evaluate the run again") from error
    numbers = isinstance(metrics, dict) and [value for name, value in metrics.items() if "_top1" in name]
    if not numbers or not all(isinstance(value, int | float) for value in numbers):
        raise ValueError(f"`{path}` holds no accuracy (`eval_top1` as a number); evaluate the run again")
    return metrics
