"""Files that are complete or absent: written aside, then moved to their place."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written_aside(directory: str | Path) -> Iterator[Path]:
    """An empty directory; the files written there move into `directory` when the block ends without an error.

    A full disk or an interrupt leaves `directory` as it was. What else is in it stays.

    Raises:
        OSError: `directory` cannot be made or written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".unfinished-") as aside:  # on the same disk
        yield Path(aside)
        for path in Path(aside).iterdir():
            os.replace(path, directory / path.name)
