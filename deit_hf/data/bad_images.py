"""The list of images that could not be decoded, in the output directory of a run.

In training, another image replaces a bad one (dataset.py). In evaluation, a bad image is an error, because replacing
it would change what the accuracy is measured on.
"""

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState
from accelerate.utils import gather_object
from filelock import FileLock
from transformers import TrainerCallback

logger = logging.getLogger(__name__)

FILE_NAME = "bad_images.jsonl"
LOCK = ".bad_images.lock"
PREVIOUS_FILE_NAME = "bad_images.previous.jsonl"  # of an earlier run in the same directory

OnBadImage = Literal["error", "skip"]


class BadImageList(TrainerCallback):
    """Writes `bad_images.jsonl` in the output directory, with one line for each bad image of the run.

    Data workers find bad images and send them with their batch. Each training process adds them to the file when it
    trains on the batch. A lock is held meanwhile, and no image is listed twice. A resumed run continues the list;
    a new run renames an existing list to `bad_images.previous.jsonl`.
    """

    def __init__(self, output_dir: str | Path):
        self.path = Path(output_dir) / FILE_NAME
        self._listed: set[tuple] = set()
        self._should_save = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0 and args.should_save and self.path.exists():
            os.replace(self.path, self.path.with_name(PREVIOUS_FILE_NAME))
        PartialState().wait_for_everyone()  # before any process adds to it
        self._listed, self._should_save = set(), args.should_save

    def add(self, bad_images: Iterable[dict[str, Any]]) -> None:
        """Adds the images that are not listed yet."""
        new = {_name(bad): bad for bad in bad_images if _name(bad) not in self._listed}
        if not new:
            return
        with FileLock(self.path.with_name(LOCK)), open(self.path, "a+b") as file:  # released if the process ends
            listed = _complete_lines(file)
            lines = [bad for name, bad in new.items() if name not in listed]
            file.write(b"".join(json.dumps(bad).encode() + b"\n" for bad in lines))
        if lines and not listed:
            logger.warning(
                "%s. It is replaced by another image, like all images listed in %s", lines[0]["reason"], self.path
            )
        self._listed = listed | new.keys()

    def count(self) -> int:
        """Number of bad images of all processes. All processes must call it."""
        listed = self.read() if self.path.exists() else []
        everywhere = gather_object(listed)  # other machines may not share this disk
        if self._should_save:
            self.add(everywhere)
        num_bad = len(set(map(_name, everywhere)))
        if num_bad and PartialState().is_main_process:
            logger.warning("%d bad images were replaced by others; %s lists them", num_bad, self.path)
        return num_bad

    def read(self) -> list[dict[str, Any]]:
        """The listed images."""
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]


def _name(bad_image: dict[str, Any]) -> tuple:
    """Identity of a bad image: file and row; in a stream, shard and row."""
    return bad_image["file"], bad_image["row"]


def _complete_lines(file: Any) -> set[tuple]:
    """The images listed in an open file; removes an incomplete last line, which a killed process may leave."""
    file.seek(0)
    content = file.read()
    complete = content[: content.rfind(b"\n") + 1]
    file.truncate(len(complete))
    return {_name(json.loads(line)) for line in complete.splitlines()}
