"""Renders a report as one HTML file that needs no other file and no network."""

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import PIL.Image
from markupsafe import Markup

from ..data.dataset import ImageDataset
from ..data.decoding import decode_image
from ..evaluation.intervals import wilson_interval
from .confusion_matrix import frequent_confusions, shown_matrix
from .page_template import render
from .report_figures import classes_figure, curves_figure, reliability_figure
from .views_figure import short_names

THUMBNAIL = 144  # longer side in pixels
MAX_OPEN_CLASSES, NUM_CONFUSIONS = 40, 20


def render_page(
    facts: Mapping[str, Any], images: ImageDataset, logs: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str:
    """Renders the page; all names are escaped.

    Args:
        facts: of `report_facts`.
        images: for the thumbnails.
        logs: log of the training by model, for the curves.

    Raises:
        ImportError: matplotlib, an optional dependency, is not installed.
    """
    models = facts["models"]
    names = facts["data"]["classes"]
    counts = [each["images"] for each in models[0]["classes"]]
    by_accuracy = _classes_by_accuracy(models)
    values = {
        "facts": facts,
        "models": models,
        "names": names,
        "short": {length: short_names(names, length) for length in (18, 24, 40)},
        "students": [model for model in models if not model["is_teacher"]],
        "counts": counts,
        "occurring": sum(count > 0 for count in counts),
        "classes": by_accuracy,
        "max_open": MAX_OPEN_CLASSES,
        "classes_figure": Markup(classes_figure(models)) if len(by_accuracy) > MAX_OPEN_CLASSES else None,
        "reliability": {model["name"]: Markup(reliability_figure(model)) for model in models},
        "confusions": {model["name"]: frequent_confusions(model, NUM_CONFUSIONS) for model in models},
        "matrices": {model["name"]: _matrix(model) for model in models},
        "curves": {name: Markup(curves_figure(name, log)) for name, log in logs.items() if log},
        "thumbnails": _thumbnails(models, images),
    }
    filters = {"percent": _percent, "duration": _duration, "count": _count}
    return render("report.html", values, filters=filters)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _count(number: float) -> str:
    """A large number, such as `1.26 G`."""
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.2f} M"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _classes_by_accuracy(models: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The classes with images, first the worst ones of the first model, with the accuracy of each model."""
    rows = []
    for index, own in enumerate(models[0]["classes"]):
        if own["images"]:
            found = [model["classes"][index] for model in models]
            intervals = [wilson_interval(each["correct"], each["images"]) for each in found]
            rows.append({"index": index, "images": own["images"], "models": found, "intervals": intervals})
    return sorted(rows, key=lambda row: (row["models"][0]["accuracy"], -row["images"], row["index"]))


def _matrix(model: Mapping[str, Any]) -> dict[str, Any]:
    """The confusion matrix for a table: counts and shares of each row; a part of it if there are many classes."""
    shown, counts, whole = shown_matrix(model)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    rows = zip(shown, counts.tolist(), shares.tolist(), strict=True)
    cells = [(index, [*zip(row, row_shares, strict=True)]) for index, row, row_shares in rows]
    return {"whole": whole, "shown": shown, "rows": cells}


def _thumbnails(models: Sequence[Mapping[str, Any]], images: ImageDataset) -> dict[int, str]:
    """The images of all lists as data URLs of small JPEG files, by index."""
    shown = {each["image"] for model in models for kind in ("mistakes", "disagreements") for each in model[kind]}
    rows = images.rows(sorted(shown))
    return {row.sample: thumbnail(decode_image(row.source, row.where)) for row in rows}


def thumbnail(image: PIL.Image.Image) -> str:
    """Returns a small copy of an RGB image, without metadata, as a data URL; enlarges a tiny one without smoothing."""
    factor = THUMBNAIL // max(image.size)
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), PIL.Image.Resampling.NEAREST)
    else:
        image = image.copy()
        image.thumbnail((THUMBNAIL, THUMBNAIL))
    image.info = {}  # Pillow would write the comment of the original
    file = BytesIO()
    image.save(file, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
