"""Compares mixing with its definition, and with the statistics of timm's Mixup, which the official recipe uses."""

import numpy as np
import pytest
import timm.data.mixup
import torch

from deit_hf.data.mixing import Draw, Mixing, mix_images, mix_targets, swap_partners

SIZE = (32, 32)


def make_mixing(**options) -> Mixing:
    return Mixing(
        **{"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "switch_prob": 0.5, "block_size": 8, "seed": 0, **options}
    )


def test_partners_are_neighbours():
    assert swap_partners(torch.arange(6)).tolist() == [1, 0, 3, 2, 5, 4]


def test_mixup_blends_image_and_partner_by_the_kept_share():
    images = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    mixed = mix_images(images, Draw(0.75))
    torch.testing.assert_close(mixed[0], torch.full((3, 4, 4), 0.25))
    torch.testing.assert_close(mixed[1], torch.full((3, 4, 4), 0.75))


def test_cutmix_pastes_only_the_box_and_leaves_the_input_alone():
    images = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    mixed = mix_images(images, Draw(0.75, (0, 2, 1, 3)))
    assert mixed[0, 0].tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert images[0].sum() == 0


def test_targets_mix_smoothed_labels_as_timm_does():
    labels, ratio = torch.tensor([1, 3]), 0.3
    ours = mix_targets(labels, torch.full((2,), ratio), num_classes=5, smoothing=0.1)
    theirs = timm.data.mixup.mixup_target(labels, 5, lam=ratio, smoothing=0.1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def test_unmixed_targets_are_smoothed_one_hot_rows():
    targets = mix_targets(torch.tensor([2]), None, num_classes=4, smoothing=0.2)
    torch.testing.assert_close(targets, torch.tensor([[0.05, 0.05, 0.85, 0.05]]))


def test_draws_are_a_function_of_seed_epoch_and_block():
    mixing = make_mixing()
    assert mixing.draw(3, 5, SIZE) == make_mixing().draw(3, 5, SIZE)
    others = [mixing.draw(3, 6, SIZE), mixing.draw(4, 5, SIZE), make_mixing(seed=1).draw(3, 5, SIZE)]
    assert all(other != mixing.draw(3, 5, SIZE) for other in others)


@pytest.mark.parametrize("batch_size", [2, 4, 12])
def test_mixing_does_not_depend_on_how_the_epoch_is_cut(batch_size: int):
    images = torch.randn(24, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    whole, ratios = make_mixing()(images, 1, range(24))
    parts = [make_mixing()(images[i : i + batch_size], 1, range(i, i + batch_size)) for i in range(0, 24, batch_size)]
    assert torch.equal(torch.cat([part for part, _ in parts]), whole)
    assert torch.equal(torch.cat([part for _, part in parts]), ratios)
    assert len(set(ratios.tolist())) == 3  # one draw for each block of eight


def test_kept_share_is_the_share_of_pixels_that_cutmix_leaves():
    mixing = make_mixing(mixup_alpha=0.0)
    for block in range(50):
        draw = mixing.draw(0, block, SIZE)
        mixed = mix_images(torch.stack([torch.zeros(1, *SIZE), torch.ones(1, *SIZE)]), draw)
        assert mixed[0].mean().item() == pytest.approx(1 - draw.ratio, abs=1e-6)


def timm_draws(num_draws: int, **options) -> list[Draw]:
    """Draws of timm's Mixup, derived from what it does to pairs of a black and a white image and their targets."""
    mixup = timm.data.Mixup(label_smoothing=0.0, num_classes=2, **options)
    np.random.seed(0)
    draws = []
    for _ in range(num_draws):
        images = torch.stack([torch.zeros(1, *SIZE), torch.ones(1, *SIZE)])
        mixed, targets = mixup(images, torch.tensor([0, 1]))
        ratio, pasted = targets[0, 0].item(), mixed[0, 0] == 1
        if ((mixed[0] == 0) | (mixed[0] == 1)).all():
            rows, columns = pasted.any(dim=1).nonzero().flatten(), pasted.any(dim=0).nonzero().flatten()
            box = (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) if len(rows) else (0, 0, 0, 0)
            draws.append(Draw(ratio, tuple(int(side) for side in box)))
        else:
            draws.append(Draw(ratio))
    return draws


def largest_gap(ours: list[float], theirs: list[float]) -> float:
    """Kolmogorov-Smirnov distance of two samples."""
    values = np.sort(np.concatenate([ours, theirs]))
    shares = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (ours, theirs)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_ratios_and_boxes_are_distributed_as_in_timm(kind: str):
    # the distance is larger for another Beta, for a ratio without correction at the border, and for boxes that never
    # reach the border
    alphas = (
        {"mixup_alpha": 0.8, "cutmix_alpha": 0.0} if kind == "mixup" else {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}
    )
    theirs = timm_draws(3000, **alphas)
    ours = [make_mixing(**alphas).draw(0, block, SIZE) for block in range(3000)]
    allowed = 1.95 * (2 / 3000) ** 0.5  # two samples of one distribution differ more in 1 of 1000 cases
    assert largest_gap([draw.ratio for draw in ours], [draw.ratio for draw in theirs]) < allowed
    if kind == "cutmix":
        boxes = [np.array([draw.box for draw in draws if draw.ratio < 1]) for draws in (ours, theirs)]
        for side in range(4):
            assert largest_gap(boxes[0][:, side], boxes[1][:, side]) < allowed


class Dealt:
    """A random generator that always returns the same ratio, and the row and the column of a given box centre."""

    def __init__(self, ratio: float, center: tuple[int, int]):
        self.ratio, self.center = ratio, iter(center)

    def beta(self, a: float, b: float) -> float:
        return self.ratio

    def integers(self, high: int) -> int:
        return next(self.center)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.37, 0.9, 1.0])
@pytest.mark.parametrize("center", [(0, 0), (5, 12), (23, 31), (23, 0)])
def test_box_is_timms_for_the_same_ratio_and_centre(ratio: float, center: tuple[int, int], monkeypatch):
    # statistics do not detect a box that is one pixel off or has its sides swapped
    dealt, timms = Dealt(ratio, center), Dealt(ratio, center)
    monkeypatch.setattr(np.random, "default_rng", lambda _: dealt)
    monkeypatch.setattr(np.random, "randint", lambda low, high, size: timms.integers(high))
    draw = make_mixing(mixup_alpha=0.0).draw(0, 0, (24, 32))
    box, kept = timm.data.mixup.cutmix_bbox_and_lam((24, 32), ratio)
    assert draw.box == box
    assert draw.ratio == pytest.approx(kept)


def test_cutmix_is_as_frequent_as_in_timm():
    ours = [make_mixing(switch_prob=0.3).draw(0, block, SIZE) for block in range(3000)]
    theirs = timm_draws(3000, mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.3)
    for draws in (ours, theirs):
        assert np.mean([draw.box is not None for draw in draws]) == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0)], ids=["mixup", "cutmix"])
