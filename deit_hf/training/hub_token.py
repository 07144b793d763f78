"""Keeps the Hub token of the options in memory only: it is written to no file and no text."""

import copy
from typing import Any


def without_token(self: Any) -> dict[str, Any]:
    """`__getstate__` of the options, without the token: pickled options are written to training_args.bin."""
    return {**self.__dict__, "hub_token": None}


def shallow_copy(self: Any) -> Any:
    """`__copy__` of the options, with the token: the default, which uses `__getstate__`, would lose it."""
    copied = object.__new__(type(self))
    copied.__dict__ = dict(self.__dict__)
    return copied


def deep_copy(self: Any, memo: dict[int, Any]) -> Any:
    """`__deepcopy__` of the options, with the token."""
    copied = memo[id(self)] = object.__new__(type(self))
    copied.__dict__ = copy.deepcopy(self.__dict__, memo)
    return copied
