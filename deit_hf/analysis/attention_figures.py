"""Draws what attention.py computes, as PNG files: attention laid over an image, positions, patch filters, cosines.

The figures contain no names of files or classes, so that one font is enough for all of them.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .attention import TOKENS, ImageAttention, PatchFilters, difference, overlap

if TYPE_CHECKING:
    from matplotlib.figure import Figure, FigureBase

WIDTH = 6.6  # inches; the text can be read when a phone shows the figure at its own width
DPI = 150
MAX_COLUMNS = 4  # heads next to each other
MAX_FILTERS_IN_A_ROW = 7
TEXT = 11  # points
TITLE, TITLES = 0.48, 0.68  # inches for one or two lines above, and one below
KEY = "brighter:\nmore attention\n\nred:\nmore of the\nclass token\n\nblue:\nmore of the\ndistillation token"
MAX_MAPS = 14  # positions in a row or column of their figure
MAX_LAYERS = 12  # numbers below the curve of cosines
MIN_CELLS = 14  # in a map of that figure
MIN_PIXELS = 256  # short side of an overlay; smaller views are enlarged
LIMIT = 0.98  # quantile of the patches at which the colours end: a few patches can have most of the attention
SMALLEST_LIMIT = 0.25  # of a difference, as a share of the mean attention to a patch: equal maps stay grey
ATTENTION, DIFFERENCE = "inferno", "RdBu_r"  # colour maps


def check_matplotlib_installed() -> None:
    """Raises an ImportError with the command that installs matplotlib, an optional dependency."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError('drawing needs matplotlib; install with: pip install "deit_hf[viz]"')


class SeenImage(NamedTuple):
    """An image as the model sees it.

    Attributes:
        view: (height, width, 3), uint8: what the image processor leaves of the image.
        patch_size: (height, width) in pixels. Pixels beyond the last whole patch are not seen.
    """

    view: np.ndarray
    patch_size: tuple[int, int]


def seen_image(pixel_values: Tensor, processor: Any, patch_size: tuple[int, int]) -> SeenImage:
    """Turns normalised pixels (3, height, width) back into an image."""
    pixels = pixel_values.float().cpu()
    if processor.do_normalize:
        mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (processor.image_mean, processor.image_std))
        pixels = pixels * std + mean
    scaled = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
    return SeenImage(scaled.permute(1, 2, 0).numpy(), patch_size)


