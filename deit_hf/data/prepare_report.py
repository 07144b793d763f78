"""What a preparation of images will take, and what it has changed, in words."""

from dataclasses import dataclass, field

from .resizing import StoredImage

TIMED_SIZE = 224  # pixels a side, of the views that are timed


@dataclass(frozen=True)
class Estimate:
    """What a preparation will take, by a few images.

    Attributes:
        num_images: of all parts.
        bytes_before: size of all original images.
        bytes_after: size of all stored images.
        seconds: duration.
        num_workers: processes that resize.
    """

    num_images: int
    bytes_before: float
    bytes_after: float
    seconds: float
    num_workers: int

    def __str__(self) -> str:
        sizes = f"about {in_bytes(self.bytes_after)} instead of {in_bytes(self.bytes_before)}"
        processes = "1 process" if self.num_workers <= 1 else f"{self.num_workers} processes"
        minutes = self.seconds / 60
        duration = f"{minutes / 60:.1f} h" if minutes >= 90 else f"{minutes:.0f} min" if minutes >= 1.5 else "1 min"
        return f"{self.num_images:,} images: {sizes}, {duration if minutes >= 1 else 'less than 1 min'} in {processes}"


@dataclass
class Gain:
    """What a preparation has changed.

    Attributes:
        rows: number of rows of each written part.
        num_resized: images that were resized.
        num_kept: images that keep their bytes, because they are small or would not become smaller.
        faults: why each bad image cannot be decoded.
        bytes_before: size of all original images.
        bytes_after: size of all stored images.
        views_before: views that one core decodes and crops in a second from the originals; 0 if unknown.
        views_after: the same from the stored images.
    """

    rows: dict[str, int] = field(default_factory=dict)
    num_resized: int = 0
    num_kept: int = 0
    faults: list[str] = field(default_factory=list)
    bytes_before: int = 0
    bytes_after: int = 0
    views_before: float = 0.0
    views_after: float = 0.0

    def add(self, image: StoredImage) -> None:
        """Counts an image."""
        self.num_resized += image.kind == "resized"
        self.num_kept += image.kind == "kept"
        self.faults += [image.fault] if image.kind == "bad" else []
        self.bytes_before += image.num_bytes_before
        self.bytes_after += image.num_bytes

    def lines(self) -> list[str]:
        """Returns the gain as lines of text."""
        rows = ", ".join(f"{part} {number:,}" for part, number in self.rows.items())
        bad = f", {len(self.faults):,} bad and stored as they are" if self.faults else ""
        share = f" ({100 * self.bytes_after / self.bytes_before:.0f} %)" if self.bytes_before else ""
        lines = [
            f"images  {rows}: {self.num_resized:,} resized, {self.num_kept:,} with their original bytes{bad}",
            f"size    {in_bytes(self.bytes_before)} before, {in_bytes(self.bytes_after)} after{share}",
        ]
        if self.views_before and self.views_after:
            lines.append(
                f"speed   decoding and cropping to {TIMED_SIZE} pixels: {self.views_before:.0f} views per second and "
                f"core before, {self.views_after:.0f} after (x {self.views_after / self.views_before:.2f})"
            )
        return lines

    def advice(self) -> list[str]:
        """Returns what to know before a training, as lines of text."""
        lines = []
        if self.faults:
            lines.append(
                f"warning: {len(self.faults):,} images cannot be decoded, the first: {self.faults[0]}. A training "
                "stops at them, unless its --on_bad_image is skip"
            )
        if self.num_resized and "train" in self.rows and "validation" not in self.rows:
            lines.append(
                "there is no validation part. --train_val_split selects images by their content, which resizing "
                "changes: to hold out the same images as of the original data, pass it to deit-hf prepare"
            )
        return lines


def in_bytes(number: float) -> str:
    """Formats a size, such as `3.2 GB`."""
    unit = next(((name, size) for name, size in (("GB", 1e9), ("MB", 1e6)) if number >= size), ("kB", 1e3))
    return f"{number / unit[1]:.3g} {unit[0]}"
