"""Speed and memory of the distilled DeiT compared with timm and transformers: inference and a step of training.

All have the same weights and take turns step by step in one process, on the accelerator if there is one. A training
step is the mean of the cross-entropies of both heads, its gradient, and a step of AdamW.
"""

import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from ..analysis.model_cost import model_cost
from ..argument_checks import check, check_choice
from ..model.configuration_deit import DeiTConfig
from ..model.modeling_deit import DeiTForImageClassificationWithTeacher
from ..model.variants import VARIANTS
from .comparison import (
    DTYPES,
    OURS,
    Comparison,
    Contender,
    autocast,
    check_compiler,
    default_batch_size,
    device_of_benchmarks,
    in_turn,
    rows_of,
    synchronize,
    threads,
)
from .peers import timm_model, transformers_model

DISTILLED = tuple(name for name in VARIANTS if "distilled" in name)
PASSES = ("inference", "training step")
STEPS_PER_ROUND = 3  # a round counts as their median
STOCHASTIC_DEPTH = "stochastic depth in a training step: rate {} in deit_hf and timm; transformers has none"
MEMORY = (
    "peak memory: weights, optimizer state, gradients and activations of one step, as torch's allocator counts them{}"
)
SHARE = "operations of the whole model per second, three times as many in training, by that speed"
BY_PROFILER = "; on CPUs read from the trace of torch's profiler, in one more step"


@dataclass
class Student:
    """One of the models that are compared.

    Attributes:
        model: takes normalised pixels.
        optimizer: AdamW with the paper's weight decay.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def heads(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits of both heads; timm returns them only in training mode."""
        output = self.model(pixels)
        return output if isinstance(output, tuple) else (output.cls_logits, output.distillation_logits)

    def logits(self, pixels: Tensor) -> Tensor:
        """Returns the mean of both heads' logits."""
        output = self.model(pixels)
        return output if isinstance(output, Tensor) else output.logits

    def state_bytes(self) -> int:
        """Returns the size of weights, buffers and optimizer state."""
        states = (value for state in self.optimizer.state.values() for value in state.values())
        tensors = itertools.chain(self.model.parameters(), self.model.buffers(), states)
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))


@dataclass(frozen=True)
class Steps:
    """Steps on one random batch.

    Attributes:
        pixels: (B, channels, height, width).
        labels: (B,).
        dtype: of the products; weights stay in float32, as in mixed precision training.
    """

    pixels: Tensor
    labels: Tensor
    dtype: torch.dtype

    def step(self, student: Student, name: str) -> None:
        """Runs one of `PASSES`."""
        if name == "inference":
            with torch.no_grad(), autocast(self.pixels.device, self.dtype):
                student.logits(self.pixels)
            return
        student.optimizer.zero_grad()
        with autocast(self.pixels.device, self.dtype):
            losses = [F.cross_entropy(head, self.labels) for head in student.heads(self.pixels)]
        (sum(losses[1:], losses[0]) / 2).backward()
        student.optimizer.step()

    def seconds(self, student: Student, name: str) -> float:
        """Returns the duration of one step."""
        start = time.perf_counter()
        self.step(student, name)
        synchronize(self.pixels.device)
        return time.perf_counter() - start


def measure_models(
    variants: Sequence[str],
    *,
    batch_size: int | None = None,
    num_rounds: int = 5,
    image_size: int = 224,
    dtype: str = "float32",
    compiled: bool = False,
    num_threads: int | None = None,
) -> Comparison:
    """Measures all variants in deit_hf, timm and transformers.

    Args:
        variants: names from `DISTILLED`.
        batch_size: images per step. Default: 8 on CPUs, 256 on an accelerator.
        num_rounds: measured rounds; each is the median of a few steps.
        image_size: side of an image in pixels, a multiple of 16.
        dtype: `float32`, or `bfloat16` for mixed precision.
        compiled: whether all models are compiled with `torch.compile`.
        num_threads: of torch on the CPU. Default: torch's own choice.

    Raises:
        ValueError: a variant is unknown, a number is out of range, or there is no compiler.
    """
    device = device_of_benchmarks()
    batch_size = default_batch_size() if batch_size is None else batch_size
    for variant in variants:
        check_choice("variants", variant, DISTILLED)
    check("batch_size", batch_size, lambda v: v >= 1, "1 or more")
    check("num_rounds", num_rounds, lambda v: v >= 1, "1 or more")
    check("image_size", image_size, lambda v: v >= 16 and v % 16 == 0, "a multiple of 16 pixels")
    check_choice("dtype", dtype, tuple(DTYPES))
    if compiled:
        check_compiler(device)
    torch.manual_seed(0)
    pixels = torch.randn(batch_size, 3, image_size, image_size).to(device)
    steps = Steps(pixels, torch.randint(0, 1000, (batch_size,)).to(device), DTYPES[dtype])
    with threads(num_threads):
        rate = None if device.type == "cpu" else matrix_rate(device, DTYPES[dtype])
        rows, notes = [], [STOCHASTIC_DEPTH.format(DeiTConfig().drop_path_rate)]
        for variant in dict.fromkeys(variants):
            new_rows, difference = _measure_variant(variant, steps, num_rounds, rate, compiled=compiled)
            rows += new_rows
            notes.append(f"{variant}: the logits of the three differ by at most {difference:.1g}")
        settings = {"dtype": dtype, "compiled": compiled, "threads": torch.get_num_threads()}
    notes.append(MEMORY.format(BY_PROFILER if device.type == "cpu" else ""))
    if rate is not None:
        notes.append(f"the product of two square matrices reaches {rate / 1e12:.3g} TFLOP/s; its share: {SHARE}")
    sizes = {"batch_size": batch_size, "image_size": image_size, "num_rounds": num_rounds}
    return Comparison("model", {**sizes, "steps_per_round": STEPS_PER_ROUND, **settings}, rows, notes)


