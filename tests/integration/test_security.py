"""Downloads cannot run code or make this machine read other files, and the Hub token is written nowhere."""

import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from support.local_hub import LocalHub
from support.patience import PATIENCE

from deit_hf import DeiTForImageClassificationWithTeacher, DistillationArguments, DistillationTrainer, Teacher
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.data.sources.load import load_image_datasets, load_image_parts
from deit_hf.data.sources.untrusted_rows import check_downloaded_rows
from deit_hf.hub.push import HubPushError, push_directory
from deit_hf.model.build import load_classifier
from deit_hf.model.image_processing_deit import make_processor
from deit_hf.reliability.checkpoints import move_into_place
from deit_hf.training.recipe_file import parse_recipe

ROOT = Path(__file__).parents[2]
TOKEN = "hf_SECRETSECRETSECRETSECRETSECRETSE"


class Planted:
    """Creates a folder when it is unpickled."""

    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    """The folder that planted code creates."""
    return tmp_path / "code_was_run"


def save_model(directory: Path, student) -> Path:
    student.save_pretrained(directory)
    make_processor(32).save_pretrained(directory)
    return directory


# ---- pickles ----


def test_planted_pickle_would_run(tmp_path: Path, proof: Path):
    torch.save(Planted(proof), tmp_path / "x.pt")
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert proof.exists()  # otherwise the tests below could not fail


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_of_timm_and_of_transformers_are_not_unpickled(tmp_path, proof, tiny_student, tiny_config, suffix):
    torch.save({"model": Planted(proof)}, tmp_path / f"weights.{suffix}")
    with pytest.raises(ValueError, match="weights"):
        Teacher.from_pretrained(f"timm:test_vit@{tmp_path}/weights.{suffix}", student_config=tiny_config)
    directory = save_model(tmp_path / "model", tiny_student)
    (directory / "model.safetensors").unlink()
    torch.save({"x": Planted(proof)}, directory / "pytorch_model.bin")
    for load in (load_classifier, lambda source: Teacher.from_pretrained(source, student_config=tiny_config)):
        with pytest.raises(ValueError, match="could run code, so it was not opened"):
            load(str(directory))
    assert not proof.exists()


def make_trainer(output_dir: Path, config, rows, **options) -> DistillationTrainer:
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, **options}
    args = DistillationArguments(
        str(output_dir),
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        warmup_epochs=0,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    return DistillationTrainer(DeiTForImageClassificationWithTeacher(config), args, train_dataset=rows)


def test_resume_runs_nothing_that_was_planted_in_a_checkpoint(tmp_path, proof, tiny_config, toy_rows):
    make_trainer(tmp_path / "run", tiny_config, toy_rows).train()
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        checkpoint = shutil.copytree(tmp_path / "run" / "checkpoint-2", tmp_path / name / "checkpoint-2")
        assert (checkpoint / name).exists()
        torch.save(Planted(proof), checkpoint / name)
        move_into_place(checkpoint, tmp_path / name / "checkpoint-2-sealed")  # writes a manifest that matches the file
        checkpoint = tmp_path / name / "checkpoint-2-sealed"
        trainer = make_trainer(tmp_path / "resumed", tiny_config, toy_rows, save_strategy="no")
        if name == "training_args.bin":  # only for people; never read
            assert trainer.train(resume_from_checkpoint=str(checkpoint)).global_step == 4
        else:
            with pytest.raises(ValueError, match=rf"{name} could run code \(UnpicklingError\), so it was not opened"):
                trainer.train(resume_from_checkpoint=str(checkpoint))
        assert not proof.exists(), name


def test_package_never_unpickles():
    for path in filter(Path.is_file, [*(ROOT / "deit_hf").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]):
        code = path.read_text()
        for call in re.findall(r"torch\.load\(.*?\)\n", code, re.DOTALL):
            assert "weights_only=True" in call, path
        for word in ("pickle.load", "weights_only=False", "allow_pickle=True", "trust_remote_code=True", "yaml.load("):
            assert word not in code, (path, word)


# ---- code of models and datasets ----


def with_own_code(directory: Path, proof: Path, student) -> str:
    """Saves a model of an unknown type whose config names a code file in its directory."""
    save_model(directory, student)
    config = json.loads((directory / "config.json").read_text())
    config |= {
        "model_type": "other",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForImageClassification": "own.Model"},
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "own.py").write_text(f"import os\nos.mkdir({str(proof)!r})\nConfig = Model = None\n")
    return str(directory)


def test_model_with_code_of_its_own_is_refused_and_nobody_is_asked(tmp_path, proof, tiny_student, tiny_config, capsys):
    source = with_own_code(tmp_path / "model", proof, tiny_student)
    for load in (load_classifier, lambda source: Teacher.from_pretrained(source, student_config=tiny_config)):
        with pytest.raises(ValueError, match="model` has its own code, which deit_hf never runs; if you trust it"):
            load(source)
    assert "[y/N]" not in capsys.readouterr().out  # transformers asks, and a tired user says yes
    assert not proof.exists()


def test_processor_with_code_of_its_own_is_refused(tmp_path, proof, tiny_student, tiny_config):
    directory = save_model(tmp_path / "model", tiny_student)
    settings = {"image_processor_type": "Own", "auto_map": {"AutoImageProcessor": "own.Own"}}
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))
    (directory / "own.py").write_text(f"import os\nos.mkdir({str(proof)!r})\n")
    for load in (load_classifier, lambda source: Teacher.from_pretrained(source, student_config=tiny_config)):
        with pytest.raises(ValueError, match="model` has its own code"):
            load(str(directory))
    assert not proof.exists()


