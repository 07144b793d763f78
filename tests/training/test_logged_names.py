"""A tracker (`report_to`) gets the names that the README lists."""

import re
from itertools import product
from pathlib import Path
from typing import Any

from support.trainers import make_args
from transformers import TrainerCallback

from deit_hf import DistillationTrainer

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def documented_names() -> set[str]:
    """The names in the first column of the table, with `{a,b}` expanded."""
    table = README.partition("### While it trains")[2].partition("\n## ")[0]
    cells = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    names = set()
    for pattern in re.findall("`([^`]+)`", " ".join(cells)):
        parts = [part.split(",") for part in re.split(r"[{}]", pattern)]
        names |= {"".join(words) for words in product(*parts)}
    return names


class Tracker(TrainerCallback):
    """Gets what transformers' integrations get, which drop values other than numbers."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.names |= {name for name, value in logs.items() if isinstance(value, int | float)}


def test_a_distillation_logs_the_names_of_the_readme_and_no_others(tmp_path, tiny_student, toy_rows, tiny_teacher):
    """Red when a name is renamed, is not logged as a number, or is missing in the table."""
    options = {"distillation_type": "soft", "eval_strategy": "steps", "eval_steps": 1, "ema_decay": 0.9}
    tracker = Tracker()
    trainer = DistillationTrainer(
        tiny_student,
        make_args(tmp_path, max_steps=1, **options),
        teacher=tiny_teacher,
        train_dataset=toy_rows,
        eval_dataset=toy_rows.select(range(10)),
        callbacks=[tracker],
    )
    trainer.train()
    assert documented_names() == tracker.names
