"""A damaged bit, a missing or an additional file is named in one line, and an earlier checkpoint is used."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import processes

from deit_hf import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    DistillationArguments,
    DistillationTrainer,
    Teacher,
)
from deit_hf.atomic_files import MANIFEST, sha256_of
from deit_hf.model.build import load_classifier
from deit_hf.reliability.checkpoints import find_checkpoint, rotate

OPTIONS = {
    "per_device_train_batch_size": 8,
    "max_steps": 3,
    "save_strategy": "steps",
    "save_steps": 1,
    "learning_rate": 1e-3,
    "warmup_epochs": 0,
    "random_augment": "none",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "ema_decay": 0.9,
}
CONFIG = {"image_size": 32, "patch_size": 8, "hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 1}


def make_trainer(directory: Path, rows: datasets.Dataset, **options) -> DistillationTrainer:
    torch.manual_seed(1)
    args = DistillationArguments(str(directory), **{**OPTIONS, **options})
    model = DeiTForImageClassificationWithTeacher(DeiTConfig(**CONFIG, intermediate_size=40, num_labels=5))
    return DistillationTrainer(model, args, train_dataset=rows, eval_dataset=rows)


@pytest.fixture(scope="module")
def rows():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("abcde"))})
    return datasets.Dataset.from_dict({"image": list(pixels), "label": [i % 5 for i in range(40)]}, features=features)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, rows) -> Path:
    """A run with three checkpoints."""
    directory = tmp_path_factory.mktemp("trained") / "run"
    make_trainer(directory, rows).train()
    return directory


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, which a test can damage."""
    return shutil.copytree(trained, tmp_path / "run")


def flip_a_bit(file: Path, position: float = 0.9) -> None:
    content = bytearray(file.read_bytes())
    content[int(position * len(content))] ^= 1
    file.write_bytes(content)


def find(directory: Path, **options) -> str | None:
    return find_checkpoint(DistillationArguments(str(directory), report_to="none", **options))


FILES = ["model.safetensors", "optimizer.pt", "ema/model.safetensors", "running_state_0.json", "scheduler.pt"]
FILES += ["trainer_state.json", "rng_state.pth", "config.json", "ema/averaging.json", "preprocessor_config.json"]


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_named_and_the_checkpoint_before_is_taken(run: Path, caplog, name: str):
    flip_a_bit(run / "checkpoint-3" / name)
    assert find(run) == str(run / "checkpoint-2")
    assert f"checkpoint-3 is skipped: {name} is damaged: its content is not what was written" in caplog.text
    with pytest.raises(ValueError, match=f"cannot resume from `.*checkpoint-3`: {name} is damaged"):
        find(run, resume_from_checkpoint=str(run / "checkpoint-3"))


def test_every_file_of_a_checkpoint_has_its_sha256_in_the_manifest(run: Path):
    folder = run / "checkpoint-3"
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    del files[MANIFEST]
    expected = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert json.loads((folder / MANIFEST).read_text())["sha256"] == expected
    assert {"optimizer.pt", "ema/model.safetensors"} < expected.keys()


def test_hash_of_a_file_larger_than_the_buffer_is_that_of_all_its_bytes(tmp_path: Path):
    content = bytes(range(256)) * 10_000 + b"end"
    (tmp_path / "x").write_bytes(content)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_trainer_takes_the_last_sound_checkpoint_and_ends_with_the_same_bits(run: Path, trained, rows):
    flip_a_bit(run / "checkpoint-3" / "optimizer.pt")
    flip_a_bit(run / "checkpoint-2" / "model.safetensors")
    resumed = make_trainer(run, rows)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.resume_from == run / "checkpoint-1"
    expected = load_file(trained / "checkpoint-3" / "model.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())
    assert find(run) == str(run / "checkpoint-3")  # it was replaced


def test_checkpoint_that_the_trainer_is_given_is_refused_and_not_replaced(run: Path, rows):
    flip_a_bit(run / "checkpoint-3" / "ema" / "model.safetensors")
    with pytest.raises(ValueError, match="checkpoint-3`: ema/model.safetensors is damaged"):
        make_trainer(run, rows).train(resume_from_checkpoint=str(run / "checkpoint-3"))


def test_run_whose_checkpoints_are_all_damaged_does_not_start_again_by_itself(run: Path, caplog):
    (run / ".unfinished-run").touch()
    for step in (1, 2, 3):
        flip_a_bit(run / f"checkpoint-{step}" / "model.safetensors")
    with pytest.raises(FileExistsError, match="holds no checkpoint to resume from"):
        find(run)
    assert caplog.text.count("model.safetensors is damaged") == 3


def seal_as_an_earlier_version(checkpoint: Path) -> None:
    """Writes a manifest with the current file sizes only."""
    files = [path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST]
    sizes = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}
    (checkpoint / MANIFEST).write_text(json.dumps({"sizes": sizes}))