def test_dataset_with_code_of_its_own_is_refused(tmp_path: Path, proof: Path):
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "pets.py").write_text(f"import os\nos.mkdir({str(proof)!r})\n")
    for name in (tmp_path / "pets", tmp_path / "pets" / "pets.py"):
        with pytest.raises(ValueError, match=r"pets.* has its own code, which deit_hf never runs"):
            load_image_datasets(DataArguments(dataset_name=str(name)))
    assert not proof.exists()


# ---- files that rows and archives name ----


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("name", ["../outside.png", "{}/outside.png", "file://{}/outside.png", "http://127.0.0.1:9/x"])
def test_metadata_may_name_no_file_outside_its_folder(tmp_path: Path, kind: str, name: str):
    (tmp_path / "outside.png").write_bytes(png(9))
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(1))
    lines = [("a.png", 0), (name.format(tmp_path), 1)]
    text = {
        "csv": "file_name,label\n" + "".join(f"{file},{label}\n" for file, label in lines),
        "jsonl": "".join(json.dumps({"file_name": file, "label": label}) + "\n" for file, label in lines),
    }
    (folder / f"metadata.{kind}").write_text(text[kind])
    with pytest.raises(ValueError, match="images` cannot be read: Invalid metadata file_name"):
        load_image_datasets(DataArguments(train_dir=str(folder)))


