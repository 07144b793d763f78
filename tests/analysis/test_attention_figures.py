"""What the figures of attention show: the view of the model, colours over it, and files that are the same again."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from deit_hf.analysis import attention_figures
from deit_hf.analysis.attention import PatchFilters
from deit_hf.analysis.attention_figures import (
    SeenImage,
    check_matplotlib_installed,
    overlay,
    plot_filters,
    plot_positions,
    seen_image,
)
from deit_hf.data.transforms import evaluation_view
from deit_hf.model.image_processing_deit import make_processor


def grey(height: int, width: int, patch_size: tuple[int, int]) -> SeenImage:
    return SeenImage(np.full((height, width, 3), 100, dtype=np.uint8), patch_size)


def test_the_image_is_the_crop_that_the_model_sees():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 50, 3), dtype=np.uint8)
    processor = make_processor(32)  # the short side has this size already, and the centre is cut out
    seen = seen_image(evaluation_view(processor)(PIL.Image.fromarray(pixels)), processor, (8, 8))
    assert np.array_equal(seen.view, pixels[:, 9:41])


def test_attention_is_brightest_at_its_patch_and_pixels_beyond_the_last_patch_are_not_coloured():
    values = torch.zeros(2, 3)
    values[1, 2] = 0.4
    drawn = overlay(grey(300, 420, (140, 130)), values).astype(int)  # patches cover 280 x 390 pixels
    assert drawn.shape == (300, 420, 3)
    assert drawn[210, 325].sum() == drawn.sum(axis=2).max()  # the centre of the patch
    assert drawn[210, 325].sum() > drawn[70, 65].sum() + 100
    assert np.array_equal(drawn[290, 100], drawn[70, 65])
    assert np.array_equal(drawn[100, 410], drawn[70, 65])


def test_a_difference_is_red_for_the_class_token_blue_for_the_other_and_grey_where_they_agree():
    drawn = overlay(grey(300, 900, (300, 300)), torch.tensor([[0.3, 0.0, -0.3]]), is_difference=True).astype(int)
    left, middle, right = drawn[150, 100], drawn[150, 450], drawn[150, 800]
    assert left[0] > left[2] + 50
    assert right[2] > right[0] + 50
    assert list(middle) == [100, 100, 100]
    nearly_equal = overlay(grey(300, 900, (300, 300)), torch.tensor([[1e-4, 0.0, -1e-4]]), is_difference=True)
    assert np.abs(nearly_equal.astype(int) - 100).max() < 5


def test_a_small_image_is_enlarged_by_a_whole_number():
    assert overlay(grey(16, 20, (8, 10)), torch.ones(2, 2)).shape == (256, 320, 3)


def test_filters_of_one_channel_are_grey_and_keep_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention_figures, "DPI", 40)
    plot_filters(PatchFilters(torch.tensor([[[[1.0, -1.0]]]]), None), tmp_path / "filters.png")
    with PIL.Image.open(tmp_path / "filters.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    row = pixels[pixels.shape[0] * 2 // 3]
    assert list(row[len(row) // 4]) == [255] * 3
    assert list(row[3 * len(row) // 4]) == [0] * 3


def test_each_filter_is_at_its_place_in_rows_of_seven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention_figures, "DPI", 40)
    filters = torch.full((14, 1, 2, 2), -1.0)
    filters[7] = 1  # the first of the second row
    plot_filters(PatchFilters(filters, None), tmp_path / "filters.png")
    with PIL.Image.open(tmp_path / "filters.png") as image:
        pixels = np.asarray(image.convert("L")).astype(int)
    height, width = pixels.shape
    low, high, left, right = height - width // 14, height - 3 * width // 14, width // 14, 3 * width // 14
    assert [pixels[y, x] for y in (low, high) for x in (left, right)] == [255, 0, 0, 0]


def test_a_tall_grid_with_more_rows_than_are_drawn_gives_a_tall_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(attention_figures, "DPI", 40)
    plot_positions(torch.rand(20, 3, 20, 3), tmp_path / "positions.png")
    with PIL.Image.open(tmp_path / "positions.png") as image:
        assert image.height > image.width


def test_missing_matplotlib_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    check_matplotlib_installed()
    monkeypatch.setattr(attention_figures.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'drawing needs matplotlib; install with: pip install "deit_hf\[viz\]"'):
        check_matplotlib_installed()
