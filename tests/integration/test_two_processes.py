"""Two processes train like one, tested in a minute; `test_distributed.py` tests more processes and options."""

import json
import re
from pathlib import Path

import pytest
import yaml
from support.processes import RECIPE, SIZES, column, results, train

from deit_hf import DeiTConfig, DeiTForImageClassification, DistillationArguments
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.model.arguments import ModelArguments
from deit_hf.model.image_processing_deit import make_processor
from deit_hf.training.recipe_file import parse_recipe
from deit_hf.training.run import train as train_here

OPTIONS = {
    "teacher_model_name_or_path": "teacher",
    "distillation_type": "soft",
    "learning_rate": None,
    "base_learning_rate": 0.1,  # so that the learning rate depends on the global batch
    "ema_decay": 0.9,
    "max_train_samples": 72,
    "max_eval_samples": 37,  # the last batches are padded
    "max_steps": 6,
    "logging_steps": 2,
}


def effective_settings(folder: Path, name: str) -> dict[str, str]:
    """The effective settings at the head of a written recipe, by topic."""
    lines = (folder / name / "recipe.yaml").read_text().splitlines()
    pairs = [re.split(" {2,}", line.removeprefix("# "), maxsplit=1) for line in lines if line.startswith("# ")]
    return dict(pair for pair in pairs if len(pair) == 2)


def test_two_processes_are_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    config = DeiTConfig.from_variant(
        RECIPE["variant"], **SIZES, image_size=16, num_labels=10, initializer_range=0.5, use_distillation_token=False
    )
    DeiTForImageClassification(config).save_pretrained("teacher")
    make_processor(16).save_pretrained("teacher")
    batch = {"per_device_train_batch_size": 24, "gradient_accumulation_steps": 1}
    Path("one.yaml").write_text(yaml.safe_dump({**RECIPE, **OPTIONS, **batch, "output_dir": "one"}))
    train_here(*parse_recipe((ModelArguments, DataArguments, DistillationArguments), ["one.yaml"], ""))

    log = train(tmp_path, "two", 2, 6, 2, **OPTIONS)  # asserts that there were two processes
    one, two = effective_settings(tmp_path, "one"), effective_settings(tmp_path, "two")
    assert two["global batch"] == "24 = 6 on each of 2 processes x 2 accumulation steps"
    assert "0.0046875 at its peak" in two["learning rate"]  # 0.1 x 24 / 512
    assert "top-1 on the evaluation split" in two["teacher"]
    assert "(72 views, 95 % interval" in two["teacher on views"]  # one of each image
    assert {topic for topic in one if one[topic] != two[topic]} == {"global batch"}

    own = json.loads(Path("one/trainer_state.json").read_text())["log_history"]
    for name in ("loss", "loss_cls", "loss_distillation", "teacher_agreement", "eval_loss", "eval_ema_loss"):
        assert column(log, name) == pytest.approx(column(own, name), abs=1e-5), name
    assert len(column(log, "loss")) == 3
    assert column(log, "learning_rate") == column(own, "learning_rate")
    for name in ("eval_top1_cls", "eval_top1_distillation", "eval_top1_average", "eval_ema_top1_average"):
        assert results(tmp_path, "two")[name] == results(tmp_path, "one")[name]
