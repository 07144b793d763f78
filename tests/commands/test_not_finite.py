"""Commands that answer with a model refuse logits that are NaN or infinite."""

import importlib
from pathlib import Path

import datasets
import pytest
import torch
from support.models import NAMES, make_model, save

from deit_hf import DeiTConfig
from deit_hf.analysis.demo import Demo
from deit_hf.evaluation.answers import head_answers
from deit_hf.evaluation.confident_answers import confident_answers
from deit_hf.evaluation.teacher_accuracy import teacher_accuracy
from deit_hf.model.probabilities import probabilities

MESSAGE = "the logits of the model are NaN or infinite"
DATA = ["--data", "data", "--num_workers", "0"]
COMMANDS = {
    "predict": ["model", "x.png", "--threshold", "0.5"],
    "evaluate": ["model", "data", "--num_workers", "0", "--output", "out.json"],
    "report": ["model", *DATA, "--output", "out.json"],
    "attention": ["model", "x.png", "-o", "out"],
    "export": ["model", "out"],
    "export with data": ["model", "out", "--data", "data"],
}


@pytest.fixture
def folder(
    toy_rows: datasets.Dataset, tmp_path: Path, tiny_config: DeiTConfig, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Holds a model whose distillation head is NaN for one class, an image and evaluation data."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    rows = toy_rows.select(range(5)).cast_column("label", datasets.ClassLabel(names=NAMES))
    Path("data").mkdir()
    rows.to_parquet("data/test-00000-of-00001.parquet")
    rows[0]["image"].save("x.png")
    model = make_model("distilled", tiny_config)
    with torch.no_grad():
        model.distillation_classifier.bias[3] = torch.nan
    save(model, Path("model"))
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_command_refuses_a_model_of_nan_in_one_line(folder: Path, capsys: pytest.CaptureFixture, command: str):
    module = importlib.import_module(f"deit_hf.commands.{command.split()[0]}")
    with pytest.raises(SystemExit) as stopped:
        module.main(COMMANDS[command])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert MESSAGE in printed.err.splitlines()[-1]
    assert "top-1" not in printed.out
    assert not [*folder.glob("out*")]


def test_demo_refuses_it_for_an_image(folder: Path):
    with pytest.raises(ValueError, match=MESSAGE):
        Demo("model", device="cpu").answer(datasets.Image().decode_example({"path": "x.png", "bytes": None}))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_answers_are_refused_and_counted(value: float):
    logits = torch.zeros(4, 3)
    logits[2, 1] = value
    with pytest.raises(ValueError, match=r"for 1 of 4 images.*\(they are float16\)"):
        probabilities(logits.half())
    batches = [{"pixel_values": logits, "labels": torch.zeros(4, dtype=torch.long)}]
    for answers in (
        lambda: confident_answers(lambda x: (x,), batches),
        lambda: head_answers(lambda pixel_values: {"logits": pixel_values}, batches),  # type: ignore[arg-type]
        lambda: teacher_accuracy(lambda x: x, batches, lambda x: x),
    ):
        with pytest.raises(ValueError, match=MESSAGE):
            answers()