def write_tar(path: Path, entries: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def test_archives_write_nothing_outside_and_run_nothing(tmp_path: Path, proof: Path):
    outside = tmp_path / "outside.png"
    entries = {"../outside.png": png(1), "../outside.cls": b"0", f"{tmp_path}/outside2.png": png(2)}
    entries[f"{tmp_path}/outside2.cls"] = b"1"
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "train.tar", entries)
    options = {"image_column_name": "png", "label_column_name": "cls"}
    rows, _ = load_image_datasets(DataArguments(dataset_name=str(tmp_path / "shards"), **options))
    assert [image.getpixel((0, 0))[0] for image in rows["png"]] == [1, 2]  # read as bytes, the names are ignored
    (tmp_path / "zip").mkdir()
    with zipfile.ZipFile(tmp_path / "zip" / "train.zip", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises((ValueError, OSError)):  # `datasets` does not read it as a class folder
        load_image_datasets(DataArguments(train_dir=str(tmp_path / "zip")))
    (tmp_path / "pickles").mkdir()
    write_tar(tmp_path / "pickles" / "train.tar", {"a.png": png(1), "a.pth": pickle.dumps(Planted(proof))})
    with pytest.raises((ValueError, pickle.UnpicklingError)):
        load_image_datasets(DataArguments(dataset_name=str(tmp_path / "pickles"), **options))
    assert not outside.exists()
    assert not (tmp_path / "outside2.png").exists()
    assert not proof.exists()


@pytest.mark.parametrize("kind", ["hub cache", "datasets cache", "hf download --local-dir", "clone"])
def test_links_in_a_downloaded_folder_lead_to_nothing_outside_of_it(tmp_path: Path, monkeypatch, kind: str):
    """Fails if they are followed like links in the user's own folders."""
    cache = tmp_path / "cache"
    monkeypatch.setattr("deit_hf.data.sources.class_folders.HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr("deit_hf.data.sources.class_folders.HF_DATASETS_CACHE", str(cache / "datasets"))
    root = {
        "hub cache": cache / "hub" / "datasets--user--pets",
        "datasets cache": cache / "datasets" / "downloads",
    }.get(kind, tmp_path / "pets")
    folder = root / "snapshots" / "abc" / "train" if "cache" in kind else root / "train"
    if kind == "hf download --local-dir":
        (root / ".cache" / "huggingface" / "download" / "train").mkdir(parents=True)
    if kind == "clone":
        (root / ".git").mkdir(parents=True)
    blobs, outside = root / ".blobs", tmp_path / "outside"
    for path in (blobs, outside, folder / "cat", folder / "dog"):
        path.mkdir(parents=True)
    for number, path in enumerate((blobs / "blob.png", outside / "secret.png", folder / "dog" / "own.png")):
        path.write_bytes(png(number))
    (folder / "cat" / "blob.png").symlink_to(blobs / "blob.png")
    (folder / "cat" / "secret.png").symlink_to(outside / "secret.png")
    (folder / "cat" / "folder").symlink_to(outside)
    (folder / "secrets").symlink_to(outside)
    parts = load_image_parts(DataArguments(dataset_name=str(folder.parent)))
    assert [image.getpixel((0, 0))[0] for image in parts.train["image"]] == [0, 2]
    assert parts.folders["train"].left_out == {"links that lead out of a downloaded dataset": 3}
    (folder.parent / "val").symlink_to(outside)
    (outside / "cat").mkdir()
    with pytest.raises(
        ValueError, match="`.*/val` is a link that leads out of a downloaded dataset; it is not followed"
    ):
        load_image_parts(DataArguments(dataset_name=str(folder.parent)))


def rows_that_name(path: str | None, content: bytes | None) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    good = {"bytes": png(1), "path": "../../its_own_name.png"}
    images = pa.array([good, {"bytes": content, "path": path}], features["image"].pa_type)
    return datasets.Dataset(pa.table({"image": images, "label": [0, 1]})).cast(features)


@pytest.mark.parametrize("path", ["/etc/passwd", "http://127.0.0.1:9/x", "../x.png", "file:///etc/passwd"])
def test_rows_of_a_downloaded_dataset_may_name_no_file_and_no_address(path: str):
    with pytest.raises(ValueError, match=rf"^row 1 of the downloaded dataset `user/pets` names `{path}` instead of"):
        check_downloaded_rows(rows_that_name(path, None), "image", "user/pets")
    text = datasets.Dataset.from_dict({"image": [path], "label": [0]})
    with pytest.raises(ValueError, match=rf"^row 0 of the downloaded dataset `user/pets` names `{path}`"):
        check_downloaded_rows(text, "image", "user/pets")
    shuffled = rows_that_name(path, None).select([1, 0])
    with pytest.raises(ValueError, match=r"^row 0 of"):
        check_downloaded_rows(shuffled, "image", "user/pets")


def test_rows_that_hold_their_image_or_were_downloaded_with_it_are_taken():
    check_downloaded_rows(rows_that_name("/etc/passwd", png(2)), "image", "user/pets")
    check_downloaded_rows(rows_that_name(None, None), "image", "user/pets")  # empty: the training reports it
    cached = os.path.join(datasets.config.HF_DATASETS_CACHE, "downloads", "a.png")
    check_downloaded_rows(rows_that_name(cached, None), "image", "user/pets")
    climbing = os.path.join(datasets.config.HF_DATASETS_CACHE, "..", "token")
    with pytest.raises(ValueError, match="names"):
        check_downloaded_rows(rows_that_name(climbing, None), "image", "user/pets")


def test_named_dataset_is_checked_if_it_is_downloaded_and_not_if_it_is_a_folder(tmp_path, monkeypatch):
    (tmp_path / "outside.png").write_bytes(png(9))
    (tmp_path / "data").mkdir()
    rows = rows_that_name(str(tmp_path / "outside.png"), None)
    pq.write_table(rows.data.table, tmp_path / "data" / "train.parquet")
    own, _ = load_image_datasets(DataArguments(dataset_name=str(tmp_path / "data")))
    assert own[1]["image"].getpixel((0, 0)) == (9, 9, 9)
    loaded = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: loaded(str(tmp_path / "data")))  # like the Hub
    with pytest.raises(ValueError, match="row 1 of the downloaded dataset `user/pets` names"):
        load_image_datasets(DataArguments(dataset_name="user/pets"))


# ---- recipes ----


def test_recipe_runs_no_code(tmp_path: Path, proof: Path):
    recipe = tmp_path / "r.yaml"
    for tag in ("!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir"):
        recipe.write_text(f"seed: {tag} [{proof}]\n")
        with pytest.raises(ValueError, match="is not valid YAML: could not determine a constructor for the tag"):
            parse_recipe((DistillationArguments,), [str(recipe)])
    assert not proof.exists()


# ---- tokens ----


def write_run(folder: Path) -> None:
    for i, name in enumerate(("dark", "bright")):
        (folder / "images" / name).mkdir(parents=True)
        for j in range(4):
            (folder / "images" / name / f"{j}.png").write_bytes(png(200 * i + j))
    recipe = {
        "variant": "deit_tiny_distilled_patch16_224",
        "image_size": 16,
        "config_overrides": {"patch_size": 8, "hidden_size": 24, "intermediate_size": 24, "num_hidden_layers": 1},
        "train_dir": "images",
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "save_steps": 1,
        "warmup_epochs": 0,
        "use_cpu": True,
        "report_to": "none",
    }
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe))


