"""Escapes text for Markdown, so that arbitrary names are displayed literally and do not change the page.

The dialect is GitHub's, which the Hub renders: HTML, tables, code.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any


class Markdown(str):
    """Text that is already Markdown and must not be escaped."""

    __slots__ = ()


# An underscore within a word has no special meaning.
_SPECIAL = re.compile(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_JOINERS = "\u200c\u200d"  # join letters in some scripts, and emoji
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def one_line(value: Any) -> str:
    """Converts a value to text on one line, without control characters, that can be encoded as UTF-8."""
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    return " ".join("".join(c if c.isprintable() or c in _JOINERS else " " for c in text).split())


def escaped(value: Any) -> Markdown:
    """Escapes a value for a line, a table cell or a heading; returns `Markdown` unchanged."""
    if isinstance(value, Markdown):
        return value
    text = _SPECIAL.sub(r"\\\g<0>", one_line(value))
    return Markdown("".join(_HTML.get(character, character) for character in text))


def quoted(value: str) -> Markdown:
    """Formats a Python string literal that cannot end the code block or code span around it."""
    text = json.dumps(value)
    return Markdown("".join(rf"\u{ord(c):04x}" if c in "<>&`" else c for c in text))


def code_block(text: str, language: str = "") -> Markdown:
    """Formats a code block, with fences longer than any in `text`."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return Markdown(f"{fence}{language}\n{text}\n{fence}")


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Markdown:
    """Formats a table; all cells are escaped."""
    head_line, *lines = (
        f"|{'|'.join(f' {escaped(cell)} ' if cell != '' else ' ' for cell in line)}|" for line in (head, *rows)
    )
    return Markdown("\n".join([head_line, f"|{'---|' * len(head)}", *lines]))
