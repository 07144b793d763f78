"""What a run needs is measured before it starts, and the measurement changes nothing of the run."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import safetensors.torch
import yaml
from support.trainers import same

from deit_hf import DistillationArguments
from deit_hf.commands.train import main
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.model.arguments import ModelArguments
from deit_hf.training.preflight import Preflight, measure
from deit_hf.training.run import train

TINY = {"patch_size": 8, "hidden_size": 24, "intermediate_size": 24, "num_hidden_layers": 1}


@pytest.fixture
def photos(tmp_path: Path) -> str:
    generator = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 3)):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                PIL.Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return str(tmp_path / "photos")


@pytest.fixture
def options(photos: str):
    def make(output_dir: Path, **changed):
        given = {"num_train_epochs": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "warmup_epochs": 0}
        given |= {"repeated_augmentation": 1, "eval_strategy": "epoch", "save_strategy": "epoch", "ema_decay": 0.5}
        args = DistillationArguments(str(output_dir), report_to="none", disable_tqdm=True, **{**given, **changed})
        model = ModelArguments(variant="deit_tiny_patch16_224", image_size=32, config_overrides=TINY)
        model.drop_path_rate = 0.1  # draws from the random state
        return model, DataArguments(dataset_name=photos), args

    return make


def test_training_after_the_measurement_equals_one_without_it_bit_for_bit(tmp_path: Path, options):
    alone = train(*options(tmp_path / "alone"))
    measured = options(tmp_path / "measured")
    needs = measure(*measured)
    assert not (tmp_path / "measured").exists()
    metrics = train(*measured)
    weights = [safetensors.torch.load_file(tmp_path / run / "model.safetensors") for run in ("alone", "measured")]
    assert same(*weights)
    assert {name: alone[name] for name in alone if "per_second" not in name and "runtime" not in name} == {
        name: metrics[name] for name in metrics if "per_second" not in name and "runtime" not in name
    }
    log = json.loads((tmp_path / "measured" / "trainer_state.json").read_text())
    assert needs.num_steps == log["global_step"] == 9
    assert needs.num_evaluations == sum("eval_loss" in entry for entry in log["log_history"]) == 3
    size = sum(tensor.nbytes for tensor in weights[0].values())
    assert needs.num_checkpoints == 3
    assert needs.disk_bytes == pytest.approx(2 * size + 3 * (2 + 2) * size, rel=0.05)  # weights, averages, two moments
    assert 0 < needs.seconds_per_step * 9 <= needs.seconds < 60
    assert needs.peak_memory_bytes is None or needs.peak_memory_bytes > 1e8


def test_dry_run_says_what_the_run_needs_and_writes_nothing(tmp_path: Path, photos: str, monkeypatch, capsys):
    command = [
        "--variant",
        "deit_tiny_patch16_224",
        "--image_size",
        "32",
        "--dataset_name",
        photos,
        "--max_steps",
        "2",
    ]
    command += ["--config_overrides", json.dumps(TINY), "--output_dir", str(tmp_path / "run"), "--report_to", "none"]
    command += ["--warmup_epochs", "0", "--per_device_train_batch_size", "4"]

    def run(*more: str) -> str:
        monkeypatch.setattr("sys.argv", ["train.py", *command, *more])
        main()
        printed = capsys.readouterr()
        return printed.out + printed.err

    printed = run("--dry_run")
    assert not (tmp_path / "run").exists()
    for line in ("The data:", "The effective recipe:", "time    about ", "memory  ", "disk    "):
        assert f"\n{line}" in f"\n{printed}", line
    run()
    assert "dry_run" not in yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert "already finished" in run("--dry_run")
    with pytest.raises(SystemExit, match="2"):
        run("--dry_run", "--seed", "1")
    assert "holds another run: `seed` was 42 and is 1" in capsys.readouterr().err


def test_disk_that_is_too_small_is_named_with_both_sizes():
    needs = Preflight(100, 32, 0.5, 2.0, 3, None, disk_bytes=2_500_000, free_bytes=40_000, num_checkpoints=2)
    assert needs.seconds == 56
    *_, last = needs.lines()
    assert "needs 2.5 MB, but only 40 kB are free" in last
