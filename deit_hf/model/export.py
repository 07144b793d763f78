"""Exports an image classifier to ONNX, in the layout that transformers.js reads, and checks it.

transformers.js, the Hub's JavaScript library, reads `config.json`, `preprocessor_config.json`, and in the folder
`onnx/` `model.onnx`, or `model_quantized.onnx` for 8-bit weights (its dtype `q8`, the default in a browser without
WebGPU). The input is `pixel_values`; it reads the output `logits`. Checked with its version 4.3.
"""

import contextlib
import importlib.util
import io
import logging
import os
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..atomic_files import written_aside
from .export_readme import readme_of
from .image_processing_deit import savable_processor
from .probabilities import check_finite

ONNX_FILE, INT8_FILE = "onnx/model.onnx", "onnx/model_quantized.onnx"
HEADS = ("logits", "cls_logits", "distillation_logits")  # outputs that are exported, if the model has them
# Largest difference of a logit between the model and the exported file: absolute, or of the largest logit if that is
# above 1. Different orders of float32 sums give about 1e-5.
TOLERANCE = 1e-3
CHECKED_BATCHES = (1, 3)
LARGEST_SINGLE_FILE = 1.9e9  # bytes; an ONNX file holds at most 2 GiB, and larger weights are in a file of their own
TIMED_RUNS = 20


def check_onnx_installed() -> None:
    """Raises an ImportError with the command that installs what is missing."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'an export needs {", ".join(missing)}; install with: pip install "deit_hf[onnx]"')


def check_directory(directory: str | Path, *, overwrite: bool) -> None:
    """Checks that an export may be written to a directory.

    Raises:
        FileExistsError: it is a file, or it holds files and `overwrite` is False, or it holds the weights of a model.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"`{directory}` is a file; name a directory for the export")
    if not directory.is_dir() or not any(directory.iterdir()):
        return
    if any(directory.glob("*.safetensors")):  # its README.md is a model card
        raise FileExistsError(f"`{directory}` holds a trained model, which an export does not overwrite; name another")
    if not overwrite:
        raise FileExistsError(f"`{directory}` is not empty; name another directory, or pass `--overwrite`")


def export_onnx(
    model: PreTrainedModel,
    processor: Any,
    directory: str | Path,
    pixel_values: Tensor,
    *,
    int8: bool = False,
    overwrite: bool = False,
) -> float:
    """Exports a classifier to ONNX with a free batch size; the directory is written only if the file is correct.

    The directory gets `onnx/model.onnx`, `config.json`, `preprocessor_config.json` and a `README.md` that describes
    the preprocessing.

    Args:
        model: any image classifier of transformers; it is exported in float32.
        processor: its image processor.
        directory: for the export; created if it does not exist.
        pixel_values: (N, channels, height, width), views of three images or more, on which the file is checked.
        int8: also write `onnx/model_quantized.onnx`: 8-bit weights, by onnxruntime's dynamic quantisation.
        overwrite: whether the directory may hold files; those of an earlier export are replaced.

    Returns:
        The largest difference of a logit between model and file, in batches of one and of three.

    Raises:
        FileExistsError: see `check_directory`.
        ImportError: the extra `onnx` is not installed.
        ValueError: the model cannot be exported, or the difference is larger than `TOLERANCE`, or a logit is NaN or
            infinite.
    """
    check_onnx_installed()
    check_directory(directory, overwrite=overwrite)
    model, pixel_values = model.eval().float().cpu(), pixel_values.float().cpu()
    processor = savable_processor(processor)
    with written_aside(directory) as aside:
        (aside / "onnx").mkdir()
        _export(model, aside / ONNX_FILE, pixel_values)
        difference = _checked_difference(model, aside / ONNX_FILE, pixel_values)
        if int8:
            _quantize(model, aside / ONNX_FILE, aside / INT8_FILE)
        model.config.save_pretrained(aside)
        processor.save_pretrained(aside)
        settings, size = processor.to_dict(), (pixel_values.shape[-2], pixel_values.shape[-1])
        readme = readme_of(Path(directory).absolute().name, model.config, settings, size, int8=int8)
        (aside / "README.md").write_text(readme, encoding="utf-8")
    return difference


