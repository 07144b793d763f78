"""An argument parser whose errors quote no secrets."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from ..argument_checks import unknown_options, without_tokens


class CommandParser(argparse.ArgumentParser):
    """argparse's, but for its errors: a mistyped option is named without the value that followed it."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        options, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {unknown_options(rest)}")
        return options

    def error(self, message: str) -> NoReturn:
        super().error(without_tokens(message))
