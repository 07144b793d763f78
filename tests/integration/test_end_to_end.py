"""Runs the scripts like a user: trains a teacher and a student, evaluates, predicts, and loads in transformers."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import yaml
from support.patience import PATIENCE

from deit_hf.evaluation.accuracy_text import percent

ROOT = Path(__file__).parents[2]

TEACHER = {
    "model_name_or_path": "timm:test_byobnet",
    "image_size": 32,
    "output_dir": "teacher",
    "num_train_epochs": 2,
    "learning_rate": "2e-3",
    "mixup_alpha": 0,
    "cutmix_alpha": 0,
}
STUDENT = {
    "variant": "deit_tiny_distilled_patch16_224",
    "image_size": 24,
    "config_overrides": {"patch_size": 8, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2},
    "output_dir": "student",
    "teacher_model_name_or_path": "teacher",
    "distillation_type": "hard",
    "num_train_epochs": 3,
    "learning_rate": "1e-3",
}
COMMON = {
    "train_dir": "images/train",
    "validation_dir": "images/validation",
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 5,
    "warmup_epochs": 0,
    "random_augment": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
}


def run(folder: Path, *command: str, blocked: bool = False) -> subprocess.CompletedProcess:
    """Runs python in `folder`; with `blocked`, importing deit_hf fails there."""
    if blocked:
        command = ("-c", "import sys; sys.modules['deit_hf'] = None\n" + command[0])
    return subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=PATIENCE)


def script(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess:
    return run(folder, str(ROOT / "scripts" / f"{name}.py"), *arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dark and bright images in two class folders, and two recipes."""
    folder = tmp_path_factory.mktemp("run")
    generator = np.random.default_rng(0)
    for split, count in (("train", 24), ("validation", 11)):
        for name, low in (("dark", 0), ("bright", 180)):
            path = folder / "images" / split / name
            path.mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(low, low + 70, (40, 32 + i % 5, 3), dtype=np.uint8)
                PIL.Image.fromarray(pixels).save(path / f"{i}.png")
    for name, recipe in (("teacher", TEACHER), ("student", STUDENT)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**COMMON, **recipe}))
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """The folder after both recipes have run."""
    for name in ("teacher", "student"):
        result = script(folder, "train", f"{name}.yaml", "--logging_steps", "2")
        assert result.returncode == 0, result.stderr
    return folder


def test_run_leaves_model_processor_recipe_and_metrics(trained: Path):
    files = {path.name for path in (trained / "student").iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "recipe.yaml"} <= files
    assert {"train_results.json", "eval_results.json", "all_results.json", "trainer_state.json"} <= files
    config = json.loads((trained / "student" / "config.json").read_text())
    assert config["architectures"] == ["DeiTForImageClassificationWithTeacher"]
    assert config["id2label"] == {"0": "bright", "1": "dark"}
    state = json.loads((trained / "student" / "trainer_state.json").read_text())
    assert {"loss_cls", "loss_distillation", "teacher_agreement"} <= set(state["log_history"][0])


def test_all_heads_learn_dark_from_bright(trained: Path):
    metrics = json.loads((trained / "student" / "eval_results.json").read_text())
    for head in ("cls", "distillation", "average"):
        assert metrics[f"eval_top1_{head}"] > 0.9
    assert json.loads((trained / "teacher" / "eval_results.json").read_text())["eval_top1"] > 0.9


def test_evaluate_script_repeats_the_runs_own_numbers(trained: Path):
    arguments = ("--model_name_or_path", "student", "--validation_dir", "images/validation", "--num_workers", "0")
    result = script(trained, "evaluate_model", *arguments, "--output", "metrics.json")
    assert result.returncode == 0, result.stderr
    own = json.loads((trained / "student" / "eval_results.json").read_text())
    again = json.loads((trained / "metrics.json").read_text())
    for name in ("eval_top1_cls", "eval_top1_distillation", "eval_top1_average"):
        assert again[name] == own[name]
    _, both_heads, *_ = result.stdout.splitlines()
    assert both_heads.split("  ", 1)[0] == "evaluation, both heads"
    assert f" {percent(own['eval_top1_average'])} " in both_heads
    conditions = result.stdout.splitlines()[-1]
    assert conditions == f"crop: {own['eval_crop']}, fusion: mean of both heads' logits"
    assert own["eval_crop"] == "short side resized to 24 pixels (bicubic), centre crop of 24x24"
    assert own["eval_fusion"] == again["eval_fusion"] == "logit_mean"