class _Heads(nn.Module):
    """The logits of a model as a tuple, without a loss or hidden states."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(pixel_values=pixel_values)
        return tuple(outputs[name] for name in self.names)


@torch.no_grad()
def _export(model: PreTrainedModel, file: Path, pixel_values: Tensor) -> None:
    outputs = model(pixel_values=pixel_values[:2])
    names = [name for name in HEADS if name in outputs]
    weight_bytes = sum(weight.numel() * 4 for weight in model.state_dict().values())
    try:
        with quiet():
            torch.onnx.export(
                _Heads(model, names).eval(),
                (pixel_values[:2],),
                file,
                dynamic_shapes={"pixel_values": {0: "batch"}},
                input_names=["pixel_values"],
                output_names=names,
                external_data=weight_bytes > LARGEST_SINGLE_FILE,
                verbose=False,
            )
    except OSError:
        raise
    except Exception as error:  # many kinds, for what torch.export or ONNX cannot express
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(
            f"a {type(model).__name__} cannot be exported to ONNX by torch {torch.__version__}: {reason.strip()[:200]}"
        ) from error


@torch.no_grad()
def _checked_difference(model: PreTrainedModel, file: Path, pixel_values: Tensor) -> float:
    """The largest difference of a logit; raises a ValueError if it is above the tolerance, or not a number."""
    session, largest = session_of(file), 0.0
    for batch_size in CHECKED_BATCHES:
        for batch in pixel_values.split(batch_size):
            outputs = model(pixel_values=batch)
            names = [output.name for output in session.get_outputs()]
            for name, found in zip(names, session.run(names, {"pixel_values": batch.numpy()}), strict=True):
                check_finite(outputs[name])
                expected = outputs[name].numpy()  # (B, C)
                difference = float(np.abs(found - expected).max())
                if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
                    raise ValueError(
                        f"the exported file is wrong: its `{name}` differ from the model's by {difference:.3g} in a "
                        f"batch of {len(batch)}, more than the tolerance of {TOLERANCE}; nothing was written. Report "
                        f"it with the versions of torch ({torch.__version__}) and onnxruntime"
                    )
                largest = max(largest, difference)
    return largest


def _quantize(model: PreTrainedModel, source: Path, target: Path) -> None:
    """Stores weights in 8 bits.

    Unsigned, because signed products can overflow on processors without VNNI, and were twice as far off on a DeiT-Ti.
    A convolution becomes smaller but slower, so the patch embedding of a transformer stays as it is, and a model that
    consists mostly of convolutions does not.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    in_convolutions = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d))
    kinds = ["MatMul", "Gemm"] + ["Conv"] * (in_convolutions > sum(p.numel() for p in model.parameters()) / 2)
    with quiet():
        quantize_dynamic(source, target, op_types_to_quantize=kinds, weight_type=QuantType.QUInt8)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides what the exporter and the quantiser print about their own steps; errors pass through."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# ---- using an exported file ----


def session_of(file: str | Path) -> Any:
    """An onnxruntime session on the CPU that runs an exported file."""
    import onnxruntime

    return onnxruntime.InferenceSession(os.fspath(file), providers=["CPUExecutionProvider"])


def milliseconds(session: Any, pixel_values: Tensor) -> float:
    """The median time of a session for a batch of one image (1, channels, height, width)."""
    feed, times = {"pixel_values": pixel_values[:1].float().cpu().numpy()}, []
    for _ in range(TIMED_RUNS + 2):  # the first two are slower
        start = time.perf_counter()
        session.run(["logits"], feed)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[2:])


def megabytes(file: Path) -> float:
    """The size of an exported file, with its file of weights if it has one."""
    weights = file.with_name(file.name + ".data")
    return (file.stat().st_size + (weights.stat().st_size if weights.exists() else 0)) / 1e6
