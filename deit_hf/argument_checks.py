"""Range and choice checks that all option classes share."""

import math
from collections.abc import Callable


def check(name: str, value: float, allowed: Callable[[float], bool], description: str) -> None:
    if not (math.isfinite(value) and allowed(value)):
        raise ValueError(f"`{name}` is {value}, but must be {description}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` is {value!r}, but must be one of {', '.join(choices)}")
