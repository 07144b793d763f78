"""Reading a store: what was written comes back, and every damage is found and named in one line."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from support.answer_stores import FACTS, FINGERPRINT, HARD, SOFT, filled_store, flip, logits_of

from deit_hf.distillation.answer_format import AnswerFormat, answer_rows
from deit_hf.distillation.losses import TopLogits
from deit_hf.distillation.teacher_cache import AnswerStore, epoch_name


def read_all(store: AnswerStore, epoch: int = 0) -> None:
    store.rows(epoch, range(store.format.num_views))


def test_hard_answers_come_back(tmp_path: Path):
    filled_store(tmp_path, HARD, epochs=2)
    store = AnswerStore.read(tmp_path)
    assert (store.format, store.fingerprint, store.facts) == (HARD, FINGERPRINT, FACTS)
    assert store.finished_epochs() == [0, 1]
    for epoch in (1, 0):
        expected = logits_of(HARD, epoch).argmax(dim=-1)
        for positions in (range(150), range(60, 70), range(149, 150), [5], [140, 141, 3, 4, 64], torch.arange(63, 65)):
            assert torch.equal(store.rows(epoch, positions), expected[torch.as_tensor(list(positions))])
    assert store.rows(0, []).tolist() == []
    assert store.view_checksums(1).tolist() == [7, 8, 9]


@pytest.mark.parametrize("num_classes", [20, 1000])
def test_soft_answers_come_back(tmp_path: Path, num_classes: int):
    made = AnswerFormat("soft", num_classes, num_views=150, temperature=3.0)
    filled_store(tmp_path, made)
    top = AnswerStore.read(tmp_path).rows(0, range(50, 140))
    assert isinstance(top, TopLogits)
    expected = answer_rows(logits_of(made)[50:140], made)
    assert np.array_equal(top.indices.numpy(), expected["indices"])
    assert top.indices.dtype == torch.int64
    assert np.array_equal(top.logits.numpy(), expected["logits"])
    assert np.array_equal(top.log_normalizer.numpy(), expected["log_normalizer"])


def test_size_is_the_estimated_one(tmp_path: Path):
    filled_store(tmp_path, SOFT)
    assert 0 < (tmp_path / epoch_name(0)).stat().st_size - SOFT.bytes_per_epoch < 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-0000.safetensors", "store.json"]


def test_fingerprint_that_fits_passes_and_each_difference_is_named(tmp_path: Path):
    store = AnswerStore.read(filled_store(tmp_path).directory)
    store.check(FINGERPRINT)
    store.check({"data_seed": 3, "views": {"image_size": 32, "repeats": 3}})  # a run without the teacher
    wanted = {"data_seed": 4, "views": {"image_size": 224, "repeats": 3}, "bad_images": "replace"}
    with pytest.raises(ValueError, match="stored, then wanted") as error:
        store.check(wanted)
    message = str(error.value)
    assert (
        "`data_seed` was 3 and is 4; `views` (image_size 32, now 224); `bad_images` was None and is replace."
        in message
    )
    assert "\n" not in message


def test_tuples_equal_the_lists_of_the_file(tmp_path: Path):
    AnswerStore.create(tmp_path, HARD, {"mean": (0.5, 0.25)}, {})
    AnswerStore.read(tmp_path).check({"mean": (0.5, 0.25)})


def positions_of_bytes(path: Path, count: int) -> list[int]:
    """Evenly spread places in a file, after its header's length."""
    return np.linspace(8, path.stat().st_size - 1, count).astype(int).tolist()


@pytest.mark.parametrize("answer_format", [HARD, SOFT], ids=["hard", "soft"])
def test_each_flipped_byte_is_found_when_it_is_read(tmp_path: Path, answer_format: AnswerFormat):
    filled_store(tmp_path / "store", answer_format)
    path = tmp_path / "store" / epoch_name(0)
    shutil.copy(path, tmp_path / "good")
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    padding = path.read_bytes()[:header].rstrip(b" ")
    for place in positions_of_bytes(path, 100):
        if len(padding) <= place < header:
            continue
        flip(path, place)
        with pytest.raises(ValueError, match="epoch-0000.safetensors` .*delete that file, and run deit-hf") as error:
            read_all(AnswerStore.read(tmp_path / "store"))
        assert "\n" not in str(error.value)
        shutil.copy(tmp_path / "good", path)
    read_all(AnswerStore.read(tmp_path / "store"))


def test_damage_is_found_when_its_block_is_read_and_names_it(tmp_path: Path):
    store = filled_store(tmp_path)
    path = tmp_path / epoch_name(0)
    content = load_file(path)
    content["answers"][100] ^= 1
    save_file(content, path, metadata=store.metadata(0))
    store = AnswerStore.read(tmp_path)
    store.rows(0, range(64))
    store.rows(0, range(128, 150))
    for _ in range(2):
        with pytest.raises(ValueError, match="damaged in the block of positions 64 to 127"):
            store.rows(0, range(60, 66))


