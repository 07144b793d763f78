"""Two processes train and evaluate as one does: the same images, mixed the same way, give the same numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from deit_hf import DeiTConfig, DeiTForImageClassificationWithTeacher
from deit_hf.evaluation import HEADS
from deit_hf.image_processing_deit import make_processor

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


def run(folder: Path, num_processes: int, script: str, *arguments: str) -> subprocess.CompletedProcess:
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(num_processes), "--master_port", "29511"]
    command = [sys.executable, *(launch if num_processes > 1 else []), str(ROOT / "scripts" / script), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500, env=environment)
    assert result.returncode == 0, result.stderr
    return result


def train(folder: Path, name: str, num_processes: int, batch_size: int, accumulation: int) -> list[dict]:
    """The log of a run on so many processes; a launch that started fewer is an error."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    options = ["--output_dir", name, "--per_device_train_batch_size", str(batch_size)]
    options += ["--gradient_accumulation_steps", str(accumulation)]
    run(folder, num_processes, "train.py", "recipe.yaml", *options)
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


@pytest.mark.slow
def test_two_processes_evaluate_each_image_once(tmp_path: Path):
    # 77 images are no multiple of two batches of 8: those that fill up the last one must not count
    torch.manual_seed(0)
    config = DeiTConfig.from_variant(
        RECIPE["variant"], **RECIPE["config_overrides"], image_size=16, num_labels=10, initializer_range=0.5
    )
    DeiTForImageClassificationWithTeacher(config).save_pretrained(tmp_path / "model")
    make_processor(16).save_pretrained(tmp_path / "model")
    labels = [[i % 10, (i + 3) % 10][: i % 3] for i in range(360)]
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    options = ["--model_name_or_path", "model", "--dataset_name", "digits", "--max_eval_samples", "77"]
    options += ["--batch_size", "8", "--fusion", "softmax_sum", "--num_workers", "0"]
    found = []
    for num_processes in (1, 2):
        run(
            tmp_path,
            num_processes,
            "evaluate.py",
            *options,
            "--per_class_file",
            "classes.json",
            "--output_file",
            "a.json",
        )
        run(tmp_path, num_processes, "evaluate.py", *options, "--label_file", "labels.json", "--output_file", "b.json")
        found.append([json.loads((tmp_path / name).read_text()) for name in ("classes.json", "a.json", "b.json")])
    assert found[0][0] == found[1][0]
    assert sum(pair["count"] for pair in found[0][0]["confusion"]) == 77
    for one, two in zip(found[0][1:], found[1][1:], strict=True):
        assert {name for name in one if "top" in name} == {f"eval_top{k}_{h}" for k in (1, 5) for h in HEADS}
        assert {name: one[name] for name in one if "top" in name} == {name: two[name] for name in two if "top" in name}
        assert two["eval_loss"] == pytest.approx(one["eval_loss"], rel=1e-5)
        assert one["eval_samples"] == two["eval_samples"] == 77