def _measure_variant(
    variant: str, steps: Steps, num_rounds: int, rate: float | None, *, compiled: bool
) -> tuple[list[dict[str, Any]], float]:
    """Returns the rows of a variant, and the largest difference of the logits."""
    batch_size, _, _, image_size = steps.pixels.shape
    students = _students(variant, image_size, steps.pixels.device)
    rows: list[dict[str, Any]] = []
    difference = _largest_difference(students, steps.pixels)
    for student in students.values() if compiled else ():
        student.model.compile()
    sizes = {name: VARIANTS[variant][name] for name in ("hidden_size", "intermediate_size", "use_distillation_token")}
    flops = 2 * model_cost(image_size=image_size, **sizes).multiply_adds
    for name in PASSES:
        contenders: dict[Contender, Callable[[], float]] = {}
        for package, student in students.items():
            student.model.train(name != "inference")
            contenders[f"{variant}, {name}", package] = partial(steps.seconds, student, name)
        seconds = in_turn(contenders, num_rounds * STEPS_PER_ROUND)
        rounds = {contender: _medians(each) for contender, each in seconds.items()}
        new_rows = rows_of({contender: [batch_size / each for each in times] for contender, times in rounds.items()})
        for row in new_rows:
            row["peak_mib"] = _peak_mib(students[row["package"]], steps, name)
            if rate is not None:
                work = (1 if name == "inference" else 3) * flops * row["images_per_second"]
                row["matrix_share"] = work / rate
        rows += new_rows
    return rows, difference


def _students(variant: str, image_size: int, device: torch.device) -> dict[str, Student]:
    ours = DeiTForImageClassificationWithTeacher(DeiTConfig.from_variant(variant, image_size=image_size))
    theirs: Any = timm_model(variant, ours)
    theirs.set_distilled_training(True)
    models = {OURS: ours, "timm": theirs, "transformers": transformers_model(ours)}
    return {
        package: Student(model.to(device), torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.05))
        for package, model in models.items()
    }


@torch.no_grad()
def _largest_difference(students: dict[str, Student], pixels: Tensor) -> float:
    for student in students.values():
        student.model.eval()
    ours, *others = (student.logits(pixels) for student in students.values())
    return max(float((ours - other).abs().max()) for other in others)


def _medians(seconds: list[float]) -> list[float]:
    """Returns the median of each round."""
    starts = range(0, len(seconds), STEPS_PER_ROUND)
    return [statistics.median(seconds[start : start + STEPS_PER_ROUND]) for start in starts]


def _peak_mib(student: Student, steps: Steps, name: str) -> float | None:
    """Returns the highest memory of a model during one step in MiB; None on an accelerator that does not tell."""
    student.optimizer.zero_grad()
    device = steps.pixels.device
    if device.type == "cpu":
        extra = peak_bytes_on_cpu(lambda: steps.step(student, name))
    elif device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        steps.step(student, name)
        extra = torch.cuda.max_memory_allocated(device) - before
    else:
        return None
    return (student.state_bytes() + extra) / 2**20


def peak_bytes_on_cpu(run: Callable[[], None]) -> int:
    """Returns the most bytes that a function holds at a time; the trace of torch's profiler has each allocation."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or the profiler reports that it runs, and that there is no GPU
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    return max(itertools.accumulate((size for _, size in changes), initial=0))


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Returns the operations per second of a product of square matrices: the median of ten."""
    size = 1024 if device.type == "cpu" else 8192
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    times = []
    for _ in range(11):
        start = time.perf_counter()
        matrix @ matrix
        synchronize(device)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(times[1:])
