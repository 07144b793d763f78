"""Writing an epoch: whatever stops the writer, it continues, and never trusts what it cannot verify."""

import errno
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from support.answer_stores import FINGERPRINT, SOFT, filled_store, flip, logits_of, write_blocks
from support.patience import PATIENCE

from deit_hf.distillation import epoch_writer
from deit_hf.distillation.answer_format import AnswerFormat, answer_rows
from deit_hf.distillation.epoch_writer import EpochWriter
from deit_hf.distillation.teacher_cache import AnswerStore

UNFINISHED, BITMAP = "epoch-0000.unfinished.safetensors", "epoch-0000.blocks"


@pytest.fixture
def store(tmp_path: Path) -> AnswerStore:
    return AnswerStore.create(tmp_path / "store", SOFT, FINGERPRINT, {})


def continued(store: AnswerStore, *, expected: list[int]) -> None:
    """Continues epoch 0 with the expected blocks, and compares the file with one that was written at once."""
    writer = EpochWriter(store, 0)
    assert writer.missing_blocks() == expected
    write_blocks(writer, expected)
    writer.finish()
    at_once = filled_store(store.directory.parent / "at_once", store.format)
    assert store.fingerprint == at_once.fingerprint
    assert sorted(path.name for path in store.directory.iterdir()) == ["epoch-0000.safetensors", "store.json"]
    files = [each.directory / "epoch-0000.safetensors" for each in (store, at_once)]
    assert files[0].read_bytes() == files[1].read_bytes()
    store.rows(0, range(store.format.num_views))


def test_file_has_its_full_size_from_the_beginning(store: AnswerStore):
    writer = EpochWriter(store, 0)
    size = (store.directory / UNFINISHED).stat().st_size
    assert size > SOFT.bytes_per_epoch
    assert store.finished_epochs() == []
    write_blocks(writer, [2, 0, 1])  # in any order
    assert (store.directory / UNFINISHED).stat().st_size == size
    writer.finish()
    assert (store.directory / "epoch-0000.safetensors").stat().st_size == size
    assert store.finished_epochs() == [0]


def test_continues_after_a_flush(store: AnswerStore):
    writer = EpochWriter(store, 0)
    write_blocks(writer, [0, 2])
    writer.flush()
    another = EpochWriter(store, 0)  # as after a kill, with `writer` still open
    assert another.missing_blocks() == [1]
    another.close()
    writer.close()
    continued(store, expected=[1])


def test_blocks_after_the_last_flush_are_written_again(store: AnswerStore):
    writer = EpochWriter(store, 0)
    write_blocks(writer, [1])
    writer.flush()
    write_blocks(writer, [0, 2])
    writer.close()
    continued(store, expected=[0, 2])


def test_nothing_flushed_is_nothing_finished(store: AnswerStore):
    writer = EpochWriter(store, 0)
    write_blocks(writer, [0, 1])
    writer.close()
    continued(store, expected=[0, 1, 2])


@pytest.mark.parametrize("damage", ["flipped", "longer", "shorter", "empty", "of another epoch"])
def test_damaged_bitmap_is_not_trusted(store: AnswerStore, damage: str):
    writer = EpochWriter(store, 0)
    write_blocks(writer, [0])
    writer.flush()
    writer.close()
    bitmap = store.directory / BITMAP
    content = bitmap.read_bytes()
    if damage == "flipped":
        flip(bitmap, 0)
    else:
        others = {"longer": content + b"\xff", "shorter": content[:-1], "empty": b"", "of another epoch": b"\xff" * 99}
        bitmap.write_bytes(others[damage])
    continued(store, expected=[0, 1, 2])


@pytest.mark.parametrize("damage", ["shorter", "empty", "header", "of another recipe"])
def test_damaged_unfinished_file_is_not_trusted(store: AnswerStore, damage: str, caplog: pytest.LogCaptureFixture):
    writer = EpochWriter(store, 0)
    write_blocks(writer, [0])
    writer.flush()
    writer.close()
    unfinished = store.directory / UNFINISHED
    if damage == "header":
        flip(unfinished, 20)
    elif damage == "of another recipe":
        other = AnswerStore.create(store.directory.parent / "other", SOFT, {"data_seed": 4}, {})
        write_blocks(EpochWriter(other, 0), [0, 1, 2])
        unfinished.write_bytes((other.directory / UNFINISHED).read_bytes())
    else:
        unfinished.write_bytes(unfinished.read_bytes()[:-1] if damage == "shorter" else b"")
    continued(store, expected=[0, 1, 2])
    assert "epoch 0 is stored from its beginning" in caplog.text


