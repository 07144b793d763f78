"""Local paths are removed from the texts of a run; the rest does not change."""

import json
from pathlib import Path

import pytest
import yaml

from deit_hf import DistillationArguments
from deit_hf.hub.public_text import public_texts
from deit_hf.hub.run_files import sealed, unsealed
from deit_hf.training.recipe_file import write_recipe

HOME = "/home/jane doe"  # some paths contain a space
OPTIONS = {
    "train_dir": f"{HOME}/photos",
    "teacher_model_name_or_path": f"timm:regnety_160@{HOME[:5]}/weights/regnet.pth",
    "model_name_or_path": "facebook/deit-base-patch16-224",
    "train_only": "attention|classifier",
    "output_dir": f"{HOME}/runs/my run",
    "learning_rate": 0.001,
    "report_to": ["none"],
}
HEAD = (
    f"# Repeat with: deit-hf train {HOME}/runs/my run/recipe.yaml --output_dir ANOTHER\n"
    f"# teacher  regnety_160 from /home/weights/regnet.pth, 82.1 images/s, see https://huggingface.co/a/b\n"
)


def write_run(directory: Path) -> dict[str, bytes]:
    (directory / "recipe.yaml").write_text(HEAD + yaml.safe_dump(OPTIONS, sort_keys=False))
    state = {"best_model_checkpoint": f"{HOME}/runs/my run/checkpoint-20", "log_history": [{"loss": 0.5, "step": 1}]}
    (directory / "trainer_state.json").write_text(json.dumps(state))
    card = f'pipeline(model="{HOME}/runs/my run")\n- data: {HOME}/photos, see [here](/docs/x)\n'
    (directory / "README.md").write_text(sealed(card))
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_paths_become_base_names_and_the_files_here_stay(tmp_path: Path):
    before = write_run(tmp_path)
    texts = public_texts(tmp_path, "jane/model")
    expected = {
        **OPTIONS,
        "train_dir": "photos",
        "teacher_model_name_or_path": "timm:regnety_160@regnet.pth",
        "output_dir": "my run",
    }
    assert yaml.safe_load(texts["recipe.yaml"]) == expected
    assert [line for line in texts["recipe.yaml"].splitlines() if line.startswith("#")] == [
        "# Repeat with: deit-hf train recipe.yaml --output_dir ANOTHER",
        "# teacher  regnety_160 from regnet.pth, 82.1 images/s, see https://huggingface.co/a/b",
    ]
    state = {"best_model_checkpoint": "checkpoint-20", "log_history": [{"loss": 0.5, "step": 1}]}
    assert json.loads(texts["trainer_state.json"]) == state
    card = 'pipeline(model="jane/model")\n- data: photos, see [here](/docs/x)\n'
    assert unsealed(texts["README.md"]) == card  # not detected as edited
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_texts_without_paths_are_pushed_as_they_are(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text("# a note; 3 images/s\nvariant: x  # mine\nname: a/b\n")
    (tmp_path / "trainer_state.json").write_text('{"b": NaN, "a": "and/or"}')
    (tmp_path / "README.md").write_text("# Mine\n\n[x](/docs) costs 3 $/h, runs on Linux/macOS\n")
    assert public_texts(tmp_path, "jane/model") == {}


def test_what_a_run_writes_has_no_path_of_this_machine(tmp_path: Path):
    directory = tmp_path / "a run"
    directory.mkdir()
    args = DistillationArguments(str(directory), report_to="none")
    write_recipe(directory / "recipe.yaml", args, effective_recipe={"teacher": f"{tmp_path}/weights.pth, top-1 0.9"})
    assert str(tmp_path) in (directory / "recipe.yaml").read_text()
    text = public_texts(directory, "jane/model")["recipe.yaml"]
    assert str(tmp_path) not in text
    assert "# teacher  weights.pth, top-1 0.9\n" in text
    assert yaml.safe_load(text)["output_dir"] == "a run"


def test_configurations_do_not_name_the_directory_that_the_model_came_from(tmp_path: Path):
    (tmp_path / "ema").mkdir()
    config = {
        "model_type": "x",
        "_name_or_path": f"{HOME}/start",
        "backbone_config": {"_name_or_path": "", "depth": 2},
    }
    for name in ("config.json", "ema/config.json"):
        (tmp_path / name).write_text(json.dumps(config))
    texts = public_texts(tmp_path, "jane/model")
    assert [*texts] == ["config.json", "ema/config.json"]
    for text in texts.values():
        assert json.loads(text) == {"model_type": "x", "backbone_config": {"depth": 2}}


@pytest.mark.parametrize(
    ("name", "text"), [("recipe.yaml", "a: [\n"), ("recipe.yaml", "3"), ("trainer_state.json", "{")]
)
def test_damaged_text_is_named(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}` is damaged .*, so nothing is pushed"):
        public_texts(tmp_path, "jane/model")


def test_relative_paths_and_home_directories_become_base_names_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run = Path("runs of jane/run")
    (run / "checkpoint-1").mkdir(parents=True)
    options = {
        "train_dir": "jane/photos",  # no longer exists
        "validation_dir": "~jane/val",
        "output_dir": str(run),
        "teacher_model_name_or_path": "timm:resnet18@jane/weights.pth",
        "model_name_or_path": "../jane/start",
        "dataset_name": "owner/name",
        "lr_scheduler_kwargs": {"file": "./jane/x.json"},
    }
    head = f"# Repeat with: deit-hf train {run}/recipe.yaml\n# teacher  timm:resnet18@jane/weights.pth, 0.9\n"
    (run / "recipe.yaml").write_text(head + yaml.safe_dump(options))
    (run / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": f"{run}/checkpoint-1"}))
    texts = public_texts(run, "alice/model")
    assert "jane" not in "".join(texts.values())
    expected = {"train_dir": "photos", "validation_dir": "val", "output_dir": "run", "model_name_or_path": "start"}
    expected |= {"teacher_model_name_or_path": "timm:resnet18@weights.pth", "dataset_name": "owner/name"}
    assert yaml.safe_load(texts["recipe.yaml"]) == {**expected, "lr_scheduler_kwargs": {"file": "x.json"}}
    assert "# teacher  timm:resnet18@weights.pth, 0.9\n" in texts["recipe.yaml"]


def test_card_that_names_the_directory_loads_from_the_repository(tmp_path: Path):
    (tmp_path / "run").mkdir()
    card = 'model="run")\nfrom_pretrained("run", subfolder="ema")\nsay "run"\n'
    (tmp_path / "run" / "README.md").write_text(sealed(card))
    text = public_texts(tmp_path / "run", "alice/model")["README.md"]
    assert unsealed(text) == 'model="alice/model")\nfrom_pretrained("alice/model", subfolder="ema")\nsay "run"\n'
