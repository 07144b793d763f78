"""The views of a run are compared with those for which the answers were stored."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from deit_hf.distillation.answer_format import AnswerFormat, answer_rows
from deit_hf.distillation.epoch_writer import EpochWriter
from deit_hf.distillation.teacher_cache import AnswerStore
from deit_hf.distillation.view_checksums import BlockSums, ViewCheck, library_versions, view_checksum

VIEWS = torch.randint(0, 256, (150, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
CHECKSUMS = [view_checksum(view, position) for position, view in enumerate(VIEWS)]


@pytest.fixture
def store(tmp_path: Path) -> AnswerStore:
    """A store for VIEWS."""
    made = AnswerFormat("hard", num_classes=5, num_views=150)
    store = AnswerStore.create(tmp_path, made, {}, {"versions": {**library_versions(), "timm": "0.9"}})
    writer, sums = EpochWriter(store, 0), BlockSums(150)
    for start in range(0, 150, 40):
        for block, checksum in sums.add(range(start, min(start + 40, 150)), CHECKSUMS[start : start + 40]).items():
            places = made.positions(block)
            writer.write(block, answer_rows(torch.zeros(len(places), 5), made), checksum)
    writer.finish()
    return store


def test_checksum_depends_on_pixels_and_position_only():
    view = VIEWS[0]
    assert view_checksum(view, 9) == zlib.crc32(view.numpy().tobytes(), 9)
    assert view_checksum(view, 9) == view_checksum(view.numpy(), 9)
    assert view_checksum(view.transpose(1, 2).contiguous().transpose(1, 2), 9) == view_checksum(view, 9)
    assert len({view_checksum(view, 9), view_checksum(view, 8), view_checksum(view.flip(0), 9)}) == 3


def test_stored_sum_of_a_block_is_that_of_its_views(store: AnswerStore):
    sums = [sum(CHECKSUMS[start : start + 64]) % 2**32 for start in (0, 64, 128)]
    assert store.view_checksums(0).tolist() == sums


@pytest.mark.parametrize("size", [1, 7, 64, 100, 150])
def test_equal_views_pass_however_batches_cut_blocks(store: AnswerStore, size: int):
    check = ViewCheck(store)
    for start in range(0, 150, size):
        check.add(0, torch.arange(start, min(start + size, 150)), torch.tensor(CHECKSUMS[start : start + size]))
    assert check.compared == 3


def test_run_that_resumes_within_a_block_compares_the_others(store: AnswerStore):
    check = ViewCheck(store)
    check.add(0, range(30, 150), CHECKSUMS[30:])
    assert check.compared == 2
    check.add(0, range(40), CHECKSUMS[:40])  # samplers repeat views to fill the last batch
    assert check.compared == 3


def test_repeated_position_counts_once(store: AnswerStore):
    check = ViewCheck(store)
    for positions in ([*range(30), 4, 5], range(20, 64)):
        check.add(0, positions, [CHECKSUMS[position] for position in positions])
    assert check.compared == 1


@pytest.mark.parametrize("position", [0, 70, 149])
def test_a_changed_pixel_is_found(store: AnswerStore, position: int):
    changed = VIEWS.clone()
    changed[position, 1, 2, 3] ^= 1
    checksums = [view_checksum(view, place) for place, view in enumerate(changed)]
    first = position // 64 * 64
    message = f"positions {first} to {min(first + 63, 149)} of epoch 0 are not those .*timm 0.9 and [1-9].*; use the"
    with pytest.raises(ValueError, match=message) as error:
        ViewCheck(store).add(0, range(150), checksums)
    assert "\n" not in str(error.value)


def test_damaged_checksum_of_views_is_damage_of_the_store(store: AnswerStore):
    path = store.directory / "epoch-0000.safetensors"
    content = load_file(path)
    content["view_checksums"][1] ^= 1
    save_file(content, path, metadata=store.metadata(0))
    with pytest.raises(ValueError, match="damaged in the block of positions 64 to 127"):
        ViewCheck(store).add(0, range(150), CHECKSUMS)


def test_two_exchanged_views_are_found(store: AnswerStore):
    swapped = VIEWS[[1, 0, *range(2, 150)]]
    with pytest.raises(ValueError, match="positions 0 to 63"):
        ViewCheck(store).add(0, range(150), [view_checksum(view, place) for place, view in enumerate(swapped)])


def test_an_epoch_does_not_complete_the_blocks_of_another(store: AnswerStore):
    check = ViewCheck(store)
    check.add(0, range(63), CHECKSUMS[:63])
    with pytest.raises(FileNotFoundError, match="no answers for epoch 1"):
        check.add(1, [63], [0])
    check = ViewCheck(store)
    check.add(0, range(100, 150), CHECKSUMS[100:])
    check._epoch = None  # as after another epoch
    check.add(0, range(64, 100), CHECKSUMS[64:100])
    assert check.compared == 1  # only the last block


def test_store_without_versions_can_be_compared(store: AnswerStore):
    store.facts = {}
    with pytest.raises(ValueError, match="torch unknown and [0-9]"):
        ViewCheck(store).add(0, range(150), np.zeros(150, int))
