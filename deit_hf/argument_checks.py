"""Checks of ranges, choices and types for all option classes; error texts without secrets."""

import argparse
import dataclasses
import difflib
import math
import numbers
import os
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

_TOKEN = re.compile(r"\b(?:hf_|api_org_)[A-Za-z0-9]{20,}|\bhf_(?:oauth|jwt)_[\w.-]{20,}")  # the formats of Hub tokens


# The types accepted for each simple annotation; includes numpy's numbers and paths.
_KINDS: dict[type, tuple[type, ...]] = {
    bool: (bool,),
    int: (numbers.Integral,),
    float: (numbers.Real,),
    str: (str, os.PathLike),
    types.NoneType: (types.NoneType,),
}
_ALSO_BOOL = {"resume_from_checkpoint", "fsdp"}  # transformers accepts text or True


def check(name: str, value: float, allowed: Callable[[float], bool], description: str) -> None:
    """Raises a TypeError if a value is not a number, and a ValueError if it is not finite or not allowed."""
    if not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` is {value!r}, but must be a number, {description}")
    if not (math.isfinite(value) and allowed(value)):
        raise ValueError(f"`{name}` is {value}, but must be {description}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises a ValueError if a value is not one of the choices."""
    if value not in choices:
        raise ValueError(f"`{name}` is {value!r}, but must be one of {', '.join(choices)}")


def check_files(files: Mapping[str, str | os.PathLike | None]) -> None:
    """Refuses files that could not be written, or that are one and the same, before anything is measured.

    Args:
        files: by the option that names them; None is not written.

    Raises:
        FileNotFoundError: the folder of a file does not exist.
        PermissionError: it cannot be written to.
        ValueError: a file is a folder, or two options name the same file.
    """
    taken: dict[Path, str] = {}
    for name, file in files.items():
        if file is None:
            continue
        path = Path(file)
        if not path.parent.is_dir():
            raise FileNotFoundError(f"`{name}` is {path}, but the folder `{path.parent}` does not exist; create it")
        if path.is_dir():
            raise ValueError(f"`{name}` is {path}, which is a folder; name a file in it")
        if not os.access(path if path.exists() and not path.is_file() else path.parent, os.W_OK):  # also pipes
            raise PermissionError(
                f"`{name}` is {path}, but the folder `{path.parent}` cannot be written to; name another folder, or "
                "change its permissions"
            )
        if path.resolve() in taken:
            raise ValueError(
                f"`{taken[path.resolve()]}` and `{name}` are both {path}, and one would replace the other; name "
                "different files"
            )
        taken[path.resolve()] = name


def check_kinds(options: Any) -> None:
    """Checks the type of each value against the annotation of its field, if that consists of simple types.

    The command line checks types when it parses; this does the same for values set in Python.

    Args:
        options: an instance of a dataclass.

    Raises:
        TypeError: names the field, the value and the type.
    """
    hints = typing.get_type_hints(type(options))
    for option in dataclasses.fields(options):
        hint = hints[option.name]
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kinds = typing.get_args(hint) if is_union else (hint,)
        if option.name in _ALSO_BOOL or not all(kind in _KINDS for kind in kinds):
            continue
        value = getattr(options, option.name)
        accepted = tuple(kind for each in kinds for kind in _KINDS[each])
        if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in kinds):
            shown = f"a {type(value).__name__}" if "token" in option.name else repr(value)  # may be a secret
            words = " or ".join(each.__name__.replace("NoneType", "None") for each in kinds)
            raise TypeError(f"`{option.name}` is {shown}, but must be of type {words}")


def check_flags(arguments: Sequence[str], known: Collection[str], *, abbreviated: bool = False) -> None:
    """Refuses unknown flags; called before other checks, because a missing option is often a mistyped one.

    Args:
        arguments: a command line.
        known: flags such as `--output_dir`.
        abbreviated: whether flags may be abbreviated.

    Raises:
        ValueError: names the flags, without their values, and the nearest known one.
    """
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    unknown = [
        flag
        for argument in arguments[:end]
        if re.match(r"--?[A-Za-z]", argument) and (flag := argument.partition("=")[0]) not in known
        if not (abbreviated and any(each.startswith(flag) for each in known))
    ]
    if unknown:
        raise ValueError(f"unknown option {', '.join(unknown)}{nearest_option(unknown[0], known)}")


def nearest_option(name: str, known: Collection[str]) -> str:
    """The end of an error about an unknown option: suggests the nearest known ones, or --help."""
    names = {each.lstrip("-").replace("-", "_") for each in known}
    close = difflib.get_close_matches(name.partition("=")[0].lstrip("-").replace("-", "_"), names, n=3)
    return f"; did you mean {' or '.join(f'`{each}`' for each in close)}?" if close else "; see --help for all"


def unknown_options(arguments: Sequence[str]) -> str:
    """Names the unexpected arguments of a command line, without the values of options, which may be secret.

    Args:
        arguments: those that the parser did not use, in order.
    """
    names = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
    values = [] if names else [without_tokens(argument) for argument in arguments]
    return ", ".join(names or values)


def without_tokens(text: str) -> str:
    """Replaces everything that looks like a Hub token by `<token>`."""
    return _TOKEN.sub("<token>", text)


class ListsArguments(argparse.ArgumentParser):
    """An `ArgumentParser` that lists its arguments; argparse keeps them in private attributes.

    Attributes:
        arguments: in the order in which they were added.
    """

    def __init__(self, *args: Any, **options: Any):
        self.arguments: list[argparse.Action] = []
        super().__init__(*args, **options)

    def add_argument(self, *args: Any, **options: Any) -> argparse.Action:
        action = super().add_argument(*args, **options)
        self.arguments.append(action)
        return action

    @property
    def flags(self) -> set[str]:
        """All flags, such as `--output_dir`."""
        return {flag for action in self.arguments for flag in action.option_strings}
