"""The order of view keys: global, a function of (seed, epoch), and complete for every world size."""

import itertools
from collections import Counter

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, Dataset

from deit_hf.data.sampling import ViewSampler


def make_sampler(num_images: int, step_size: int, num_repeats: int = 1, seed: int = 0, epoch: int = 0) -> ViewSampler:
    sampler = ViewSampler(num_images, step_size=step_size, num_repeats=num_repeats, seed=seed)
    sampler.set_epoch(epoch)
    return sampler


def test_without_repeats_an_epoch_is_a_shuffle_of_all_images():
    keys = list(make_sampler(12, 4, epoch=3))
    assert sorted(key.sample for key in keys) == list(range(12))
    assert [key.sample for key in keys] != list(range(12))
    assert [key.position for key in keys] == list(range(12))
    assert {(key.epoch, key.repeat) for key in keys} == {(3, 0)}


def test_order_depends_on_seed_and_epoch_only():
    order = list(make_sampler(50, 10, seed=1, epoch=2))
    assert order == list(make_sampler(50, 10, seed=1, epoch=2))
    assert order != list(make_sampler(50, 10, seed=2, epoch=2))
    assert [key.sample for key in order] != [key.sample for key in make_sampler(50, 10, seed=1, epoch=3)]


def test_three_repeats_see_a_third_of_the_images_three_times():
    keys = list(make_sampler(90, 30, num_repeats=3))
    assert len(keys) == 90
    assert Counter(Counter(key.sample for key in keys).values()) == {3: 30}
    assert all({key.repeat for key in keys if key.sample == index} == {0, 1, 2} for index in {k.sample for k in keys})


def test_repeats_share_a_step_but_are_never_partners():
    keys = list(make_sampler(96, 24, num_repeats=3))
    for start in range(0, 96, 24):
        step = keys[start : start + 24]
        assert len({key.sample for key in step}) == 8
        assert all(step[i].sample != step[i + 1].sample for i in range(0, 24, 2))


