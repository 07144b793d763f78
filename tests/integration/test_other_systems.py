"""What other systems lack or do differently: `fcntl`, directories that can be opened, forked workers."""

import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from support.patience import PATIENCE
from support.trainers import make_trainer, parameters_of, same

from deit_hf import DeiTConfig
from deit_hf.reliability import run_lock

# A fresh interpreter as on a system without `fcntl`, where a directory cannot be opened.
WITHOUT = """
import os, sys
from pathlib import Path

sys.modules["fcntl"] = None
opened = os.open

def open_no_directory(path, flags, *args, **options):
    if sys._getframe(1).f_globals["__name__"].startswith("deit_hf") and os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return opened(path, flags, *args, **options)

os.open = open_no_directory
import importlib, pkgutil, warnings
warnings.simplefilter("ignore")  # filelock's, that it has no locks of the system
import deit_hf

for module in pkgutil.walk_packages(deit_hf.__path__, "deit_hf."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

import numpy as np, datasets
from deit_hf import DeiTConfig
from deit_hf.data.bad_images import BadImageList
from support.trainers import make_trainer

images = [np.full((32, 32, 3), 30 * i, np.uint8) for i in range(8)]
features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("ab"))})
rows = datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 4}, features=features)
sizes = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40, "num_hidden_layers": 1}
config = DeiTConfig(image_size=32, patch_size=8, num_labels=2, **sizes)
trainer = make_trainer(Path("."), config, rows, max_steps=1, save_strategy="steps", save_steps=1, use_cpu=True)
trainer.train()
bad = BadImageList("run")
bad.add([{"row": 3, "file": None, "reason": "damaged"}])
print("saved", sorted(path.name for path in Path("run").glob("checkpoint-*")), len(bad.read()))
"""


def test_all_modules_import_and_a_checkpoint_is_saved_without_fcntl_and_directory_fsync(tmp_path: Path):
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]  # for `support`
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=PATIENCE
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "saved ['checkpoint-1'] 1"


@pytest.mark.slow
def test_spawned_workers_train_the_same_bits_as_forked_ones(
    tmp_path: Path, tiny_config: DeiTConfig, toy_rows: datasets.Dataset
):
    """Red when an object that a worker needs cannot be pickled, or a worker draws from another random state."""
    weights = {}
    for context in ("fork", "spawn"):
        options = {"dataloader_num_workers": 1, "dataloader_multiprocessing_context": context, "max_steps": 2}
        trainer = make_trainer(tmp_path / context, tiny_config, toy_rows, use_cpu=True, **options)
        trainer.train()
        weights[context] = parameters_of(trainer.model)
    assert same(weights["fork"], weights["spawn"])


def test_windows_is_not_asked_whether_a_process_lives(monkeypatch: pytest.MonkeyPatch):
    """There, `os.kill(pid, 0)` sends Ctrl-C."""
    holder = {"host": run_lock.socket.gethostname(), "pid": 2**22 + 1}
    assert run_lock._is_gone(holder)
    monkeypatch.setattr(run_lock.os, "name", "nt")
    monkeypatch.setattr(run_lock.os, "kill", None)
    assert not run_lock._is_gone(holder)
