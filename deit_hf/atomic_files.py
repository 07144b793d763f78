"""Writes files that are either complete or absent, and checks that they have not changed since.

Files are written to a temporary directory and then moved. The manifest of a checkpoint lists names, sizes and hashes
of its files. It is written last, and compared with the files before they are used.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

MANIFEST = "manifest.json"
WEIGHTS_AND_STATES = ("*.safetensors", "*.index.json", "*.bin", "*.pt", "*.pth", "running_state_*.json")
BUFFER_BYTES = 1 << 20


@contextlib.contextmanager
def written_aside(directory: str | Path) -> Iterator[Path]:
    """Yields a temporary directory, and moves its files into `directory` if the block ends without an error.

    If the disk is full or the program is interrupted, `directory` stays as it was. Its other files always stay. A
    folder of the temporary directory replaces a folder of the same name.

    Raises:
        OSError: `directory` cannot be created or written to.
    """
    directory = Path(directory)
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with (  # on the same disk, so that moving is a rename
            tempfile.TemporaryDirectory(dir=directory, prefix=".unfinished-") as aside,
            tempfile.TemporaryDirectory(dir=directory, prefix=".replaced-") as replaced,
        ):
            yield Path(aside)
            for path in Path(aside).iterdir():
                target = directory / path.name
                if path.is_dir() and target.is_dir():
                    os.replace(target, Path(replaced) / path.name)
                os.replace(path, target)
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty
                directory.rmdir()
        raise


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8, in full or not at all; also to the target of a link, or to a pipe or terminal.

    Raises:
        OSError: the directory cannot be created or written to.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    path = path.resolve()
    with written_aside(path.parent) as aside:
        (aside / path.name).write_text(text, encoding="utf-8")


def write_manifest(directory: Path) -> list[Path]:
    """Writes the manifest of all files in a directory, and returns the files.

    Each file is read again for its SHA-256; just after writing, it is still in the page cache.
    """
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != MANIFEST]
    names = [path.relative_to(directory).as_posix() for path in files]
    manifest = {
        "sizes": {name: path.stat().st_size for name, path in zip(names, files, strict=True)},
        "sha256": {name: sha256_of(path) for name, path in zip(names, files, strict=True)},
    }
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return files


def has_hashes(directory: Path) -> bool:
    """Whether the manifest contains hashes; earlier versions wrote only sizes."""
    return bool(_read(directory)[1])


def damage_of(directory: Path, *, compares_hashes: bool) -> str | None:
    """Describes the first difference between a checkpoint and its manifest, or returns None.

    Args:
        directory: the checkpoint.
        compares_hashes: reads all files; False compares only names and sizes.
    """
    if not directory.is_dir():
        return "there is no such directory"
    try:
        sizes, hashes = _read(directory)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"it has no readable {MANIFEST}, so it is incomplete or was not written by this package"
    present = {
        path.relative_to(directory).as_posix() for pattern in WEIGHTS_AND_STATES for path in directory.glob(pattern)
    }
    for name, size in sizes.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            return f"its {MANIFEST} names `{name}`, which is not in it"
        file = directory / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, but was written with {size}"
    if unknown := sorted(present - sizes.keys()):
        return f"{unknown[0]} was not written with it (its {MANIFEST} does not list it)"
    return _first_changed(directory, hashes, hashes) if compares_hashes else None


def changed_weights(directory: Path) -> str | None:
    """Describes the first weights file of a checkpoint, or of a folder in it, that changed after it was written.

    Returns None if no file changed, or if that is unknown because there is no manifest or no hashes in it.
    """
    for checkpoint in (directory, directory.parent):  # averaged weights are in a folder of the checkpoint
        try:
            hashes = _read(checkpoint)[1]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        weights = [path.relative_to(checkpoint).as_posix() for path in sorted(directory.glob("*.safetensors"))]
        return _first_changed(checkpoint, [name for name in weights if name in hashes], hashes)
    return None


def sha256_of(path: Path) -> str:
    """The SHA-256 of the content of a file, in hexadecimal digits."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(BUFFER_BYTES))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def _read(directory: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Reads sizes and hashes by file name; a manifest of an earlier version has no hashes.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: the file cannot be read or is not a manifest.
    """
    manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    sizes, hashes = manifest["sizes"], manifest.get("sha256")
    if manifest.keys() - {"sizes", "sha256"} or (hashes is not None and hashes.keys() != sizes.keys()):
        raise ValueError("it is not a manifest of this package")  # a damaged key must not disable the hashes
    return dict(sizes), dict(hashes or {})


def _first_changed(directory: Path, names: Iterable[str], hashes: dict[str, str]) -> str | None:
    """Describes the first of the files that is unreadable or has another hash, or returns None."""
    for name in names:
        try:
            if sha256_of(directory / name) != hashes[name]:
                return f"{name} is damaged: its content is not what was written (SHA-256 differs)"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror or error})"
    return None
