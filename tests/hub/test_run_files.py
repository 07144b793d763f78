"""A push uploads only the files that a run writes, and no other files in the directory."""

import json
import pickle
from pathlib import Path

import pytest

from deit_hf.hub.run_files import files_to_leave, files_to_push, read_json

MODEL = ["config.json", "model.safetensors", "preprocessor_config.json"]
RUN = [*MODEL, "README.md", "recipe.yaml", "trainer_state.json", "training_curves.png"]
RUN += ["train_results.json", "eval_results.json", "test_results.json", "all_results.json"]
RUN += [f"ema/{name}" for name in (*MODEL, "averaging.json")]
SECRETS = [".env", "id_rsa", "secrets.json", ".netrc", "wandb/key.json", "ema/.env", "ema/notes.txt", "data.csv"]
OTHERS = [
    "training_args.bin",
    "checkpoint-5/model.safetensors",
    "bad_images.jsonl",
    "training_views.png",
    "runs/events.1",
    "old.safetensors",
]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A finished run with averaged weights, and with other files in its directory."""
    for name in (*RUN, *SECRETS, *OTHERS):
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return tmp_path / "run"


def test_what_a_run_writes_goes_and_nothing_else(directory: Path):
    assert sorted(files_to_push(directory)) == sorted(RUN)


def test_what_stays_is_named_and_a_folder_stands_for_its_files(directory: Path):
    left = files_to_leave(directory, files_to_push(directory))
    folders = ["checkpoint-5/", "runs/", "wandb/"]
    files = [name for name in (*SECRETS, *OTHERS) if "/" not in name or name.startswith("ema/")]
    assert sorted(left) == sorted([*folders, *files])


def test_weights_in_parts_go_with_their_index(directory: Path):
    (directory / "model.safetensors").unlink()
    parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name in parts:
        (directory / name).write_text("")
    index = {"weight_map": {"a": parts[1], "b": parts[0], "c": parts[1]}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    expected = [name for name in RUN if name != "model.safetensors"] + parts + ["model.safetensors.index.json"]
    assert sorted(files_to_push(directory)) == sorted(expected)


@pytest.mark.parametrize("part", [".env", "../outside.safetensors", "ema/model.safetensors"])
def test_index_that_names_anything_else_is_refused(directory: Path, part: str):
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": part}}))
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json` is damaged, or does not name shards"):
        files_to_push(directory)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 1}'])
def test_damaged_index_is_named(directory: Path, text: str):
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json` is damaged"):
        files_to_push(directory)


def replace_by_link(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


def test_link_that_leads_out_never_goes(directory: Path, tmp_path: Path):
    (tmp_path / "private.md").write_text("secret")
    replace_by_link(directory / "README.md", tmp_path / "private.md")
    names = files_to_push(directory)
    assert "README.md" not in names
    assert "README.md" in files_to_leave(directory, names)
    replace_by_link(directory / "model.safetensors", tmp_path / "private.md")
    with pytest.raises(ValueError, match="`model.safetensors` in .* links to a file outside it; replace the link"):
        files_to_push(directory)


def test_folder_of_averages_that_leads_out_never_goes(directory: Path, tmp_path: Path):
    (directory / "ema").rename(tmp_path / "elsewhere")
    (directory / "ema").symlink_to(tmp_path / "elsewhere")
    assert [name for name in files_to_push(directory) if name.startswith("ema")] == []


def test_link_to_a_file_inside_goes_also_by_way_of_a_link_to_the_directory(directory: Path, tmp_path: Path):
    replace_by_link(directory / "model.safetensors", directory / "checkpoint-5" / "model.safetensors")
    (tmp_path / "link").symlink_to(directory)
    assert sorted(files_to_push(tmp_path / "link")) == sorted(RUN)


def test_further_files_go_only_by_their_names(directory: Path):
    assert sorted(files_to_push(directory, ["data.csv", "./wandb/key.json"])) == sorted(
        [*RUN, "data.csv", "wandb/key.json"]
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("*", r"`\*` in `include` does not exist in"),
        ("nothing.txt", "`nothing.txt` in `include` does not exist in"),
        ("wandb", "`wandb` is a directory; include its files by name"),
        ("../outside.txt", "`../outside.txt` is not in"),
        ("/etc/hosts", "`/etc/hosts` is not in"),
        ("training_args.bin", "`training_args.bin` is a pickle, which is never pushed"),
        ("renamed.txt", "`renamed.txt` is a pickle, which is never pushed"),
        ("checkpoint-5/model.safetensors", "is part of a checkpoint, which is never pushed"),
        ("link.txt", "`link.txt` in .* links to a file outside it"),
    ],
)
def test_further_files_that_may_not_go_are_refused_by_name(directory: Path, tmp_path: Path, name: str, message: str):
    (tmp_path / "outside.txt").write_text("secret")
    (directory / "link.txt").symlink_to(tmp_path / "outside.txt")
    (directory / "renamed.txt").write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        files_to_push(directory, [name])


def test_damaged_json_is_named(tmp_path: Path):
    (tmp_path / "train_results.json").write_text('{"train_loss": ')
    with pytest.raises(ValueError, match=r"`.*train_results.json` is damaged \(Expecting value"):
        read_json(tmp_path / "train_results.json")
    assert read_json(tmp_path / "none.json") == {}
