"""What is stored of a teacher's answers: the columns of a file, the rows from logits, and their checksums.

A file holds one epoch. Its row i is the answer to the view at position i of the epoch's global order. Rows are written
and checked in blocks of `BLOCK` positions.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

BLOCK = 64  # positions
DEFAULT_TOP_K = 10
MAX_FULL_CLASSES = 128  # up to here, the logits of all classes are stored
VIEW_CHECKSUMS, ANSWER_CHECKSUMS = "view_checksums", "answer_checksums"

Rows = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class AnswerFormat:
    """Kind and size of the stored answers.

    Attributes:
        kind: `hard` stores the teacher's class, 2 bytes a view; `soft` its largest logits.
        num_classes: C.
        num_views: N, views of an epoch.
        top_k: k, logits stored of a view, for `soft`: as given, 10 by default; all C classes if C <= 128.
        temperature: τ at which `log_normalizer` is stored, for `soft`.
    """

    kind: Literal["hard", "soft"]
    num_classes: int
    num_views: int
    top_k: int | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        """Checks the values, and sets `top_k`.

        Raises:
            ValueError: a value is not allowed.
        """
        if self.kind not in ("hard", "soft"):
            raise ValueError(f"the kind of stored answers is {self.kind!r}, but must be 'hard' or 'soft'")
        for name in ("num_classes", "num_views"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` of stored answers is {getattr(self, name)}, but must be at least 1")
        if self.kind == "hard":
            if self.top_k is not None or self.temperature is not None:
                raise ValueError("hard answers have neither `top_k` nor `temperature`; leave both out")
            return
        if self.temperature is None or not self.temperature > 0:
            raise ValueError(f"`temperature` of soft answers is {self.temperature}, but must be greater than 0")
        top_k = DEFAULT_TOP_K if self.top_k is None else self.top_k
        if top_k < 1:
            raise ValueError(f"`top_k` of soft answers is {top_k}, but must be at least 1")
        stored = self.num_classes if self.num_classes <= MAX_FULL_CLASSES else min(top_k, self.num_classes)
        object.__setattr__(self, "top_k", stored)

    @property
    def num_blocks(self) -> int:
        """Number of blocks of an epoch; the last one may be shorter."""
        return -(-self.num_views // BLOCK)

    def positions(self, block: int) -> range:
        """The positions of a block."""
        return range(block * BLOCK, min((block + 1) * BLOCK, self.num_views))

    @property
    def answers(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Type and shape of a row of each column of answers, by name."""
        index = np.dtype(np.uint16 if self.num_classes <= 1 << 16 else np.uint32)
        if self.top_k is None:
            return {"answers": (index, ())}
        return {
            "indices": (index, (self.top_k,)),
            "logits": (np.dtype(np.float16), (self.top_k,)),
            "log_normalizer": (np.dtype(np.float32), ()),
        }

    @property
    def columns(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Type and shape of each tensor of a file, by name."""
        answers = {name: (dtype, (self.num_views, *row)) for name, (dtype, row) in self.answers.items()}
        checksums = (np.dtype(np.uint32), (self.num_blocks,))
        return {**answers, VIEW_CHECKSUMS: checksums, ANSWER_CHECKSUMS: checksums}

    @property
    def bytes_per_epoch(self) -> int:
        """Size of a file without its header."""
        return sum(dtype.itemsize * int(np.prod(shape)) for dtype, shape in self.columns.values())


def answer_rows(logits: Tensor, answer_format: AnswerFormat) -> dict[str, np.ndarray]:
    """What is stored of these logits.

    Hard: the class that `hard_distillation_loss` would take, also if several logits are equal. Soft: the k greatest
    logits in descending order, rounded to float16, and logsumexp of logits / τ over all classes, computed in float64
    with the rounded logits of the k classes and the exact ones of the others, and rounded up to float32, so that the
    probabilities of the k classes never sum to more than 1.

    Args:
        logits: (B, C), of the teacher, in the student's order of classes.
        answer_format: of the store.

    Returns:
        The columns of `answer_format.answers`, each with B rows.

    Raises:
        ValueError: the logits have another number of classes, or are not finite, or are too large for float16.
    """
    if logits.ndim != 2 or logits.shape[1] != answer_format.num_classes:
        raise ValueError(
            f"the teacher's logits are {tuple(logits.shape)}, but the store holds answers for "
            f"{answer_format.num_classes} classes; use the teacher for which it was created, or another store"
        )
    precise = logits.detach().float()
    precise = precise.cpu() if precise.device.type == "mps" else precise  # it has no float64
    if not precise.isfinite().all():
        raise ValueError(
            "the teacher's logits are not finite, so its answers are not stored; use another dtype for the teacher"
        )
    types = {name: dtype for name, (dtype, _) in answer_format.answers.items()}
    if answer_format.top_k is None or answer_format.temperature is None:
        return {"answers": precise.max(dim=-1).indices.cpu().numpy().astype(types["answers"])}
    values, indices = precise.sort(dim=-1, descending=True, stable=True)  # (B, C)
    values, others = values[:, : answer_format.top_k], values[:, answer_format.top_k :]
    rounded = values.half()
    if not rounded.isfinite().all():
        raise ValueError(
            f"the teacher's largest logit is {values.abs().max().item():g}, but float16 ends at 65504, so its "
            "answers cannot be stored; use hard distillation, or another teacher"
        )
    scaled = torch.cat([rounded.double(), others.double()], dim=-1) / answer_format.temperature
    exact = scaled.logsumexp(dim=-1)
    normalizer = exact.float()
    above = torch.nextafter(normalizer, torch.full_like(normalizer, torch.inf))
    normalizer = torch.where(normalizer.double() < exact, above, normalizer)
    return {
        "indices": indices[:, : answer_format.top_k].cpu().numpy().astype(types["indices"]),
        "logits": rounded.cpu().numpy(),
        "log_normalizer": normalizer.cpu().numpy(),
    }


def answer_checksum(rows: Rows, answer_format: AnswerFormat, block: int, view_checksum: int) -> int:
    """CRC-32 of the rows of a block, its number and the checksum of its views."""
    checksum = zlib.crc32(np.array([block, view_checksum], dtype="<u4").tobytes())
    for name in answer_format.answers:
        checksum = zlib.crc32(np.ascontiguousarray(rows[name]).data, checksum)
    return checksum
