"""What the benchmarks of model and training share: contenders take turns; the result is a table and a JSON file."""

import contextlib
import json
import os
import platform
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from ..argument_checks import check
from ..training.same_run import installed_version

OURS = "deit_hf"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LIBRARIES = (OURS, "torch", "torchvision", "transformers", "timm", "accelerate", "pillow")
# Columns of the table: key of a row, heading, and format of a number. A column without any value is left out.
COLUMNS = (
    ("setting", "", ""),
    ("package", "package", ""),
    ("images_per_second", "images/s", ".1f"),
    ("ratio", "deit_hf / package", ".3f"),
    ("ratio_range", "lowest and highest round", ""),
    ("of_no_teacher", "of its speed without teacher", ".2f"),
    ("data_wait", "waits for data", ".0%"),
    ("peak_mib", "peak memory, MiB", ".0f"),
    ("matrix_share", "of the matrix product's speed", ".0%"),
)

Turn = TypeVar("Turn")
Contender = tuple[str, str]  # (setting, package)


@dataclass(frozen=True)
class Comparison:
    """Result of a benchmark.

    Attributes:
        part: `model` or `training`.
        settings: of the measurement.
        rows: one for each contender. `images_per_second` is the median of `rounds`; `ratio` is the median, over the
            rounds, of the speed of deit_hf divided by that of the package in the same round and setting.
        notes: sentences about differences between the contenders, and about rows that are missing.
    """

    part: str
    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    notes: list[str]

    def __str__(self) -> str:
        used = [column for column in COLUMNS if any(row.get(column[0]) is not None for row in self.rows)]
        lines = [[heading for _, heading, _ in used], ["---"] * len(used)]
        lines += [[_cell(row.get(key), style) for key, _, style in used] for row in self.rows]
        settings = ", ".join(f"{name} {value}" for name, value in {**self.settings, **environment()}.items())
        return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", settings, *self.notes])

    def write(self, path: str | Path) -> None:
        """Writes the rows, settings, notes and versions as JSON."""
        content = {
            "benchmark": self.part,
            "settings": self.settings,
            "environment": environment(),
            "rows": self.rows,
            "notes": self.notes,
        }
        Path(path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _cell(value: Any, style: str) -> str:
    if value is None:
        return ""
    return " to ".join(f"{each:.3f}" for each in value) if isinstance(value, list) else f"{value:{style}}"


def in_turn(contenders: Mapping[Contender, Callable[[], Turn]], num_turns: int) -> dict[Contender, list[Turn]]:
    """Calls all contenders in each turn, and returns their results; load on the machine affects all of them.

    Each turn begins with another contender. One more turn comes first as a warm-up, for example for a compiler.
    """
    names = list(contenders)
    results: dict[Contender, list[Turn]] = {name: [] for name in names}
    for turn in tqdm(range(num_turns + 1), unit="turn", leave=False):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            result = contenders[name]()
            if turn > 0:
                results[name].append(result)
    return results


def rows_of(speeds: Mapping[Contender, Sequence[float]]) -> list[dict[str, Any]]:
    """Returns a row for each contender from its images per second, one number per round."""
    rows = []
    for (setting, package), rounds in speeds.items():
        row: dict[str, Any] = {"setting": setting, "package": package}
        row["images_per_second"] = statistics.median(rounds)
        if package != OURS:
            ratios = ratios_of(speeds[setting, OURS], rounds)
            row |= {"ratio": statistics.median(ratios), "ratio_range": [min(ratios), max(ratios)]}
        rows.append({**row, "rounds": list(rounds)})
    return rows


def ratios_of(speeds: Sequence[float], others: Sequence[float]) -> list[float]:
    """Returns the ratio of two speeds in each round."""
    return [speed / other for speed, other in zip(speeds, others, strict=True)]


def device_of_benchmarks() -> torch.device:
    """Returns the accelerator if there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def default_batch_size() -> int:
    """Returns the images per step if the user has not chosen them: few on CPUs, where a step takes long."""
    return 8 if device_of_benchmarks().type == "cpu" else 256


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[None]:
    """Mixed precision with float32 weights; does nothing for float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


@contextlib.contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Sets the number of torch's threads on the CPU, and restores it at the end; None keeps it."""
    before = torch.get_num_threads()
    if number is not None:
        check("threads", number, lambda v: v >= 1, "1 or more")
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_compiler(device: torch.device) -> None:
    """Raises a ValueError if `torch.compile` would not find the C++ compiler that it needs on CPUs."""
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise ValueError(f"`compile` needs a C++ compiler, but there is no `{compiler}`; install it, or leave it out")


def environment(device: torch.device | None = None) -> dict[str, str]:
    """Returns machine, Python and versions of the libraries that a result depends on.

    Args:
        device: that was used; that of benchmarks by default.
    """
    device = device_of_benchmarks() if device is None else device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _name_of_cpu()
    versions = {library: installed_version(library) for library in LIBRARIES}
    return {"device": name, "CPUs": str(os.cpu_count()), "Python": platform.python_version(), **versions}


def _name_of_cpu() -> str:
    info = Path("/proc/cpuinfo")  # of Linux
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
