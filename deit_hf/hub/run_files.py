"""The files that a run leaves in its directory."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def require_files(directory: Path, names: Sequence[str]) -> None:
    """Raises FileNotFoundError that names all of the files that the directory of a run lacks."""
    if not directory.is_dir():
        raise FileNotFoundError(f"`{directory}` is no directory; name the `output_dir` of a finished run")
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"`{directory}` lacks {', '.join(missing)}; name the `output_dir` of a finished run, or save the model "
            "and its image processor there with `save_pretrained`"
        )