def test_checkpoint_of_an_earlier_version_resumes_and_says_what_is_not_known(run: Path, caplog):
    seal_as_an_earlier_version(run / "checkpoint-3")
    assert find(run) == str(run / "checkpoint-3")
    assert caplog.text.count("was written by an earlier version, which recorded no hashes") == 1


DAMAGED = {
    "running_state_0.json": b'{"loss": 0.',
    "trainer_state.json": b'{"no_such_field": 1}',
    "config.json": b"[]",
    "optimizer.pt": b"PK\x03\x04 cut",
    "scheduler.pt": b"",
    "rng_state.pth": b"\x80\x05.",
    "model.safetensors": b"\xff" * 40,
    "ema/model.safetensors": b"",
    "ema/averaging.json": b"\xff\xfe",
}


@pytest.mark.parametrize(("name", "content"), DAMAGED.items())
def test_file_without_a_hash_that_does_not_open_is_named_too(run: Path, caplog, name: str, content: bytes):
    (run / "checkpoint-3" / name).write_bytes(content)
    seal_as_an_earlier_version(run / "checkpoint-3")
    assert find(run) == str(run / "checkpoint-2")
    assert f"checkpoint-3 is skipped: {name} is damaged" in caplog.text
    assert "weights_only" not in caplog.text


def test_running_state_of_other_content_is_one_line(run: Path, rows):
    (run / "checkpoint-3" / "running_state_0.json").write_text('{"lost": 1}')
    seal_as_an_earlier_version(run / "checkpoint-3")
    with pytest.raises(
        ValueError, match="the content of its running_state files is invalid .KeyError: 'was_stopped_early'"
    ) as error:
        make_trainer(run, rows).train(resume_from_checkpoint=str(run / "checkpoint-3"))
    assert "\n" not in str(error.value)


def _empty_manifest(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).write_text("{}")


def _list_as_manifest(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).write_text('{"sizes": [1, 2]}')


def _hashes_turned_off(checkpoint: Path) -> None:
    text = (checkpoint / MANIFEST).read_text()
    (checkpoint / MANIFEST).write_text(text.replace('"sha256"', '"sha257"'))


def _file_without_a_hash(checkpoint: Path) -> None:
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    del manifest["sha256"]["optimizer.pt"]
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))


def _file_outside(checkpoint: Path) -> None:
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    for part in manifest.values():
        part["../../secret"] = 0
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))


def _additional_weights(checkpoint: Path) -> None:
    save_file({"x": torch.zeros(1)}, checkpoint / "adapter_model.safetensors")


def _directory_in_place_of_a_file(checkpoint: Path) -> None:
    (checkpoint / "optimizer.pt").unlink()
    (checkpoint / "optimizer.pt").mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_empty_manifest, "no readable manifest.json"),
        (_list_as_manifest, "no readable manifest.json"),
        (_hashes_turned_off, "no readable manifest.json"),
        (_file_without_a_hash, "no readable manifest.json"),
        (_file_outside, "names `../../secret`, which is not in it"),
        (_additional_weights, "adapter_model.safetensors was not written with it"),
        (_directory_in_place_of_a_file, "optimizer.pt is missing"),
    ],
)
def test_manifest_and_files_that_do_not_belong_together_are_left_out(run: Path, caplog, damage, message: str):
    damage(run / "checkpoint-3")
    assert find(run) == str(run / "checkpoint-2")
    assert "checkpoint-3 is skipped: " in caplog.text
    assert message in caplog.text