def test_marked_block_that_is_not_there_is_written_again(store: AnswerStore):
    """As after a loss of power on a disk that writes in another order than it was told."""
    writer = EpochWriter(store, 0)
    write_blocks(writer, [0, 1])
    writer.flush()
    writer.close()
    content = np.fromfile(store.directory / UNFINISHED, np.uint8)
    content[-500:] = 0  # the indices or logits of the last block, and more
    content.tofile(store.directory / UNFINISHED)
    flip(store.directory / UNFINISHED, writer._offsets["logits"] + 64 * 20)  # first byte of block 1
    continued(store, expected=[1, 2])


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads the names of open files")
def test_rows_are_synced_before_their_bits(store: AnswerStore, monkeypatch: pytest.MonkeyPatch):
    writer = EpochWriter(store, 0)
    events, sync = [], os.fsync

    def recorded(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        events.append((name, (store.directory / BITMAP).exists(), bool(store.finished_epochs())))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    write_blocks(writer, [0])
    writer.flush()
    assert events[0] == (UNFINISHED, False, False)
    assert events[1] == (f".unfinished-{BITMAP}", False, False)
    events.clear()
    write_blocks(writer, [1, 2])
    writer.finish()
    assert events[0] == (UNFINISHED, True, False)
    assert events[-1] == (store.directory.name, True, True)  # the final name, and then the bitmap is removed


def test_unfinished_epoch_is_not_finished(store: AnswerStore):
    writer = EpochWriter(store, 0)
    write_blocks(writer, [0, 2])
    with pytest.raises(ValueError, match="epoch 0 lacks 1 blocks, the first is 1"):
        writer.finish()
    write_blocks(writer, [1])
    writer.finish()
    with pytest.raises(ValueError, match="epoch-0000.safetensors` is finished; delete it"):
        EpochWriter(store, 0)


def test_rows_of_another_shape_or_type_are_refused(store: AnswerStore):
    writer = EpochWriter(store, 0)
    good = {name: np.zeros((64, *row), dtype) for name, (dtype, row) in SOFT.answers.items()}
    for wrong in (
        {**good, "logits": good["logits"].astype(np.float32)},
        {**good, "indices": good["indices"][:63]},
        {**good, "log_normalizer": good["log_normalizer"][:, None]},
    ):
        with pytest.raises(ValueError, match="of block 0 is .*, but must be "):
            writer.write(0, wrong, 1)
    with pytest.raises(ValueError, match="of block 2"):
        writer.write(2, good, 1)  # the last block is shorter
    assert writer.missing_blocks() == [0, 1, 2]


def test_full_disk_is_one_line_and_leaves_no_file(store: AnswerStore, monkeypatch: pytest.MonkeyPatch):
    def full(_: dict, path: Path, **options: object) -> None:
        Path(path).write_bytes(b"a part")
        raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(errno.ENOSPC)} (os error 28)")

    monkeypatch.setattr(epoch_writer, "save_file", full)
    with pytest.raises(OSError, match="epoch 0 of the teacher's answers could not be written to .*Free disk") as error:
        EpochWriter(store, 0)
    assert "\n" not in str(error.value)
    assert [path.name for path in store.directory.iterdir()] == ["store.json"]


def in_a_process(function: Callable[[], None]) -> BaseProcess:
    """Starts the function in a forked process, which needs no imports."""
    process = multiprocessing.get_context("fork").Process(target=function, daemon=True)
    process.start()
    return process


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_disk_that_fills_up_is_found_when_an_epoch_begins(store: AnswerStore):
    """RLIMIT_FSIZE stands for the disk: the system refuses to write more, in the middle of a file."""
    import resource

    def begin() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        try:
            EpochWriter(store, 0)
        except OSError as error:
            os._exit(7 if "could not be written to" in str(error) and "File too large" in str(error) else 8)

    process = in_a_process(begin)
    process.join(PATIENCE)
    assert process.exitcode == 7
    assert [path.name for path in store.directory.iterdir()] == ["store.json"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_random_moments_it_ends_with_the_same_answers(tmp_path: Path):
    made = AnswerFormat("hard", num_classes=50, num_views=64 * 500 + 3)
    store = AnswerStore.create(tmp_path / "store", made, FINGERPRINT, {})
    answers = answer_rows(logits_of(made), made)

    def fill() -> None:
        writer = EpochWriter(store, 0)
        for block in writer.missing_blocks():
            places = made.positions(block)
            writer.write(block, {name: each[places.start : places.stop] for name, each in answers.items()}, block)
            if block % 4 == 3:
                writer.flush()
        writer.finish()

    missing, delays = [made.num_blocks], iter(np.random.default_rng(0).uniform(0.02, 0.15, 6))
    for delay in delays:
        process = in_a_process(fill)
        process.join(delay)
        process.kill()
        process.join(PATIENCE)
        if process.exitcode == 0:
            break
        writer = EpochWriter(store, 0)
        missing.append(len(writer.missing_blocks()))
        writer.close()
    assert len(missing) > 1  # it was killed at least once
    assert missing == sorted(missing, reverse=True)  # and lost nothing that was flushed
    if not store.finished_epochs():
        fill()
    stored = AnswerStore.read(store.directory).rows(0, range(made.num_views))
    assert np.array_equal(stored.numpy(), answers["answers"])
