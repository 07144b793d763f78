"""Range and choice checks that all option classes share, and what an error may quote of a command line."""

import math
import re
from collections.abc import Callable, Sequence

_TOKEN = re.compile(r"\b(?:hf_|api_org_)[A-Za-z0-9]{20,}|\bhf_(?:oauth|jwt)_[\w.-]{20,}")  # as the Hub gives them out


def check(name: str, value: float, allowed: Callable[[float], bool], description: str) -> None:
    if not (math.isfinite(value) and allowed(value)):
        raise ValueError(f"`{name}` is {value}, but must be {description}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` is {value!r}, but must be one of {', '.join(choices)}")


def unknown_options(arguments: Sequence[str]) -> str:
    """Names of what a command line has too much, without the values of options: one may be a token.

    Args:
        arguments: those that no option took, in their order.
    """
    names = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
    values = [] if names else [without_tokens(argument) for argument in arguments]
    return ", ".join(names or values)


def without_tokens(text: str) -> str:
    """A text with `<token>` for whatever looks like a token of the Hub."""
    return _TOKEN.sub("<token>", text)
