"""Stores filled and used by several processes, and killed while they are filled."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from support.patience import PATIENCE
from support.processes import RECIPE, run
from support.trainers import same

OPTIONS = {"distillation_type": "hard", "repeated_augmentation": 3, "max_steps": 24, "seed": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a teacher of a few steps."""
    folder = tmp_path_factory.mktemp("stores")
    start(folder, "teacher", 1, {"per_device_train_batch_size": 20, "max_steps": 4})
    return folder


def _arguments(folder: Path, name: str, batch_size: int, accumulation: int) -> list[str]:
    recipe = {**RECIPE, **OPTIONS, "teacher_model_name_or_path": "teacher", "teacher_cache": name}
    recipe |= {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
    (folder / f"{name}-fill.yaml").write_text(yaml.safe_dump(recipe))
    return [f"{name}-fill.yaml"]


def launch(folder: Path, num_processes: int, *arguments: str) -> subprocess.Popen:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    command = [sys.executable, *(launcher if num_processes > 1 else []), "-m", "deit_hf", "cache-teacher", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def start(folder: Path, name: str, num_processes: int, options: dict) -> None:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**RECIPE, "output_dir": name, **options}))
    run(folder, num_processes, "train.py", f"{name}.yaml")


def weights(folder: Path, name: str, num_processes: int, batch_size: int, accumulation: int, **options):
    batch = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
    start(folder, name, num_processes, {**OPTIONS, **batch, **options})
    in_words = f"{batch_size} on each of 2 processes" if num_processes == 2 else f"= {batch_size} x 2 accumulation"
    assert in_words in (folder / name / "recipe.yaml").read_text()
    return load_file(folder / name / "model.safetensors")


@pytest.mark.slow
def test_two_processes_fill_a_store_and_train_with_it_as_with_the_teacher(folder: Path):
    filling = launch(folder, 2, *_arguments(folder, "two", 10, 1))
    printed, _ = filling.communicate(timeout=PATIENCE)
    assert filling.returncode == 0
    assert "views/s in each process" in printed
    names = sorted(path.name for path in (folder / "two").glob("*.safetensors"))
    assert names == ["epoch-0000.safetensors", "epoch-0001.safetensors", "epoch-0002.safetensors"]
    online = weights(folder, "online", 2, 10, 1, teacher_model_name_or_path="teacher")
    assert same(online, weights(folder, "stored", 2, 10, 1, teacher_cache="two"))
    # the same steps on one process
    online = weights(folder, "online-1", 1, 10, 2, teacher_model_name_or_path="teacher")
    assert same(online, weights(folder, "stored-1", 1, 10, 2, teacher_cache="two"))


@pytest.mark.slow
def test_filling_that_is_killed_continues_to_the_same_files(folder: Path):
    whole = launch(folder, 1, *_arguments(folder, "whole", 20, 1))
    assert whole.wait(timeout=PATIENCE) == 0
    arguments, kills = _arguments(folder, "killed", 20, 1), 0
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        filling = launch(folder, 1, *arguments)
        deadline = time.monotonic() + PATIENCE
        before = set((folder / "killed").glob("epoch-*"))
        while set((folder / "killed").glob("epoch-*")) <= before and filling.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        filling.send_signal(number)
        code = filling.wait(timeout=PATIENCE)
        assert code in (0, 75, -number), filling.communicate()[0]
        kills += code != 0
    assert kills >= 2
    last = launch(folder, 1, *arguments)
    assert last.wait(timeout=PATIENCE) == 0
    for path in (folder / "whole").glob("epoch-*"):
        assert (folder / "killed" / path.name).read_bytes() == path.read_bytes()
    assert {path.name for path in (folder / "killed").glob("epoch-*")} == {
        path.name for path in (folder / "whole").glob("epoch-*")
    }