def files_with(token: str, folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]


def test_token_is_in_no_file_and_no_log_of_a_training_whose_push_fails(tmp_path, tiny_config, toy_rows, caplog):
    caplog.set_level("DEBUG")
    trainer = make_trainer(tmp_path / "run", tiny_config, toy_rows, hub_token=TOKEN, push_to_hub=True)
    trainer.train()
    trainer.push_to_hub()
    assert "was not pushed" in caplog.text
    assert TOKEN not in caplog.text
    assert len(list((tmp_path / "run").rglob("training_args.bin"))) == 3
    assert files_with(TOKEN, tmp_path) == []


@pytest.mark.slow
def test_token_is_in_no_file_and_no_output_of_a_run_whether_or_not_it_pushes(tmp_path: Path):
    write_run(tmp_path)
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "r.yaml", "--hub_token", TOKEN]
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": TOKEN}
    environment |= {"HF_DATASETS_OFFLINE": "1", "NO_PROXY": "127.0.0.1"}
    for name, options in (("kept", []), ("pushed", ["--push_to_hub", "True", "--hub_model_id", "user/x"])):
        options = ["--output_dir", name, *options, "--log_level", "debug"]
        result = subprocess.run(
            [*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
        assert result.returncode == 0, result.stderr
        assert ("was not pushed" in result.stderr) == (name == "pushed")
        assert (tmp_path / name / "checkpoint-1" / "training_args.bin").exists()
        assert TOKEN not in result.stdout + result.stderr
    assert files_with(TOKEN, tmp_path) == []
    assert "hub_token" not in (tmp_path / "pushed" / "recipe.yaml").read_text()


def test_token_stays_in_the_arguments_for_the_push(tmp_path: Path):
    args = DistillationArguments(str(tmp_path), hub_token=TOKEN, report_to="none")
    assert pickle.loads(pickle.dumps(args)).hub_token is None
    assert args.hub_token == TOKEN


@pytest.mark.parametrize("stray", ["\n", "\x7f", "é"])
def test_token_with_a_stray_character_is_not_quoted_in_the_error(tmp_path, monkeypatch, tiny_student, stray: str):
    directory = save_model(tmp_path / "model", tiny_student)
    with LocalHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        with pytest.raises(HubPushError, match="`user/x`: .*; try again with") as caught:
            push_directory(directory, "user/x", token=TOKEN + stray)
    assert TOKEN not in str(caught.value)
