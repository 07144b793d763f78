"""The files of a Space that shows the demo of a model."""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from support.models import make_model, save

from deit_hf import DeiTConfig
from deit_hf.analysis import demo_page
from deit_hf.hub import space
from deit_hf.hub.space import write_space
from deit_hf.model.build import load_classifier


@pytest.fixture(autouse=True)
def _gradio_need_not_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "version", lambda name: "6.31.0" if name == "gradio" else "0.1.0")


def call_of(app: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, Any]]:
    """Runs app.py, and returns the arguments with which it starts the page."""
    calls: list[Any] = []

    class Page:
        def block_thread(self) -> None:
            calls.append("waits")

    def launch(model: Any, **options: Any) -> Page:
        calls.append((model, options))
        return Page()

    monkeypatch.setattr(demo_page, "launch_demo", launch)
    runpy.run_path(str(app))
    assert calls[1:] == ["waits"]
    return calls[0]


def settings_of(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def test_space_of_local_models_holds_copies_of_all_that_it_needs(
    tmp_path: Path, tiny_config: DeiTConfig, monkeypatch: pytest.MonkeyPatch
):
    model = save(make_model("distilled", tiny_config), tmp_path / "secret" / "model")
    teacher = save(make_model("resnet", tiny_config), tmp_path / "secret" / "taught")
    (tmp_path / "secret" / "model" / "notes.txt").touch()
    config = Path(model) / "config.json"  # as transformers before version 5 wrote it
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"_name_or_path": str(tmp_path / "secret" / "start")})
    )
    exif = Image.Exif()
    exif[0x010E] = "at home"
    photo = tmp_path / "secret" / "us.jpg"
    Image.fromarray(np.zeros((1500, 30, 3), dtype=np.uint8)).save(photo, exif=exif, comment=b"by Jane", dpi=(72, 72))
    title = 'It\'s "birds" <b>: {x}'
    target = tmp_path / "space"
    write_space(target, model, teacher=teacher, examples=[str(photo)], top_k=3, title=title)

    assert sorted(path.name for path in target.iterdir()) == [
        *("README.md", "app.py", "deit_hf", "examples", "model", "requirements.txt", "teacher")
    ]
    files = ["config.json", "model.safetensors", "preprocessor_config.json"]
    for name in ("model", "teacher"):
        assert sorted(path.name for path in (target / name).iterdir()) == files
        load_classifier(str(target / name))
    options = {"teacher": target / "teacher", "examples": [target / "examples"], "top_k": 3, "title": title}
    assert call_of(target / "app.py", monkeypatch) == (target / "model", options)

    card = (target / "README.md").read_text(encoding="utf-8")
    settings = settings_of(card)
    expected = {"title": title, "sdk": "gradio", "sdk_version": "6.31.0", "app_file": "app.py"}
    assert {name: settings[name] for name in expected} == expected
    assert "models" not in settings
    assert isinstance(settings["python_version"], str)
    requirements = (target / "requirements.txt").read_text().splitlines()
    assert "gradio==6.31.0" in requirements
    assert any(each.startswith("torch>=") for each in requirements)
    assert not any("extra" in each for each in requirements)
    assert (target / "deit_hf" / "analysis" / "templates" / "demo.css").is_file()
    assert not list((target / "deit_hf").rglob("__pycache__"))

    with Image.open(target / "examples" / "01.jpg") as example:
        assert (example.size, dict(example.getexif())) == ((20, 1024), {})
        assert example.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert "_name_or_path" in config.read_text()
    texts = (
        card
        + (target / "model" / "config.json").read_text()
        + (target / "app.py").read_text()
        + "\n".join(requirements)
    )
    for hidden in ("secret", str(tmp_path)):
        assert hidden not in texts


def test_space_of_models_of_the_hub_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_space(tmp_path / "space", "user/model", teacher="timm/resnet18.a1_in1k", title="Birds")
    options = {"teacher": "timm/resnet18.a1_in1k", "examples": [], "top_k": 5, "title": "Birds"}
    assert call_of(tmp_path / "space" / "app.py", monkeypatch) == ("user/model", options)
    assert settings_of((tmp_path / "space" / "README.md").read_text())["models"] == [
        *("user/model", "timm/resnet18.a1_in1k")
    ]


def test_nothing_is_written_over_files_or_without_what_is_needed(tmp_path: Path, tiny_config: DeiTConfig):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(FileExistsError, match="not an empty directory"):
        write_space(tmp_path / "full", "user/model", title="x")
    with pytest.raises(ValueError, match="is a file, which a Space cannot load"):
        write_space(tmp_path / "new", "user/model", teacher="timm:resnet18@/home/me/w.pth", title="x")
    model = Path(save(make_model("plain", tiny_config), tmp_path / "model"))
    (model / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks preprocessor_config\.json"):
        write_space(tmp_path / "new", str(model), title="x")
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    write_space(tmp_path / "empty", "user/model", title="x")
    assert (tmp_path / "empty" / "app.py").is_file()
