"""Shows that the views of a run are those for which a teacher's answers were stored.

With equal options, other versions of the libraries can make other views. So the store has a checksum of the pixels of
each block, and a run compares its own with it.
"""

import zlib
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from torch import Tensor

from .answer_format import BLOCK
from .teacher_cache import AnswerStore

LIBRARIES = ("torch", "torchvision", "timm", "pillow", "numpy")  # they make the views


def view_checksum(pixels: Tensor | np.ndarray, position: int) -> int:
    """CRC-32 of a view at a position, whose number is the initial value.

    Args:
        pixels: uint8, (C, H, W), before normalising, erasing and mixing.
        position: in the epoch's global order.
    """
    content = pixels.cpu().numpy() if isinstance(pixels, Tensor) else pixels
    return zlib.crc32(np.ascontiguousarray(content).data, position)


def library_versions() -> dict[str, str]:
    """The versions of the libraries that make the views, for the facts of a store."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


class BlockSums:
    """Adds the checksums of views to those of their blocks, modulo 2**32, in any order and division into batches."""

    def __init__(self, num_views: int):
        """Begins an epoch of `num_views` views."""
        self.num_views = num_views
        self._sums: dict[int, tuple[set[int], int]] = {}  # block -> its positions so far, their sum

    def add(self, positions: Sequence[int] | Tensor, checksums: Sequence[int] | Tensor) -> dict[int, int]:
        """Adds views, and returns the sums of the blocks that are now complete, by block.

        A repeated position of an incomplete block does not count: samplers repeat some to fill the last batch.
        """
        complete = {}
        for position, checksum in zip(map(int, positions), map(int, checksums), strict=True):
            block = position // BLOCK
            seen, total = self._sums.pop(block, (set(), 0))
            if position not in seen:
                seen, total = seen | {position}, (total + checksum) % (1 << 32)
            if len(seen) == min(BLOCK, self.num_views - block * BLOCK):
                complete[block] = total
            else:
                self._sums[block] = seen, total
        return complete


class ViewCheck:
    """Compares the views of a run with the stored ones, block by block.

    A block of which this run sees only a part is not compared: one in the middle of which a run resumes, or that is
    divided between processes.

    Attributes:
        compared: number of blocks compared so far.
    """

    def __init__(self, store: AnswerStore):
        """Compares with `store`."""
        self._store = store
        self._epoch: int | None = None
        self.compared = 0

    def add(self, epoch: int, positions: Sequence[int] | Tensor, checksums: Sequence[int] | Tensor) -> None:
        """Compares the blocks that these views complete.

        Args:
            epoch: of the store; a new one drops the incomplete blocks of the last one.
            positions: (B,), in the epoch's global order.
            checksums: (B,), `view_checksum` of each.

        Raises:
            FileNotFoundError: the store lacks the epoch.
            ValueError: a view differs; names epoch, positions and versions.
        """
        if epoch != self._epoch:
            self._epoch, self._sums = epoch, BlockSums(self._store.format.num_views)
            self._stored = self._store.view_checksums(epoch)
        for block, checksum in self._sums.add(positions, checksums).items():
            if checksum != self._stored[block]:
                places = self._store.format.positions(block)
                self._store.rows(epoch, places)  # raises its own error if the stored checksum is damaged
                raise self._differs(epoch, places)
            self.compared += 1

    def _differs(self, epoch: int, places: range) -> ValueError:
        stored, now = self._store.facts.get("versions"), library_versions()
        stored = stored if isinstance(stored, Mapping) else {}
        listed = ", ".join(f"{name} {stored.get(name, 'unknown')} and {now[name]}" for name in LIBRARIES)
        return ValueError(
            f"the views at positions {places.start} to {places.stop - 1} of epoch {epoch} are not those for which "
            f"`{self._store.directory}` holds the teacher's answers (versions, stored and now: {listed}); use the "
            "stored versions and the unchanged images, or fill another store with deit-hf cache-teacher"
        )