def test_checkpoint_that_is_a_link_and_notes_beside_its_files_are_fine(run: Path, tmp_path: Path):
    shutil.move(run / "checkpoint-3", tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "notes.txt").write_text("")
    (run / "checkpoint-3").symlink_to(tmp_path / "elsewhere")
    assert find(run) == str(run / "checkpoint-3")


def test_rotation_reads_no_weights(run: Path, monkeypatch):
    monkeypatch.setattr("deit_hf.atomic_files.sha256_of", lambda path: pytest.fail(f"{path} was read"))
    rotate(run, limit=1, keep={"checkpoint-3"})
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-3"]


# ---- the best checkpoint ----


@pytest.mark.parametrize("name", ["model.safetensors", "ema/model.safetensors", None])
def test_damaged_best_checkpoint_is_not_loaded_at_the_end(tmp_path, rows, caplog, monkeypatch, name):
    options = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 10.0}
    trainer = make_trainer(tmp_path / "run", rows, **options, metric_for_best_model="loss")
    save = trainer._save_checkpoint

    def save_and_damage(*args) -> None:
        save(*args)
        if trainer.state.global_step == 3 and name is not None:
            flip_a_bit(tmp_path / "run" / "checkpoint-1" / name)

    monkeypatch.setattr(trainer, "_save_checkpoint", save_and_damage)
    trainer.train()
    step = 1 if name is None else 3  # with such a learning rate each step is worse
    for folder, model in (("", trainer.model), ("ema", trainer.ema.model)):
        expected = load_file(tmp_path / "run" / f"checkpoint-{step}" / folder / "model.safetensors")
        assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    warned = re.search(rf"checkpoint-1 \(loss .*\) cannot be loaded: {name} is damaged.*the last step, 3", caplog.text)
    assert (warned is not None) == (name is not None)
    assert (trainer.state.best_model_checkpoint is None) == (name is not None)


# ---- a checkpoint that is used as a model ----


@pytest.mark.parametrize("folder", ["", "ema"])
def test_damaged_weights_of_a_checkpoint_are_no_model_and_no_teacher(run: Path, folder: str):
    config = DeiTConfig(**CONFIG, intermediate_size=40, num_labels=5)
    damaged, sound = run / "checkpoint-3" / folder, run / "checkpoint-2" / folder
    flip_a_bit(damaged / "model.safetensors")
    for load in (load_classifier, lambda source: Teacher.from_pretrained(source, student_config=config)):
        with pytest.raises(ValueError, match="checkpoint-3.*` is not used: .*model.safetensors is damaged"):
            load(str(damaged))
        load(str(sound))


# ---- several processes ----

LOOK = """
import sys
import deit_hf.atomic_files as manifest
from deit_hf import DistillationArguments
from deit_hf.reliability.checkpoints import find_checkpoint

files, sha256_of = [], manifest.sha256_of
manifest.sha256_of = lambda path: files.append(path) or sha256_of(path)
args = DistillationArguments(sys.argv[1], report_to="none", use_cpu=True)
found = find_checkpoint(args)
args.resume_from_checkpoint = f"{sys.argv[1]}/checkpoint-3"
try:
    find_checkpoint(args)
except ValueError as error:
    found = f"{found} {'optimizer.pt is damaged' in str(error)}"
print(f"process {args.process_index}: {found} {len(files) > 0}\\n", end="", flush=True)
"""


@pytest.mark.slow
def test_one_of_two_processes_reads_and_both_get_its_answer(run: Path, tmp_path: Path):
    flip_a_bit(run / "checkpoint-3" / "optimizer.pt")
    (tmp_path / "look.py").write_text(LOOK)
    result = processes.run(tmp_path, 2, str(tmp_path / "look.py"), str(run))
    lines = sorted(line for line in result.stdout.splitlines() if line.startswith("process"))
    assert lines == [f"process 0: {run}/checkpoint-2 True True", f"process 1: {run}/checkpoint-2 True False"]