def test_a_pair_is_mixed_as_timm_does_with_the_same_draw(alphas: tuple[float, float], seed: int):
    # in a batch of two, the neighbour is also the mirror image, so both must agree on every pixel and ratio
    options = {"mixup_alpha": alphas[0], "cutmix_alpha": alphas[1]}
    images, labels = torch.rand(2, 3, *SIZE), torch.tensor([1, 3])
    np.random.seed(0)
    draw = timm_draws(seed + 1, **options)[-1]
    np.random.seed(0)
    mixup = timm.data.Mixup(label_smoothing=0.1, num_classes=5, **options)
    for _ in range(seed + 1):
        expected, expected_targets = mixup(images.clone(), labels)
    torch.testing.assert_close(mix_images(images, draw), expected, rtol=0, atol=1e-6)
    targets = mix_targets(labels, torch.full((2,), draw.ratio), num_classes=5, smoothing=0.1)
    torch.testing.assert_close(targets, expected_targets, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("options", "is_box"), [({"cutmix_alpha": 0.0}, False), ({"mixup_alpha": 0.0}, True)])
def test_one_kind_alone_is_always_used(options: dict, is_box: bool):
    mixing = make_mixing(**options)
    assert {mixing.draw(0, block, SIZE).box is not None for block in range(20)} == {is_box}
