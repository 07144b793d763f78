"""Writes a Space of the Hub that shows the demo of a model: app.py, requirements.txt, README.md with its settings."""

import os
import shutil
from collections.abc import Sequence
from importlib.metadata import requires, version
from pathlib import Path

from huggingface_hub import SpaceCardData

from ..atomic_files import written_aside
from ..data.decoding import decode_image
from .markdown import escaped
from .public_text import public_config
from .run_files import CONFIG, OF_A_MODEL, require_files, weight_files

PACKAGE = Path(__file__).parents[1]
PYTHON_VERSION = "3.12"
LONG_SIDE, JPEG_QUALITY = 1024, 95  # of examples
APP = '''\
"""A page to try a model on images: python app.py"""

from pathlib import Path

from deit_hf.analysis.demo_page import launch_demo

HERE = Path(__file__).parent

launch_demo(
    {model},
    teacher={teacher},
    examples={examples},
    top_k={top_k},
    title={title},
).block_thread()
'''
CARD = """\
---
{settings}
---

# {title}

Classifies images with {model}{teacher}, and shows what the model attends to.

After `pip install -r requirements.txt`, `python app.py` runs the page on your machine. The folder `deit_hf` is a copy
of that package, version {version}, which is licensed under Apache 2.0.
"""


def write_space(
    directory: str | Path,
    model_name_or_path: str,
    *,
    title: str,
    teacher: str | None = None,
    examples: Sequence[str] = (),
    top_k: int = 5,
) -> None:
    """Writes a Space, which also runs on any machine with `python app.py`.

    It holds a copy of this package. A model or teacher that is a local directory is copied, too: its configuration,
    image processor and weights. Examples are stored as JPEGs of at most 1024 pixels, without their metadata and names.

    Args:
        directory: new or empty.
        model_name_or_path: Hub id or directory.
        title: heading of the page.
        teacher: likewise, or None.
        examples: images; paths or URLs.
        top_k: number of classes to show for each head.

    Raises:
        FileExistsError: `directory` is not empty.
        FileNotFoundError: a model lacks a file, or has no weights as safetensors.
        ValueError: the teacher is a file, or an example cannot be read.
        ImportError: gradio is not installed, so that its version is not known.
    """
    directory = Path(directory)
    check_is_free(directory)
    if teacher is not None and teacher.startswith("timm:") and "@" in teacher:
        raise ValueError(f"the teacher `{teacher}` is a file, which a Space cannot load; name a directory or a Hub id")
    gradio = version("gradio")
    with written_aside(directory) as aside:
        app = APP.format(
            model=_stored(model_name_or_path, aside, "model"),
            teacher=None if teacher is None else _stored(teacher, aside, "teacher"),
            examples='[HERE / "examples"]' if examples else "[]",
            top_k=top_k,
            title=repr(title),
        )
        needed = [each for each in requires("deit_hf") or [] if "extra ==" not in each]
        texts = {
            "app.py": app,
            "requirements.txt": "\n".join([*needed, "matplotlib>=3.10", f"gradio=={gradio}"]) + "\n",
            "README.md": _card(model_name_or_path, teacher, title, gradio),
        }
        for name, text in texts.items():
            (aside / name).write_text(text, encoding="utf-8")
        _write_examples(examples, aside / "examples")
        shutil.copytree(PACKAGE, aside / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))


def check_is_free(directory: str | Path) -> None:
    """Raises a FileExistsError unless a directory is new or empty."""
    directory = Path(directory)
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        raise FileExistsError(f"`{directory}` is not an empty directory; name a new one with --write_space")


def _card(model: str, teacher: str | None, title: str, gradio: str) -> str:
    """The README.md of a Space, with its settings for the Hub."""
    hub_ids = [each for each in (model, teacher) if each and not _is_local(each) and ":" not in each]
    settings = SpaceCardData(
        title=title,
        emoji="🔎",
        colorFrom="blue",
        colorTo="indigo",
        sdk="gradio",
        sdk_version=gradio,
        python_version=PYTHON_VERSION,
        app_file="app.py",
        models=hub_ids or None,
    )
    return CARD.format(
        settings=settings.to_yaml(),
        title=escaped(title),
        model=_in_words(model, "a model in `model`"),
        teacher=f", next to its teacher, {_in_words(teacher, 'in `teacher`')}" if teacher else "",
        version=version("deit_hf"),
    )


def _is_local(source: str) -> bool:
    return os.path.isdir(source)


def _in_words(source: str, local: str) -> str:
    return local if _is_local(source) else f"`{source}`"


def _stored(source: str, directory: Path, name: str) -> str:
    """How app.py names a model; a local one is copied to the folder `name` of the directory."""
    if not _is_local(source):
        return repr(source)
    files = [*OF_A_MODEL, *weight_files(Path(source))]
    require_files(Path(source), files)
    (directory / name).mkdir()
    for file in files:
        shutil.copyfile(Path(source) / file, directory / name / file)
    if (text := public_config(Path(source) / CONFIG)) is not None:
        (directory / name / CONFIG).write_text(text, encoding="utf-8")
    return f'HERE / "{name}"'


def _write_examples(images: Sequence[str], directory: Path) -> None:
    if images:
        directory.mkdir()
    for number, source in enumerate(images, start=1):
        image = decode_image(source, source)
        image.thumbnail((LONG_SIDE, LONG_SIDE))
        image.info = {}  # Pillow would write the comment of the original
        image.save(directory / f"{number:02}.jpg", "JPEG", quality=JPEG_QUALITY)
