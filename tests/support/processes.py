"""Runs scripts/train.py on one process or `deit-hf train` on several, and reads the files that the run wrote."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml
from support.patience import PATIENCE

ROOT = Path(__file__).parents[2]
SIZES = {"patch_size": 8, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}
RECIPE = {
    "variant": "deit_tiny_distilled_patch16_224",
    "image_size": 16,
    "drop_path_rate": 0,
    "config_overrides": SIZES,
    "dataset_name": "digits",
    "max_train_samples": 200,
    "max_eval_samples": 77,
    "per_device_eval_batch_size": 8,
    "max_steps": 12,
    "logging_steps": 1,
    "warmup_epochs": 0,
    "learning_rate": "1e-3",
    "save_strategy": "no",
    "disable_tqdm": True,
}


def run(folder: Path, num_processes: int, script: str, *arguments: str) -> subprocess.CompletedProcess:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    program = [script if Path(script).is_absolute() else str(ROOT / "scripts" / script)]
    if num_processes > 1 and script == "train.py":
        program = ["-m", "deit_hf", "train"]  # so that torchrun is tested with both
    command = [sys.executable, *(launch if num_processes > 1 else []), *program, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, env=environment)
    assert result.returncode == 0, result.stderr
    return result


def train(
    folder: Path,
    name: str,
    num_processes: int,
    batch_size: int,
    accumulation: int,
    *,
    script: str = "train.py",
    **options,
) -> list[dict]:
    """Trains on `num_processes` and returns the log without speeds; fails if fewer processes trained."""
    recipe = {**RECIPE, "per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**recipe, "output_dir": name, **options}))
    run(folder, num_processes, script, f"{name}.yaml")
    state = json.loads((folder / name / "trainer_state.json").read_text())
    assert f"{batch_size} on each of {num_processes} processes" in (folder / name / "recipe.yaml").read_text()
    return [
        {key: value for key, value in entry.items() if not key.endswith(("per_second", "data_wait"))}
        for entry in state["log_history"]
    ]


def column(log: list[dict], name: str) -> list[float]:
    return [entry[name] for entry in log if name in entry]


def results(folder: Path, name: str) -> dict[str, float]:
    return json.loads((folder / name / "eval_results.json").read_text())