def test_evaluate_script_takes_another_crop_fusion_and_labels(trained: Path, monkeypatch, capsys):
    (trained / "labels.txt").write_text(
        "".join(f"{name}/{i}.png 0\n" for name in ("dark", "bright") for i in range(11))
    )
    arguments = ["--model_name_or_path", "student", "--validation_dir", "images/validation", "--num_workers", "0"]
    arguments += ["--eval_crop", "squash", "--fusion", "softmax_sum", "--label_file", "labels.txt"]
    monkeypatch.chdir(trained)
    monkeypatch.setattr(sys, "argv", ["evaluate_model.py", *arguments, "--per_class_file", "classes.json"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    runpy.run_path(str(ROOT / "scripts" / "evaluate_model.py"), run_name="__main__")
    *table, conditions = capsys.readouterr().out.splitlines()
    assert conditions == "crop: whole image resized to 24x24 pixels (bicubic), fusion: sum of both heads' softmaxes"
    assert "22 images" in table
    classes = json.loads((trained / "classes.json").read_text())["classes"]
    assert [(row["name"], row["images"]) for row in classes] == [("bright", 22), ("dark", 0)]


@pytest.mark.slow
def test_written_recipe_repeats_the_run_bit_for_bit(trained: Path):
    result = script(trained, "train", "student/recipe.yaml", "--output_dir", "again")
    assert result.returncode == 0, result.stderr
    assert (trained / "again" / "model.safetensors").read_bytes() == (
        trained / "student" / "model.safetensors"
    ).read_bytes()


def test_plain_transformers_classifies_as_the_predict_script_does(trained: Path):
    image = "images/validation/dark/0.png"
    ours = script(trained, "predict", "student", image, "--top_k", "1")
    assert ours.returncode == 0, ours.stderr
    code = f"""
from transformers import pipeline
best = pipeline("image-classification", model="student")("{image}")[0]
print(f"{{best['score']:7.1%}}  {{best['label']}}")
"""
    theirs = run(trained, code, blocked=True)
    assert theirs.returncode == 0, theirs.stderr
    assert theirs.stdout.strip().endswith("dark")
    assert ours.stdout.split() == [*theirs.stdout.split(), image]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "nothing.yaml"), "no recipe at `nothing.yaml`"),
        (
            ("train", "student.yaml", "--output_dir", "images"),
            "`output_dir` images is not empty and holds no checkpoint",
        ),
        (
            ("train", "student.yaml", "--output_dir", "x", "--per_device_train_batch_size", "1"),
            "`per_device_train_batch_size` is 1, but must be even",
        ),
        (
            ("train", "student.yaml", "--output_dir", "x", "--image_column_name", "img"),
            "the dataset has no column `img`, only image, label",
        ),
        (
            ("train", "student.yaml", "--output_dir", "x", "--teacher_model_name_or_path", "./nobody"),
            "no directory `./nobody`",
        ),
        (
            ("evaluate_model", "--model_name_or_path", "student", "--validation_dir", "images/validation")
            + ("--label_file", "none.json"),
            "no label file at `none.json`",
        ),
        (("predict", "student", "student.yaml"), "student.yaml is empty or not in an image format"),
    ],
)
def test_bad_input_is_one_line_and_a_non_zero_exit(trained, arguments, message: str, monkeypatch, capsys):
    name, *options = arguments
    monkeypatch.chdir(trained)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *options])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as left:  # in this process, because six more starts of python take a minute
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
    assert left.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (trained / "x").exists()


@pytest.mark.slow
def test_undecodable_image_in_training_is_named(trained: Path):
    bad = trained / "images" / "train" / "dark" / "bad.png"
    bad.write_text("not an image")
    result = script(trained, "train", "teacher.yaml", "--output_dir", "y", "--dataloader_num_workers", "1")
    bad.unlink()
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: row ")
    assert "bad.png" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
