"""Mixing against its definition, and against the statistics of timm's Mixup, the official recipe's."""

import numpy as np
import pytest
import timm.data.mixup
import torch

from deit_hf.mixing import Draw, Mixing, mix_images, mix_targets, swap_partners

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


def test_ratios_and_kinds_are_distributed_as_in_timm():
    np.random.seed(0)
    mixup = timm.data.Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5)
    theirs = []
    for _ in range(4000):
        ratio, is_cutmix = mixup._params_per_batch()
        theirs.append(timm.data.mixup.cutmix_bbox_and_lam(SIZE, ratio)[1] if is_cutmix else ratio)
    draws = [make_mixing().draw(0, block, SIZE) for block in range(4000)]
    ours = [draw.ratio for draw in draws]
    assert np.mean([draw.box is not None for draw in draws]) == pytest.approx(0.5, abs=0.03)
    quantiles = np.linspace(0.05, 0.95, 19)
    assert np.quantile(ours, quantiles) == pytest.approx(np.quantile(theirs, quantiles), abs=0.04)


@pytest.mark.parametrize(("options", "is_box"), [({"cutmix_alpha": 0.0}, False), ({"mixup_alpha": 0.0}, True)])
def test_one_kind_alone_is_always_used(options: dict, is_box: bool):
    mixing = make_mixing(**options)
    assert {mixing.draw(0, block, SIZE).box is not None for block in range(20)} == {is_box}


def test_both_alphas_zero_turn_mixing_off():
    assert not make_mixing(mixup_alpha=0.0, cutmix_alpha=0.0).is_on
