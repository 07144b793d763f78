"""The examples in the README run as printed, and everything that it names exists."""

import contextlib
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import PIL.Image
import pytest
import torch
import transformers
from support.patience import PATIENCE

from deit_hf import DeiTConfig, DeiTForImageClassificationWithTeacher
from deit_hf.commands.export import main as export
from deit_hf.commands.main import main
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.jobs.arguments import DEFAULT_STUDENT
from deit_hf.model.arguments import ModelArguments
from deit_hf.model.image_processing_deit import make_processor
from deit_hf.training.arguments import DistillationArguments
from deit_hf.training.recipe_file import parse_recipe

TINY = {"patch_size": 8, "hidden_size": 24, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3}
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py") if path.is_file())
RECIPES = sorted((ROOT / "deit_hf" / "recipes").glob("*.yaml"))


FIRST_SCREEN, _, BELOW = README.partition("## Install")
SHORT = {"num_train_epochs": 1, "max_train_samples": 40, "max_eval_samples": 20, "dataloader_num_workers": 0}
SHORT |= {"dataloader_persistent_workers": False, "per_device_train_batch_size": 8}
SHORT_FLAGS = [word for name, value in SHORT.items() for word in (f"--{name}", str(value).lower())]


def commands(text: str) -> list[list[str]]:
    """The `deit-hf` commands in the code blocks of a text, without comments."""
    blocks = re.findall(r"```\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("deit-hf ")]


def write_toy_sources(root: Path) -> None:
    """Photos, and small models in folders with the names of the README's models on the Hub."""
    for place, name in enumerate(("daisy", "rose")):
        (root / "photos" / name).mkdir(parents=True)
        for i in range(12):
            PIL.Image.new("RGB", (40, 36), (20 * i, 90 * place, 60)).save(root / "photos" / name / f"{i}.jpg")
    PIL.Image.new("RGB", (40, 36), "white").save(root / "PHOTO.jpg")
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate("abc")), "label2id": {name: i for i, name in enumerate("abc")}}
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    resnet = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes, **names))
    deit = DeiTForImageClassificationWithTeacher(DeiTConfig(image_size=32, **TINY, **names))
    for model, folder in ((resnet, "microsoft/resnet-50"), (deit, DEFAULT_STUDENT)):
        model.save_pretrained(root / folder)
        make_processor(32).save_pretrained(root / folder)


def test_commands_of_the_first_screen_work_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """On toy data in the named folders, with few epochs; also the commands that a finished job prints."""
    monkeypatch.chdir(tmp_path)
    write_toy_sources(tmp_path)
    shown = commands(FIRST_SCREEN)
    assert [command[:2] for command in shown[:2]] == [["distill", "digits"], ["distill", "photos/"]]
    for command in shown:
        capsys.readouterr()
        flags = [*SHORT_FLAGS, "--teacher_epochs", "1"] if command[0] == "distill" else []
        if command[0] == "push":
            continue  # needs the Hub
        main([*command, *flags])
        printed = capsys.readouterr().out
        if command[0] == "distill":
            offered = commands("```\n" + printed.partition("Next:")[2] + "```")
            assert [each[0] for each in offered] == ["predict", "evaluate", "export", "push"]
    for command in offered[:2]:  # of the photos; those of the digits are on the screen
        main(command)


@pytest.mark.slow
def test_python_examples_train_and_save_what_plain_transformers_and_onnxruntime_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
    assert 'distill("digits")' in code
    code = code.replace('distill("digits")', f'distill("digits", **{SHORT})')
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert result.returncode == 0, result.stderr
    assert "student, both heads" in result.stdout
    command = re.search(r"^deit-hf export (outputs/.*)$", README, flags=re.MULTILINE)
    assert command is not None
    monkeypatch.chdir(tmp_path)
    export([*command[1].split(), "--max_eval_samples", "40"])
    session = onnxruntime.InferenceSession(tmp_path / "outputs" / "onnx" / "onnx" / "model.onnx")
    assert session.run(["logits"], {"pixel_values": np.zeros((7, 3, 32, 32), np.float32)})[0].shape == (7, 10)
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "outputs" / "readme")
    assert type(model) is transformers.DeiTForImageClassificationWithTeacher


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_explains_itself(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with contextlib.suppress(SystemExit):
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
    command = name.removesuffix("_checkpoint").removesuffix("_model").removesuffix("_to_hub")
    assert f"deit-hf {command}" in capsys.readouterr().out


@pytest.mark.slow
def test_no_script_hides_a_library_from_its_neighbours():
    """As `evaluate.py` the script would be imported instead of the `evaluate` library."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import evaluate; print(evaluate.Metric)"
    imported = subprocess.run([sys.executable, "-c", code, ROOT / "scripts"], capture_output=True, text=True)
    assert imported.stdout == "<class 'evaluate.module.Metric'>\n", imported.stderr


def test_no_script_changes_where_python_looks_for_modules():
    for name in SCRIPTS:
        code = (ROOT / "scripts" / f"{name}.py").read_text(encoding="utf-8")
        assert "sys.path" not in code
        assert len(code.splitlines()) <= 10, name


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_accepted_and_says_what_it_is(recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    text = recipe.read_text(encoding="utf-8")
    header = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    for part in ("Paper row:", "Command: ", f"train {recipe.stem} ", "Machine", "easured"):
        assert part in header
    source = [] if "dataset_name:" in text else ["--dataset_name", "user/name"]
    model, data, args = parse_recipe(
        (ModelArguments, DataArguments, DistillationArguments), [str(recipe), *source, "--report_to", "none"]
    )
    assert data.dataset_name is not None
    assert (model.teacher_model_name_or_path is None) == (args.distillation_type == "none")


def test_the_map_names_every_module_in_its_room():
    block = README.partition("## Map")[2].partition("```\n")[2].partition("```")[0]
    room, named = Path(), set()
    for line in block.splitlines():
        depth, (first, *others) = (len(line) - len(line.lstrip())) // 2, line.split()
        if first.endswith("/"):
            room = Path(*room.parts[:depth], first)
        names = [word for word in (first, *others) if word.endswith(".py")] if first.endswith(".py") else []
        named |= {(Path(*room.parts[:depth]) / name).as_posix() for name in names}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "deit_hf").rglob("*.py")}
    assert named == {module for module in modules if not module.endswith(("__init__.py", "__main__.py"))}


def test_every_script_that_the_readme_names_exists():
    named = set(re.findall(r"scripts/([a-z_]+\.(?:py|sh))", README))
    assert named >= {"quickstart.sh", "test.sh", "train.py"}
    assert {name for name in named if not (ROOT / "scripts" / name).is_file()} == set()
