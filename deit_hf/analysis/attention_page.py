"""Writes the figures of attention_figures.py for images, and templates/attention.html, one page with all of them."""

import base64
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import PIL.Image
from torch import Tensor
from transformers import PreTrainedModel

from ..atomic_files import written_aside
from ..data.transforms import evaluation_view
from ..evaluation.predict import check_some_are_read, device_of, view_or_error
from ..model.build import load_classifier
from ..model.configuration_deit import to_pair
from ..model.probabilities import probabilities
from ..reliability.out_of_memory import explained_out_of_memory
from .attention import (
    TOKENS,
    ImageAttention,
    check_attends,
    image_attention,
    overlap,
    patch_filters,
    position_similarity,
)
from .attention_figures import (
    check_matplotlib_installed,
    plot_attention,
    plot_cosines,
    plot_filters,
    plot_heads,
    plot_positions,
    seen_image,
)
from .page_template import render

PAGE = "attention.html"
MODEL_FIGURES = ("positions.png", "filters.png", "tokens.png")
MAX_IMAGES = 50  # each takes about 300 kB of the page
MAX_NAME = 50  # characters of a file name; 255 bytes are the limit of most disks
NUM_BEST = 3  # classes of each head
JPEG_QUALITY = 90


class Figure(NamedTuple):
    """A figure of the page.

    Attributes:
        jpeg: base64 of a JPEG.
        width: in pixels.
        height: in pixels.
        alt: for those who cannot see it.
    """

    jpeg: str
    width: int
    height: int
    alt: str


class ImageSection(NamedTuple):
    """The part of the page about one image.

    Attributes:
        name: as in `shown_name`.
        classes: by name of the head, its best classes with their probabilities.
        figures: of the image.
    """

    name: str
    classes: dict[str, list[tuple[str, float]]]
    figures: list[Figure]


class Written(NamedTuple):
    """What was written: the page, the number of PNG files, and the error of each image that cannot be read."""

    page: Path
    num_figures: int
    bad_images: list[str]


def write_attention(
    images: Sequence[str],
    model_name_or_path: str,
    directory: str | Path,
    *,
    device: str | None = None,
    overwrite: bool = False,
    skip_bad_images: bool = False,
) -> Written:
    """Writes figures and a page about what a model attends to in images. If there is an error, nothing is written.

    Args:
        images: paths or URLs.
        model_name_or_path: Hub id or directory of a DeiT or ViT with one head or two.
        directory: gets `attention.html`, `NAME-attention.png` and `NAME-heads.png` for each image, `positions.png`,
            `filters.png`, and, with two tokens, `tokens.png`. Its other files stay.
        device: as in `torch.device`; by default the accelerator, such as a GPU, if there is one.
        overwrite: whether files of these names may be replaced.
        skip_bad_images: leave out images that cannot be read, unless none can be read.

    Raises:
        ImportError: matplotlib, an optional dependency, is not installed.
        FileExistsError: a file exists, and `overwrite` is False; or `directory` is a file.
        ValueError: there are too many images, an image cannot be read, the model is not a DeiT or ViT, or its logits
            are NaN or infinite.
        OSError: the model or an image does not exist, or the directory cannot be written to.
    """
    check_matplotlib_installed()
    if len(images) > MAX_IMAGES:
        raise ValueError(f"{len(images)} images are named, but a page shows at most {MAX_IMAGES}; name fewer")
    directory, stems = Path(directory), file_stems(images)
    _check_is_free(directory, stems, overwrite=overwrite)
    model, processor = load_classifier(model_name_or_path)
    check_attends(model, model_name_or_path)
    model, view = model.eval().float().to(device_of(device)), evaluation_view(processor)
    sections: list[ImageSection] = []
    cosines: list[dict[str, Any]] = []
    bad_images: list[str] = []
    with written_aside(directory) as aside:
        for image, stem in zip(images, stems, strict=True):
            pixel_values = view_or_error(view, image)
            if isinstance(pixel_values, Exception):
                if not skip_bad_images:
                    raise pixel_values
                bad_images.append(str(pixel_values))
                continue
            with explained_out_of_memory(lambda: "all tokens attend to all tokens; on a GPU, use `--device cpu`"):
                attention = image_attention(model, pixel_values)
            if attention.cosines is not None:
                cosines.append(attention.cosines)
            sections.append(_section(model, processor, pixel_values, attention, aside / stem, shown_name(image)))
        check_some_are_read(bad_images, len(images))
        figures = list(_figures_of_model(model, cosines, aside))
        page = _rendered(model, shown_model(model_name_or_path), sections, figures, len(bad_images))
        (aside / PAGE).write_text(page, encoding="utf-8")
    num_figures = len(figures) + sum(len(section.figures) for section in sections)
    return Written(directory / PAGE, num_figures, bad_images)


# ---- names ----


