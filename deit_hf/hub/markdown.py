"""Text for a Markdown page: names that anybody chose, so that they are shown as they are and change nothing else.

GitHub's dialect, which the Hub renders: HTML, tables, code.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


# An underscore within a word means nothing.
_SPECIAL = re.compile(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_JOINERS = "\u200c\u200d"  # of letters and of pictures, in some scripts
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def one_line(value: Any) -> str:
    """The value's text without line breaks and control characters, in characters that UTF-8 has."""
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    return " ".join("".join(c if c.isprintable() or c in _JOINERS else " " for c in text).split())


def escaped(value: Any) -> Markdown:
    """The value as plain text in a line, a table's cell or a heading; `Markdown` stays as it is."""
    if isinstance(value, Markdown):
        return value
    text = _SPECIAL.sub(r"\\\g<0>", one_line(value))
    return Markdown("".join(_HTML.get(character, character) for character in text))


def quoted(value: str) -> Markdown:
    """A string of Python within a block or span of code, which no character in it ends."""
    text = json.dumps(value)
    return Markdown("".join(rf"\u{ord(c):04x}" if c in "<>&`" else c for c in text))


def code_block(text: str, language: str = "") -> Markdown:
    """A block of code behind fences that are longer than any in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return Markdown(f"{fence}{language}\n{text}\n{fence}")


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Markdown:
    """A table; all cells are escaped."""
    head_line, *lines = (
        f"|{'|'.join(f' {escaped(cell)} ' if cell != '' else ' ' for cell in line)}|" for line in (head, *rows)
    )
    return Markdown("\n".join([head_line, f"|{'---|' * len(head)}", *lines]))
