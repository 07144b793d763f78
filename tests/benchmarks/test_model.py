"""All three packages run the same model; the table has all of them. No test checks a time."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deit_hf.benchmarks.model import PASSES, Steps, Student, peak_bytes_on_cpu
from deit_hf.commands import benchmark

TINY = "deit_tiny_distilled_patch16_224"
PACKAGES = ["deit_hf", "timm", "transformers"]
MIB_OF_WEIGHTS = 22


def test_table_and_file_have_each_package_in_each_pass(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch):
    monkeypatch.setattr("deit_hf.benchmarks.model.STEPS_PER_ROUND", 1)
    path = tmp_path / "result.json"
    sizes = ["--batch_size", "2", "--image_size", "16", "--num_rounds", "1", "--threads", "1"]
    benchmark.main(["model", "--variants", TINY, *sizes, "--output", str(path)])
    result = json.loads(path.read_text())
    rows = result["rows"]
    passes = [f"{TINY}, {name}" for name in PASSES]
    assert [(row["setting"], row["package"]) for row in rows] == [(name, each) for name in passes for each in PACKAGES]
    table = capsys.readouterr().out
    for index, row in enumerate(rows):
        ours = rows[index // 3 * 3]
        assert len(row["rounds"]) == 1
        assert row["images_per_second"] == statistics.median(row["rounds"])
        if row is not ours:
            ratios = [a / b for a, b in zip(ours["rounds"], row["rounds"], strict=True)]
            assert row["ratio"] == statistics.median(ratios)
        # training holds weights, gradients and two averages of AdamW
        assert row["peak_mib"] > (1 if row is ours or index < 3 else 4) * MIB_OF_WEIGHTS
        assert f"| {row['setting']} | {row['package']} | {row['images_per_second']:.1f} |" in table
    assert result["settings"]["threads"] == 1
    difference = next(note for note in result["notes"] if "the logits of the three differ by at most" in note)
    assert float(difference.rpartition(" ")[2]) < 1e-5  # else the work would not be the same


def test_peak_is_that_of_the_bytes_held_at_a_time():
    def run() -> None:
        first = torch.ones(1024, 1024)  # 4 MiB
        second = first + first
        del first
        third = second[:512] * 2
        del second, third

    assert peak_bytes_on_cpu(run) == 8 * 2**20


class Recorder(nn.Module):
    """Notes whether each call is in mixed precision."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.notes = nn.Linear(1, 2), list[bool]()

    def forward(self, pixels: Tensor) -> Any:
        self.notes.append(torch.is_autocast_enabled("cpu"))
        logits = self.head(pixels)
        return (logits, logits) if self.training else logits


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixed_precision_is_used_if_asked_for(dtype: torch.dtype, name: str):
    model = Recorder().train(name != "inference")
    student = Student(model, torch.optim.AdamW(model.parameters()))
    before = model.head.weight.clone()
    Steps(torch.ones(2, 1), torch.tensor([0, 1]), dtype).step(student, name)
    assert model.notes == [dtype == torch.bfloat16]
    assert torch.equal(model.head.weight, before) == (name == "inference")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher", "a"], "`teacher` has no effect on `benchmark model`, only on training; leave it out"),
        (["--dataset_name", "a"], "`dataset_name` has no effect on `benchmark model`, only on input, training"),
        (
            ["--variants", "deit_tiny_patch16_224"],
            "`variants` is 'deit_tiny_patch16_224', but must be one of deit_tiny_",
        ),
        (["--batch_size", "0"], "`batch_size` is 0, but must be 1 or more"),
        (["--num_rounds", "0"], "`num_rounds` is 0, but must be 1 or more"),
        (["--image_size", "30"], "`image_size` is 30, but must be a multiple of 16 pixels"),
        (["--threads", "0"], "`threads` is 0, but must be 1 or more"),
        (
            ["--output", "/no/such/folder/a.json"],
            "`output` is /no/such/folder/a.json, but the folder `/no/such/folder` does",
        ),
        (["--output", "/tmp"], "`output` is /tmp, which is a folder; name a file in it"),
    ],
)
def test_wrong_option_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as left:
        benchmark.main(["model", *arguments])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
