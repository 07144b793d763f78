"""Files that are complete or absent, and are what was written.

They are written aside, then moved to their place. A manifest holds names, sizes and hashes of the files of a
checkpoint; it is written last, and compared before they are used.
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


def write_manifest(directory: Path) -> list[Path]:
    """Writes the manifest of all files in a directory, and returns those files.

    The files are read back for their SHA-256, from the memory of the machine that has just written them.
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
    """Whether the manifest records hashes; earlier versions recorded sizes alone."""
    return bool(_read(directory)[1])


def damage_of(directory: Path, *, compares_hashes: bool) -> str | None:
    """How a directory differs from its manifest, in words that name the file; None if it does not.

    Args:
        directory: of a checkpoint.
        compares_hashes: reads all files; otherwise only names and sizes are compared.
    """
    if not directory.is_dir():
        return "there is no such directory"
    try:
        sizes, hashes = _read(directory)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"it has no readable {MANIFEST}, so it was not written to its end, or not by this package"
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
        return f"{unknown[0]} was not written with it (its {MANIFEST} does not have it)"
    return _first_changed(directory, hashes, hashes) if compares_hashes else None


def changed_weights(directory: Path) -> str | None:
    """Which weights of a checkpoint, or of a folder in one, are not those that were written, in words.

    None if none is known to be: there is no manifest, or one without hashes.
    """
    for checkpoint in (directory, directory.parent):  # averaged weights are a model in a folder of their own
        try:
            hashes = _read(checkpoint)[1]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        weights = [path.relative_to(checkpoint).as_posix() for path in sorted(directory.glob("*.safetensors"))]
        return _first_changed(checkpoint, [name for name in weights if name in hashes], hashes)
    return None


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(BUFFER_BYTES))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def _read(directory: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Sizes and hashes by name; no hashes in a manifest of an earlier version.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: it cannot be read, or is not a manifest.
    """
    manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    sizes, hashes = manifest["sizes"], manifest.get("sha256")
    if manifest.keys() - {"sizes", "sha256"} or (hashes is not None and hashes.keys() != sizes.keys()):
        raise ValueError("it is not a manifest of this package")  # one damaged letter must not turn the hashes off
    return dict(sizes), dict(hashes or {})


def _first_changed(directory: Path, names: Iterable[str], hashes: dict[str, str]) -> str | None:
    for name in names:
        try:
            if sha256_of(directory / name) != hashes[name]:
                return f"{name} is damaged: its content is not what was written (SHA-256 differs)"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror or error})"
    return None