def spread_by_repeats(num_images: int, step_size: int, num_repeats: int, seed: int, epoch: int) -> list[tuple]:
    """(sample, repeat) of the views, image after image; within a step, all first views come before all second ones."""
    order = np.random.default_rng((seed, 2, epoch)).permutation(num_images).tolist()
    views = []
    for place in range(max(1, num_images // step_size) * step_size):
        turn, number = divmod(place // num_repeats, num_images)
        views.append((order[number], place % num_repeats + turn * num_repeats))
    steps = [views[start : start + step_size] for start in range(0, len(views), step_size)]
    return [view for step in steps for view in sorted(step, key=lambda view: view[1])]


def own_partners(views: list[tuple]) -> list[int]:
    """Positions whose view is mixed with another view of the same image."""
    return [i for i in range(0, len(views) - 1, 2) if views[i][0] == views[i + 1][0]]


@pytest.mark.parametrize("num_repeats", range(1, 7))
def test_no_image_is_its_own_partner_and_right_steps_are_as_they_were(num_repeats: int):
    """Compares all steps of up to 20 views and datasets of up to 40 images with the order by repeats alone."""
    for step_size, num_images in itertools.product(range(1, 21), range(1, 41)):
        epoch, case = (step_size + num_images) % 3, (step_size, num_images)
        sampler = make_sampler(num_images, step_size, num_repeats, seed=7, epoch=epoch)
        views = [(key.sample, key.repeat) for key in sampler]
        plain = spread_by_repeats(num_images, step_size, num_repeats, 7, epoch)
        assert len(set(views)) == len(views) == len(plain), case
        assert sampler.num_unique_images == len({sample for sample, _ in views}), case
        if step_size % 2 or num_images == 1:  # nothing is mixed, or there is no other image
            assert views == plain, case
            continue
        assert own_partners(views) == [], case
        if step_size >= 2 * num_repeats and num_images > 2:
            for start in range(0, len(plain), step_size):
                step = slice(start, start + step_size)
                assert sorted(views[step]) == sorted(plain[step]), case
                assert views[step] == plain[step] or own_partners(plain[step]), case


def test_small_steps_take_two_images_in_turn():
    # otherwise, with a batch size of four, a third of the views would be mixed with another view of the same image
    views = [(key.sample, key.repeat) for key in make_sampler(12, 4, num_repeats=3)]
    a, b, c, d = dict.fromkeys(sample for sample, _ in views)
    expected = [(a, 0), (b, 0), (a, 1), (b, 1), (a, 2), (b, 2), (c, 0), (d, 0), (c, 1), (d, 1), (c, 2), (d, 2)]
    assert sorted(views[4:8]) == sorted(expected[4:8])
    assert [views[:4], views[8:]] == [expected[:4], expected[8:]]


def test_images_at_the_border_of_two_steps_are_as_many_as_the_docstring_says():
    steps: dict[int, set[int]] = {}
    for key in make_sampler(10_300, 1024, num_repeats=3):
        steps.setdefault(key.sample, set()).add(key.position // 1024)
    num_borders = 9  # between ten steps; every third border is between two images
    assert sum(len(found) == 2 for found in steps.values()) == num_borders - num_borders // 3
    num_borders = 1_281_167 // 1024 - 1  # of ImageNet
    num_in_two, num_shown = num_borders - num_borders // 3, make_sampler(1_281_167, 1024, 3).num_unique_images
    docstring = " ".join(str(ViewSampler.__doc__).split())
    assert f"step size 1024 and 3 repeats, {num_in_two} of the {num_shown:,} images" in docstring


@given(
    num_images=st.integers(1, 400),
    step_size=st.integers(1, 64).map(lambda n: 2 * n),
    num_repeats=st.integers(1, 4),
    epoch=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_any_dataset_gives_whole_steps_of_distinct_views(
    num_images: int, step_size: int, num_repeats: int, epoch: int
):
    sampler = make_sampler(num_images, step_size, num_repeats, epoch=epoch)
    keys = list(sampler)
    assert len(keys) == len(sampler)
    assert len(keys) % step_size == 0
    assert len(keys) > 0
    assert len({(key.sample, key.repeat) for key in keys}) == len(keys)
    assert sampler.num_unique_images == len({key.sample for key in keys})


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
@pytest.mark.parametrize("num_images", [7, 100, 300])
def test_processes_together_see_each_key_once_in_global_order(world_size: int, num_images: int):
    keys = list(make_sampler(num_images, 16, num_repeats=3))
    ranks = [
        list(
            BatchSamplerShard(BatchSampler(make_sampler(num_images, 16, 3), 16 // world_size, False), world_size, rank)
        )
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    rounds = [batch for batches in zip(*ranks, strict=True) for batch in batches]
    assert [key for batch in rounds for key in batch] == keys


class Keys(Dataset):
    """Returns the key itself."""

    def __getitem__(self, key: tuple) -> tuple:
        return key


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
@pytest.mark.parametrize("num_images", [1, 5, 40, 255, 256, 300])
def test_processes_together_train_on_the_expected_images_however_many_they_are(num_images: int, world_size: int):
    # The official sampler is not used with one process. It rounds down to a multiple of 256, so it yields nothing for
    # fewer images. And Accelerate would split a sampler that selects the share of its rank a second time.
    seen: Counter = Counter()
    for rank in range(world_size):
        loader = DataLoader(
            Keys(),
            sampler=make_sampler(num_images, 16, num_repeats=3, epoch=1),
            batch_size=16 // world_size,
            collate_fn=list,
        )
        shared = prepare_data_loader(loader, num_processes=world_size, process_index=rank, put_on_device=False)
        seen.update(key for batch in shared for key in batch)
    num_views = 16 * max(1, num_images // 16)
    assert sum(seen.values()) == num_views
    assert set(seen.values()) == {1}  # no view twice
    images = Counter(key.sample for key in seen)
    assert len(images) == min(num_images, -(-num_views // 3))
    if num_images >= 16:
        assert sorted(images.values()) == sorted([3] * (num_views // 3) + [num_views % 3] * (num_views % 3 > 0))
    else:  # one step that repeats all images
        assert set(images) == set(range(num_images))
        assert max(images.values()) - min(images.values()) <= 3


@pytest.mark.parametrize(
    ("num_images", "step_size", "num_repeats", "expected"),
    [
        (1000, 100, 1, 1000),
        (1050, 100, 1, 1000),
        (1000, 100, 3, 334),
        (90, 30, 3, 30),
        (4, 100, 3, 4),
        (50, 100, 3, 34),
    ],
)
def test_number_of_images_that_an_epoch_shows(num_images: int, step_size: int, num_repeats: int, expected: int):
    assert make_sampler(num_images, step_size, num_repeats).num_unique_images == expected