def test_blocks_of_another_epoch_are_verified_too(tmp_path: Path):
    store = filled_store(tmp_path, epochs=2)
    flip(tmp_path / epoch_name(1), (tmp_path / epoch_name(1)).stat().st_size - 1)  # its last answer
    read_all(store, 0)
    with pytest.raises(ValueError, match="epoch-0001.safetensors` is damaged in the block of positions 128 to 149"):
        read_all(store, 1)
    read_all(store, 0)


@pytest.mark.parametrize("name", ["view_checksums", "answer_checksums"])
def test_exchanged_blocks_are_found(tmp_path: Path, name: str):
    store = filled_store(tmp_path)
    path = tmp_path / epoch_name(0)
    content = load_file(path)
    content[name][:2] = content[name][[1, 0]]
    save_file(content, path, metadata=store.metadata(0))
    with pytest.raises(ValueError, match="damaged in the block of positions 0 to 63"):
        read_all(AnswerStore.read(tmp_path))


def other_file(path: Path, store: AnswerStore, what: str) -> str:
    """Replaces the file of epoch 1 by a wrong one; returns the expected message."""
    content, metadata = load_file(path), store.metadata(1)
    if what == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
        return "is truncated or damaged"
    if what == "empty":
        path.write_bytes(b"")
        return "is truncated or damaged"
    if what == "of another epoch":
        shutil.copy(path.with_name(epoch_name(0)), path)
        return "is not of this store and epoch: its epoch is 0, not 1"
    if what == "of another recipe":
        other = AnswerStore.create(path.parent / "other", HARD, {"data_seed": 4}, {})
        save_file(content, path, metadata=other.metadata(1))
        return "its sha256 is "
    if what == "other number of rows":
        content = {**content, "answers": content["answers"][:-1]}
        message = r"answers is U16 \(149,\), not U16 \(150,\)"
    elif what == "other type":
        content = {**content, "answers": content["answers"].astype(np.int64)}
        message = r"answers is I64 \(150,\), not U16"
    else:
        content = {name: column for name, column in content.items() if name != "answers"}
        message = "it has no answers"
    save_file(content, path, metadata=metadata)
    return message


@pytest.mark.parametrize(
    "what",
    [
        "truncated",
        "empty",
        "of another epoch",
        "of another recipe",
        "other number of rows",
        "other type",
        "no answers",
    ],
)
def test_wrong_file_is_one_line(tmp_path: Path, what: str):
    store = filled_store(tmp_path, epochs=2)
    message = other_file(tmp_path / epoch_name(1), store, what)
    with pytest.raises(ValueError, match=f"epoch-0001.safetensors` .*{message}.*; delete that file") as error:
        AnswerStore.read(tmp_path).rows(1, [0])
    assert "\n" not in str(error.value)


def test_missing_epoch_names_those_that_there_are(tmp_path: Path):
    store = filled_store(tmp_path, epochs=4)
    (tmp_path / epoch_name(2)).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no answers for epoch 7 \(finished epochs, from 0: 0 to 1, 3\); run "
    ):
        store.rows(7, [0])
    (tmp_path / "epoch-0007.unfinished.safetensors").touch()
    with pytest.raises(FileNotFoundError, match="only a part of the answers for epoch 7"):
        store.rows(7, [0])
    for path in tmp_path.glob("epoch-*.safetensors"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no answers for epoch 0 \(finished epochs, from 0: none\)"):
        AnswerStore.read(tmp_path).rows(0, [0])


def test_position_outside_of_the_epoch_is_refused(tmp_path: Path):
    store = filled_store(tmp_path)
    for positions in ([150], [-1]):
        with pytest.raises(IndexError, match="an epoch of .* has 150 views"):
            store.rows(0, positions)


def test_directory_that_is_not_a_store_is_refused(tmp_path: Path):
    with pytest.raises(
        FileNotFoundError, match="has no store.json, so it is not a store of teacher answers; fill one"
    ):
        AnswerStore.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent` does not exist, as a store of teacher answers"):
        AnswerStore.read(tmp_path / "absent")


def test_damaged_store_json_is_refused(tmp_path: Path):
    filled_store(tmp_path)
    path = tmp_path / "store.json"
    good = path.read_text(encoding="utf-8")
    damaged = ["", "[]", "{}", good[:-20], good.replace("150", "151"), good.replace("0.829", "0.929")]
    damaged += [good.replace('"data_seed": 3', '"data_seed": 4'), json.dumps({"name": "another program"}), '"text"']
    for text in damaged:
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=re.escape(f"`{path}` is damaged, or not of a store")) as error:
            AnswerStore.read(tmp_path)
        assert "\n" not in str(error.value)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is damaged"):
        AnswerStore.read(tmp_path)
    path.write_text(good.replace('"version": 1', '"version": 2'), encoding="utf-8")
    with pytest.raises(ValueError, match="has format version 2, but this deit_hf reads version 1"):
        AnswerStore.read(tmp_path)
