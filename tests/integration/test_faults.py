"""A run that is killed at any moment and started again ends with the same bits as an uninterrupted run.

By default a few runs are killed, with `-m slow` more than fifty. killed_runs.py kills and compares them.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.patience import PATIENCE

from deit_hf import DeiTConfig, DeiTForImageClassificationWithTeacher
from deit_hf.model.image_processing_deit import make_processor

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
SIZES = {"patch_size": 8, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 48, "num_hidden_layers": 2}
RECIPE: dict[str, Any] = {
    "variant": "deit_tiny_distilled_patch16_224",
    "image_size": 16,
    "drop_path_rate": 0.3,
    "config_overrides": SIZES,
    "dataset_name": "digits",
    "max_train_samples": 72,
    "max_eval_samples": 20,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 10,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 3,
    "ema_decay": 0.9,
    "distillation_type": "soft",
    "warmup_epochs": 1,
    "learning_rate": "1e-3",
    "save_strategy": "steps",
    "save_steps": 3,
    "save_total_limit": 2,
    "logging_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 5,
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
}
VARIATIONS: dict[str, dict[str, Any]] = {
    "steps": {},
    "epochs-and-workers": {
        "save_strategy": "epoch",
        "eval_strategy": "epoch",
        "dataloader_num_workers": 2,
        "dataloader_persistent_workers": True,
        "distillation_type": "hard",
        "logging_steps": 3,
        "save_total_limit": 1,
    },
    "saves-by-steps-evaluates-by-epochs": {"save_steps": 4, "eval_strategy": "epoch", "logging_steps": 5},
    "ends-within-an-epoch": {"max_steps": 10, "save_steps": 2, "gradient_accumulation_steps": 1, "logging_steps": 3},
    "best-at-end": {
        "save_steps": 2,
        "eval_steps": 2,
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "eval_split": "test",  # digits have no other
        "metric_for_best_model": "loss",
    },
    "no-checkpoints": {"save_strategy": "no"},
}


def campaign(
    folder: Path, trials: int, seed: int = 0, variation: str = "steps", batch_size: int = 8, **spec: Any
) -> dict[str, Any]:
    torch.manual_seed(0)
    config = DeiTConfig.from_variant(
        RECIPE["variant"], **{**SIZES, "hidden_size": 12}, image_size=16, num_labels=10, initializer_range=0.3
    )
    DeiTForImageClassificationWithTeacher(config).save_pretrained(folder / "teacher")
    make_processor(16).save_pretrained(folder / "teacher")
    recipe = {**RECIPE, "teacher_model_name_or_path": str(folder / "teacher"), **VARIATIONS[variation]}
    recipe["per_device_train_batch_size"] = batch_size
    spec = {"folder": str(folder), "recipe": recipe, "trials": trials, "seed": seed, **spec}
    (folder / "specification.json").write_text(json.dumps(spec))
    command = [sys.executable, str(ROOT / "tests" / "support" / "killed_runs.py"), str(folder / "specification.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads(result.stdout)
    logger.info("%s", report)  # shown with --log-cli-level info
    return report


@pytest.mark.slow
def test_killed_run_ends_with_the_bits_of_one_that_was_left_alone(tmp_path: Path):
    report = campaign(tmp_path, trials=2, seed=7)
    assert report["differences"] == {}
    assert report["kills"] >= 2
    assert report["files"] > 60


@pytest.mark.slow
def test_interrupted_run_saves_leaves_with_its_own_code_and_ends_with_the_same_bits(tmp_path: Path):
    report = campaign(tmp_path, trials=1, seed=1, signal="SIGTERM", variation="epochs-and-workers")
    assert report["differences"] == {}
    assert report["kills"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("variation", VARIATIONS)
def test_campaign_of_kills(tmp_path: Path, variation: str):
    report = campaign(tmp_path, trials=12, seed=11, variation=variation)
    assert report["differences"] == {}
    assert report["kills"] >= 12


@pytest.mark.slow
@pytest.mark.parametrize("variation", VARIATIONS)
def test_campaign_of_signals(tmp_path: Path, variation: str):
    report = campaign(tmp_path, trials=4, seed=13, variation=variation, signal="SIGINT")
    assert report["differences"] == {}
    assert report["kills"] >= 4


@pytest.mark.slow
@pytest.mark.parametrize("killed_rank", [0, 1])
def test_campaign_of_kills_on_two_processes(tmp_path: Path, killed_rank: int):
    report = campaign(tmp_path, trials=5, seed=17, processes=2, killed_rank=killed_rank)
    assert report["differences"] == {}
    assert report["kills"] >= 5


@pytest.mark.slow
def test_campaign_of_kills_on_three_processes(tmp_path: Path):
    """Three numbers can be added in three orders, with different rounding; two in only one."""
    report = campaign(tmp_path, trials=4, seed=23, processes=3, killed_rank=2, batch_size=4)
    assert report["differences"] == {}
    assert report["kills"] >= 4


@pytest.mark.slow
def test_campaign_of_signals_on_two_processes(tmp_path: Path):
    report = campaign(tmp_path, trials=4, seed=19, processes=2, signal="SIGTERM", killed_rank=1)
    assert report["differences"] == {}
    assert report["kills"] >= 4


DISK = """
mount -t tmpfs -o size=1600k tmpfs disk || exit 99
python=$1; train=$2
$python $train recipe.yaml --output_dir disk/run > full.log 2>&1
echo $? > full.code
ls -A disk/run > full.files
mount -o remount,size=64m disk
$python $train recipe.yaml --output_dir disk/run > again.log 2>&1
echo $? > again.code
cp -r disk/run again
"""


@pytest.mark.slow
def test_full_disk_keeps_the_last_good_checkpoint_says_so_and_nothing_is_lost(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    recipe = {**RECIPE, "distillation_type": "none", "save_steps": 1, "save_total_limit": None, "max_steps": 10}
    recipe |= {"dataloader_num_workers": 0, "config_overrides": {**SIZES, "hidden_size": 48}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "disk.sh").write_text(DISK)
    train = str(ROOT / "scripts" / "train.py")
    # a mount namespace needs no administrator rights and ends with the process
    command = ["unshare", "--map-root-user", "--mount", "sh", "disk.sh", sys.executable, train]
    if shutil.which("unshare") is None or subprocess.run(command[:3] + ["true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    if result.returncode == 99:
        pytest.skip(f"no tmpfs here: {result.stderr}")
    assert (tmp_path / "full.code").read_text() == "2\n"
    message = (tmp_path / "full.log").read_text().splitlines()[-1]
    files = (tmp_path / "full.files").read_text().split()
    steps = sorted(int(name.removeprefix("checkpoint-")) for name in files if name.startswith("checkpoint-"))
    assert steps == list(range(1, len(steps) + 1))
    assert 1 <= len(steps) < 10
    assert f"error: checkpoint-{len(steps) + 1} could not be written to disk/run" in message
    assert f"the last complete one is disk/run/checkpoint-{len(steps)}. Free disk space" in message
    kept = {".unfinished-run", ".run-lock", "run_identity.json"}
    assert set(files) == {*kept, *(f"checkpoint-{step}" for step in steps)}
    assert (tmp_path / "again.code").read_text() == "0\n", (tmp_path / "again.log").read_text()
    assert f"resuming from disk/run/checkpoint-{len(steps)}" in (tmp_path / "again.log").read_text()
    whole = subprocess.run([sys.executable, train, "recipe.yaml", "--output_dir", "whole"], cwd=tmp_path)
    assert whole.returncode == 0
    again, expected = (tmp_path / name / "model.safetensors" for name in ("again", "whole"))
    assert again.read_bytes() == expected.read_bytes()