def file_stems(images: Sequence[str]) -> list[str]:
    """A name for the files of each image: that of the image, and a number if several would have the same name."""
    taken: set[str] = set()
    stems = []
    for image in images:
        name = unquote(urlsplit(image).path) if "://" in image else image
        base = stem = (
            re.sub(r"[^\w.-]+", "_", os.path.splitext(os.path.basename(name))[0])[:MAX_NAME].lstrip(".-") or "image"
        )
        number = 1
        while stem.casefold() in taken:  # some disks ignore upper and lower case
            number += 1
            stem = f"{base}-{number}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems


def shown_name(image: str) -> str:
    """How the page names an image or a model: without folders of this machine, and without the query of a URL."""
    if "://" in image:
        parts = urlsplit(image)
        name = f"{parts.hostname or ''}{parts.path}"
    else:
        name = os.path.basename(image) if os.path.isabs(image) or ".." in Path(image).parts else image
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def shown_model(source: str) -> str:
    """How a page names a model: by its Hub id, or by its directory without the folders of this machine."""
    if not os.path.isdir(source):
        return source
    path = Path(source)  # without a slash at the end
    return shown_name(str(path)) if path.name not in ("", "..") else path.resolve().name


def _check_is_free(directory: Path, stems: Sequence[str], *, overwrite: bool) -> None:
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"`{directory}` is a file; name a directory for the figures with -o")
    names = [PAGE, *MODEL_FIGURES, *(f"{stem}-{kind}.png" for stem in stems for kind in ("attention", "heads"))]
    existing = [name for name in names if (directory / name).exists()]
    if existing and not overwrite:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise FileExistsError(
            f"`{directory}` already has {existing[0]}{more}; name another directory with -o, or pass --overwrite"
        )


# ---- parts of the page ----


def _section(
    model: PreTrainedModel, processor: Any, pixel_values: Tensor, attention: ImageAttention, start: Path, name: str
) -> ImageSection:
    """Draws the figures of an image; `start` is the path of their files without `-attention.png`."""
    config: Any = model.config
    classes = {head: _best(model, logits) for head, logits in attention.logits.items()}
    seen = seen_image(pixel_values, processor, to_pair(config.patch_size))
    files = [start.with_name(f"{start.name}-{kind}.png") for kind in ("attention", "heads")]
    plot_attention(seen, attention, files[0])
    plot_heads(seen, attention, files[1])
    num_heads = attention.last_layer.shape[1]
    tokens = " and of the ".join(TOKENS[: len(attention.rollout)])
    figures = [
        _figure(files[0], f"{name}: attention of the {tokens}. {_in_words(attention)}"),
        _figure(files[1], f"{name}: attention of the {tokens} in each of the {num_heads} heads of the last layer."),
    ]
    return ImageSection(name, classes, figures)


def _in_words(attention: ImageAttention) -> str:
    """The patch that each token attends to most, and how much both tokens have in common."""
    words = []
    for kind, maps in (("the last layer", attention.mean_of_heads), ("the rollout", attention.rollout)):
        for token, values in zip(TOKENS, maps, strict=False):
            row, column = divmod(int(values.argmax()), values.shape[1])
            words.append(f"In {kind}, the {token} attends most to the patch in row {row + 1}, column {column + 1}.")
        if len(maps) == 2:
            words.append(f"In {kind}, the maps of both tokens overlap by {overlap(maps):.0%}.")
    return " ".join(words)


def _best(model: PreTrainedModel, logits: Tensor) -> list[tuple[str, float]]:
    best = probabilities(logits).topk(min(NUM_BEST, len(logits)))
    names: Any = model.config.id2label
    return [(names[index], value) for index, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)]


def _figures_of_model(model: PreTrainedModel, cosines: list[dict[str, Any]], directory: Path) -> Iterator[Figure]:
    positions, filters, tokens = (directory / name for name in MODEL_FIGURES)
    plot_positions(position_similarity(model), positions)
    yield _figure(positions, "Cosine of the position embedding of each patch with that of every other patch.")
    learned = patch_filters(model)
    plot_filters(learned, filters)
    kind = "Filters" if learned.shares is None else "Principal components of the filters"
    yield _figure(filters, f"{kind} of the patch embedding.")
    if cosines:
        plot_cosines(cosines, tokens)
        first, last = (sum(each[key] for each in cosines) / len(cosines) for key in ("input", "output"))
        ends = f"{first:.2f} at the input, {last:.2f} at the output"
        yield _figure(tokens, f"Cosine of class token and distillation token by layer: {ends}.")


def _figure(file: Path, alt: str) -> Figure:
    with PIL.Image.open(file) as image, io.BytesIO() as jpeg:
        image.convert("RGB").save(jpeg, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        return Figure(base64.b64encode(jpeg.getvalue()).decode("ascii"), *image.size, alt)


def _rendered(
    model: PreTrainedModel, name: str, sections: Sequence[ImageSection], figures: Sequence[Figure], num_bad: int
) -> str:
    values = {
        "name": name,
        "config": model.config,
        "patch_size": to_pair(model.config.patch_size),
        "sections": sections,
        "figures": figures,
        "num_bad": num_bad,
    }
    return render("attention.html", values)