def overlay(seen: SeenImage, values: Tensor, *, is_difference: bool = False) -> np.ndarray:
    """Lays attention over a grey image.

    The colours end at the 98 % quantile of the patches, separately for each map. Between the centres of the patches,
    they are interpolated.

    Args:
        seen: the image.
        values: (rows, columns), 0 or more for each patch; with `is_difference`, as from `difference`.
        is_difference: red where `values` are positive, blue where they are negative, grey where they are 0.

    Returns:
        (height, width, 3), uint8; an image of less than 256 pixels is enlarged by a whole number.
    """
    from matplotlib import colormaps  # an optional dependency

    scale = max(1, -(-MIN_PIXELS // min(seen.view.shape[:2])))
    view = seen.view.repeat(scale, axis=0).repeat(scale, axis=1)
    smallest = SMALLEST_LIMIT / values.numel() if is_difference else torch.finfo(values.dtype).tiny
    limit = values.abs().flatten().quantile(LIMIT).clamp_min(smallest)
    size = [side * patches * scale for side, patches in zip(seen.patch_size, values.shape, strict=True)]
    smooth = F.interpolate((values / limit)[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    rest = [0, view.shape[1] - size[1], 0, view.shape[0] - size[0]]  # pixels beyond the last whole patch
    strength = F.pad(smooth.clamp(-1, 1), rest).numpy()[..., None]  # (height, width, 1)
    place = (strength[..., 0] + 1) / 2 if is_difference else strength[..., 0]
    colour = colormaps[DIFFERENCE if is_difference else ATTENTION](place)[..., :3]
    grey = view.astype(np.float64) @ (0.299, 0.587, 0.114) / 255  # luma, as Pillow's "L"
    alpha = 0.75 * np.abs(strength) if is_difference else 0.3 + 0.35 * strength
    return (255 * ((1 - alpha) * grey[..., None] + alpha * colour)).round().astype(np.uint8)


# ---- figures of an image ----


class Panel(NamedTuple):
    """A part of a figure.

    Attributes:
        pixels: (height, width, 3), uint8.
        title: above the pixels.
        note: below them.
    """

    pixels: np.ndarray
    title: str
    note: str = ""


def plot_attention(seen: SeenImage, attention: ImageAttention, path: str | Path) -> None:
    """Draws an image, and over it the attention of each token: of the last layer, by rollout, and the difference.

    Args:
        seen: the image.
        attention: of the image.
        path: of the PNG file.

    Raises:
        ImportError: matplotlib, an optional dependency, is not installed.
    """
    names = ("last layer, mean", "rollout")
    rows = [
        [_token_panel(seen, values, f"{token}\n{name}") for token, values in zip(TOKENS, maps, strict=False)]
        for name, maps in zip(names, (attention.mean_of_heads, attention.rollout), strict=True)
    ]
    image = Panel(seen.view, "image\nas the model sees it")
    if len(attention.rollout) == 1:
        panels: list[list[Panel | None]] = [[image, *rows[0], *rows[1]]]
    else:
        for row, name, maps in zip(rows, names, (attention.mean_of_heads, attention.rollout), strict=True):
            pixels = overlay(seen, difference(maps), is_difference=True)
            row.append(Panel(pixels, f"difference\n{name}", f"overlap {overlap(maps):.0%}"))
        panels = [[image, *rows[0]], [None, *rows[1]]]
    figure = _figure(_height(seen, panels, TITLES))
    axes = _draw(figure, panels)
    if len(panels) > 1:
        axes[1][0].text(0.5, 0.5, KEY, ha="center", va="center", fontsize=TEXT - 1, transform=axes[1][0].transAxes)
    _save(figure, path)


def plot_heads(seen: SeenImage, attention: ImageAttention, path: str | Path) -> None:
    """Draws the attention of each head of the last layer over an image, for each token.

    Args:
        seen: the image.
        attention: of the image.
        path: of the PNG file.

    Raises:
        ImportError: matplotlib, an optional dependency, is not installed.
    """
    num_tokens, num_heads = attention.last_layer.shape[:2]
    columns = min(MAX_COLUMNS, num_heads)
    blocks = []
    for maps in attention.last_layer:
        panels: list[Panel | None] = [_token_panel(seen, each, f"head {i}") for i, each in enumerate(maps, start=1)]
        panels += [None] * (-num_heads % columns)
        blocks.append([panels[i : i + columns] for i in range(0, len(panels), columns)])
    figure = _figure(sum(_height(seen, block, TITLE) + TITLE for block in blocks))
    parts = figure.subfigures(num_tokens, squeeze=False)[:, 0]
    for part, block, token in zip(parts, blocks, TOKENS, strict=False):
        part.suptitle(f"{token}, last layer", fontsize=TEXT)
        _draw(part, block)
    _save(figure, path)


def _token_panel(seen: SeenImage, values: Tensor, title: str) -> Panel:
    return Panel(overlay(seen, values), title, f"{values.sum():.0%} on patches")


def _height(seen: SeenImage, panels: Sequence[Sequence[Panel | None]], text: float) -> float:
    """Inches that rows of panels need, each with as many inches for its text."""
    height, width = seen.view.shape[:2]
    return len(panels) * ((WIDTH / len(panels[0]) - 0.08) * height / width + text)


def _draw(figure: "FigureBase", panels: Sequence[Sequence[Panel | None]]) -> np.ndarray:
    """Draws rows of panels; returns the axes, of which those without a panel are empty."""
    axes = figure.subplots(len(panels), len(panels[0]), squeeze=False)
    for axis, panel in zip(axes.flat, (each for row in panels for each in row), strict=True):
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_frame_on(False)
        if panel is not None:
            axis.imshow(panel.pixels, interpolation="nearest")
            axis.set_title(panel.title, fontsize=TEXT)
            axis.set_xlabel(panel.note, fontsize=TEXT - 1)
    return axes


def _figure(height: float) -> "Figure":
    from matplotlib.figure import Figure  # an optional dependency

    return Figure(figsize=(WIDTH, height), layout="constrained")


def _save(figure: "Figure", path: str | Path) -> None:
    figure.savefig(path, dpi=DPI, metadata={"Software": None})  # the same bytes with each version of matplotlib


# ---- figures of a model ----


def plot_positions(similarity: Tensor, path: str | Path) -> None:
    """Draws, for each patch, the similarity of its position embedding to all others, at the place of the patch.

    Args:
        similarity: (rows, columns, rows, columns), as from `position_similarity`. Of more than 14 rows or columns of
            patches, 14 at equal distances are drawn.
        path: of the PNG file.

    Raises:
        ImportError: matplotlib, an optional dependency, is not installed.
    """
    rows, columns = similarity.shape[:2]
    picked = [np.linspace(0, side - 1, min(side, MAX_MAPS)).round().astype(int) for side in (rows, columns)]
    scale = max(1, MIN_CELLS // max(rows, columns))  # small maps are enlarged, so that the gaps stay narrow
    maps = similarity.numpy()[picked[0]][:, picked[1]].repeat(scale, axis=2).repeat(scale, axis=3)
    rows, columns = maps.shape[2:]
    gap = max(1, max(rows, columns) // MAX_MAPS)
    mosaic = _tiled(maps, gap, np.nan)
    figure = _figure(min(2.0, max(0.25, mosaic.shape[0] / mosaic.shape[1])) * WIDTH * 0.85 + TITLE)
    axis = figure.subplots()
    drawn = axis.imshow(mosaic, interpolation="nearest", vmin=min(0.0, float(similarity.min())), vmax=1)
    centres = [
        np.arange(len(each)) * (side + gap) + (side - 1) / 2
        for each, side in zip(picked, (rows, columns), strict=True)
    ]
    axis.set_yticks(centres[0], picked[0] + 1, fontsize=TEXT - 2)
    axis.set_xticks(centres[1], picked[1] + 1, fontsize=TEXT - 2)
    axis.set_ylabel("row of the patch", fontsize=TEXT)
    axis.set_xlabel("column of the patch", fontsize=TEXT)
    axis.tick_params(length=0)
    axis.set_frame_on(False)
    figure.colorbar(drawn, ax=axis, shrink=0.8, aspect=30).set_label("cosine", fontsize=TEXT)
    axis.set_title("similarity of the position embeddings", fontsize=TEXT)
    _save(figure, path)


def plot_filters(learned: PatchFilters, path: str | Path) -> None:
    """Draws the filters of the patch embedding, or their principal components; grey is 0.

    Args:
        learned: the filters. Those of three channels are drawn in colour, others as the mean of their channels.
        path: of the PNG file.

    Raises:
        ImportError: matplotlib, an optional dependency, is not installed.
    """
    filters = learned.filters if learned.filters.shape[1] == 3 else learned.filters.mean(dim=1, keepdim=True)
    largest = filters.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(filters.dtype).tiny)
    pixels = (0.5 + filters / largest / 2).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()
    columns = min(MAX_FILTERS_IN_A_ROW, len(pixels))
    rows = -(-len(pixels) // columns)
    height, width = pixels.shape[1:3]
    tiles = np.ones((rows * columns, height, width, 3))  # white after the last filter
    tiles[: len(pixels)] = pixels
    mosaic = _tiled(tiles.reshape(rows, columns, height, width, 3), max(1, width // MAX_FILTERS_IN_A_ROW), 1.0)
    figure = _figure(WIDTH * mosaic.shape[0] / mosaic.shape[1] + TITLE)
    axis = figure.subplots()
    axis.set_axis_off()
    axis.imshow(mosaic, interpolation="nearest")
    title = f"all {len(pixels)} filters of the patch embedding"
    if learned.shares is not None:
        share = f"{learned.shares.sum():.0%} of the variance"
        title = f"first {len(pixels)} principal components of the patch filters, {share}"
    axis.set_title(title, fontsize=TEXT)
    _save(figure, path)


def _tiled(tiles: np.ndarray, gap: int, empty: float) -> np.ndarray:
    """Puts tiles (rows, columns, height, width, ...) next to each other, with gaps between them."""
    space = [(0, 0), (0, 0), (0, gap), (0, gap), *[(0, 0)] * (tiles.ndim - 4)]
    padded = np.pad(tiles, space, constant_values=empty)
    rows, columns, height, width = padded.shape[:4]
    whole = padded.swapaxes(1, 2).reshape(rows * height, columns * width, *tiles.shape[4:])
    return whole[:-gap, :-gap]


def plot_cosines(cosines: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Draws the cosine of both tokens from the input to the output: a thin line for each image, and their mean.

    Args:
        cosines: of each image, as from `token_cosines`.
        path: of the PNG file.

    Raises:
        ImportError: matplotlib, an optional dependency, is not installed.
    """
    lines = np.array([[each["input"], *each["layers"], each["output"]] for each in cosines])
    figure = _figure(3.2)
    axis = figure.subplots()
    places = np.arange(lines.shape[1])
    if len(lines) > 1:
        axis.plot(places, lines.T, color="#9ecae1", linewidth=0.8)
    axis.plot(places, lines.mean(axis=0), color="#08519c", marker=".", linewidth=1.8)
    step = -(-(len(places) - 2) // MAX_LAYERS)
    numbers = [place for place in places[1:-1] if (place - 1) % step == 0]
    axis.set_xticks([0, *numbers, places[-1]], ["input", *map(str, numbers), "output"], fontsize=TEXT - 2)
    axis.set_xlabel("after layer", fontsize=TEXT)
    axis.set_ylabel("cosine", fontsize=TEXT)
    axis.set_ylim(min(0.0, lines.min()) - 0.03, 1.03)
    axis.grid(alpha=0.3)
    axis.set_title("similarity of class token and distillation token", fontsize=TEXT)
    _save(figure, path)
