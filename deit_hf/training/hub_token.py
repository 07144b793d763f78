"""The Hub's token in the options of a run: kept in memory, in no file and in no text."""

import copy
from typing import Any


def without_token(self: Any) -> dict[str, Any]:
    """As `__getstate__` of options: what is pickled lies on the disk, in training_args.bin."""
    return {**self.__dict__, "hub_token": None}


def shallow_copy(self: Any) -> Any:
    """As `__copy__` of options: with the token, which a copy by way of `__getstate__` would lose."""
    copied = object.__new__(type(self))
    copied.__dict__ = dict(self.__dict__)
    return copied


def deep_copy(self: Any, memo: dict[int, Any]) -> Any:
    """As `__deepcopy__` of options: with the token."""
    copied = memo[id(self)] = object.__new__(type(self))
    copied.__dict__ = copy.deepcopy(self.__dict__, memo)
    return copied
