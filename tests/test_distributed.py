"""Two processes train as one does: the same images, mixed the same way, give the same losses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
RECIPE = {
    "variant": "deit_tiny_distilled_patch16_224",
    "image_size": 16,
    "drop_path_rate": 0,
    "config_overrides": {"patch_size": 8, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2},
    "dataset_name": "digits",
    "max_train_samples": 200,
    "max_eval_samples": 77,
    "per_device_eval_batch_size": 8,
    "max_steps": 12,
    "logging_steps": 1,
    "warmup_epochs": 0,
    "learning_rate": "1e-3",
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
}


def train(folder: Path, name: str, num_processes: int, batch_size: int, accumulation: int) -> list[dict]:
    """The log of a run on so many processes; a launch that started fewer is an error."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(num_processes), "--master_port", "29511"]
    command = [sys.executable, *(launch if num_processes > 1 else []), str(ROOT / "scripts" / "train.py")]
    command += ["recipe.yaml", "--output_dir", name, "--per_device_train_batch_size", str(batch_size)]
    command += ["--gradient_accumulation_steps", str(accumulation)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500, env=environment)
    assert result.returncode == 0, result.stderr
    state = json.loads((folder / name / "trainer_state.json").read_text())
    assert state["train_batch_size"] == batch_size
    # 12 steps of 16 views each, in epochs of 12: fewer processes would have left another epoch behind
    assert state["epoch"] == pytest.approx(1.0)
    return state["log_history"]


@pytest.mark.slow
def test_two_processes_give_the_losses_and_accuracies_of_one(tmp_path: Path):
    one = train(tmp_path, "one", 1, 16, 1)
    two = train(tmp_path, "two", 2, 4, 2)
    for name in ("loss", "loss_cls"):
        expected = [entry[name] for entry in one if name in entry]
        assert [entry[name] for entry in two if name in entry] == pytest.approx(expected, abs=1e-5)
        assert len(expected) == 12
    own, other = (json.loads((tmp_path / name / "eval_results.json").read_text()) for name in ("one", "two"))
    for name in ("eval_top1_cls", "eval_top1_distillation", "eval_top1_average", "eval_top5_average"):
        assert other[name] == own[name]
    assert other["eval_loss"] == pytest.approx(own["eval_loss"], abs=1e-5)
