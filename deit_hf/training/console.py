"""What the commands print in addition to their results: messages of this package, and few of other libraries.

Only the commands call `set_up_logging`; importing the package changes nothing. The bar is in progress.py.
"""

import logging
import multiprocessing
import os
import re
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

# Environment variables by which a user has decided about the bars of libraries.
DOWNLOADS, PREPARED_DATA = "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"


class Silenced(NamedTuple):
    """A message of another library about which the user of a command can do nothing.

    Attributes:
        source: logger, or class of a warning.
        start: first words of a warning, without a comma or colon; words of the message of a logger.
        reason: why it does not help.
    """

    source: str | type[Warning]
    start: str
    reason: str


SILENCED = (
    Silenced(
        "transformers.configuration_utils",
        "You passed `num_labels=",
        "The classes of the data replace those of the weights, which build.py logs.",
    ),
    Silenced(
        "huggingface_hub.utils._http",
        "thrown while requesting",
        "A line about the next try follows, and an error after the last one.",
    ),
    Silenced(
        "transformers.modeling_utils",
        "Reinit due to size mismatch",
        "A report of several lines about the new classifier, which build.py logs in one line.",
    ),
    Silenced(
        "transformers.trainer_utils",
        "Warning: The following arguments do not match the ones in the `trainer_state.json`",
        "A resumed run compares its options itself, logs the changes, and takes the new intervals (same_run.py).",
    ),
    Silenced(
        UserWarning,
        "Palette images with Transparency expressed in bytes should be converted to RGBA images",
        "Pillow repeats it for each such image; decoding.py converts every image to RGB.",
    ),
    Silenced(
        UserWarning,
        "Corrupt EXIF data",
        "Pillow repeats it for each such image; the pixels are read without a fault.",
    ),
    Silenced(
        UserWarning,
        "Detected call of `lr_scheduler.step()` before `optimizer.step()`",
        "In fp16, the scaler skips the first steps while it looks for a scale; `Trainer` calls both in order.",
    ),
)


class AboveBars(logging.Handler):
    """Writes messages on stderr, above a bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if multiprocessing.parent_process() is None:
            tqdm.write(text, file=sys.stderr)
        else:  # a data worker has a copy of the bar
            sys.stderr.write(f"{text}\n")


class UsefulMessages(logging.Filter):
    """Drops the messages in `SILENCED`, and Python warnings that were already printed."""

    def __init__(self) -> None:
        super().__init__()
        self._warnings: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if record.name == "py.warnings":
            is_new = text not in self._warnings
            self._warnings.add(text)
            return is_new
        return not any(record.name == source and start in text for source, start, _ in SILENCED)


def set_up_logging(*, verbose: bool) -> None:
    """Sets up what a command prints on stderr; a later call replaces an earlier one.

    Messages have no prefix. Those of this package start at INFO, those of others at WARNING, without `SILENCED`.
    Processes other than the first print errors only.

    Args:
        verbose: whether other libraries print all that they print by themselves, and transformers from INFO.
    """
    is_first = os.environ.get("RANK", "0") == "0"  # set by torchrun and `accelerate launch`
    handler, root = AboveBars(), logging.getLogger()
    handler.setFormatter(logging.Formatter("%(message)s"))
    for earlier in [each for each in root.handlers if isinstance(each, AboveBars)]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("deit_hf").setLevel(logging.INFO)
    if verbose:
        logging.captureWarnings(False)
        warnings.resetwarnings()
        _let_libraries_print()
        return
    handler.addFilter(UsefulMessages())
    _quiet_libraries(has_terminal=sys.stderr.isatty() and is_first)
    _ignore_warnings()
    if not is_first:
        handler.setLevel(logging.ERROR)
        warnings.simplefilter("ignore")
    logging.captureWarnings(True)  # written by the handler
    warnings.formatwarning = _in_one_line


def _let_libraries_print() -> None:
    from datasets.utils import enable_progress_bars  # slow to import
    from transformers.utils import logging as transformers_logging

    transformers_logging.enable_default_handler()
    transformers_logging.disable_propagation()
    transformers_logging.set_verbosity_info()
    if DOWNLOADS not in os.environ:
        transformers_logging.enable_progress_bar()
    if PREPARED_DATA not in os.environ:
        enable_progress_bars()


def _quiet_libraries(*, has_terminal: bool) -> None:
    """Sends the messages of transformers to our handler; leaves bars of downloads and of data that is prepared."""
    from datasets.utils import disable_progress_bars
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging as transformers_logging

    logging.getLogger("huggingface_hub").handlers.clear()  # or its messages appear twice
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    if DOWNLOADS not in os.environ:
        transformers_logging.disable_progress_bar()  # of weights, which takes a second; and of downloads
        if has_terminal:
            enable_progress_bars()
    if not has_terminal and PREPARED_DATA not in os.environ:
        disable_progress_bars()


def _ignore_warnings() -> None:
    of_workers = os.environ.get("PYTHONWARNINGS", "").split(",")
    for source, start, _ in SILENCED:
        if isinstance(source, type):
            warnings.filterwarnings("ignore", re.escape(start), source)
            of_workers.append(f"ignore:{start}:{source.__name__}")  # for data workers that are not forked
    os.environ["PYTHONWARNINGS"] = ",".join(dict.fromkeys(filter(None, of_workers)))


def _in_one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return (
        f"{category.__name__} of {Path(filename).parent.name}/{Path(filename).name}: {' '.join(str(message).split())}"
    )
