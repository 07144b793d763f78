"""An argument parser whose errors are one line and contain no secrets."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ..argument_checks import ListsArguments, check_flags, unknown_options, without_tokens


class CommandParser(ListsArguments):
    """Like `ArgumentParser`, but reports unknown options first, with the nearest known one and without values."""

    def __init__(self, **options: Any):
        """Takes the options of `ArgumentParser`; the description keeps its line breaks."""
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, **options})

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        arguments = sys.argv[1:] if args is None else args
        try:
            check_flags(arguments, self.flags, abbreviated=True)
        except ValueError as error:
            self.error(str(error))
        options, rest = self.parse_known_args(arguments, namespace)
        if rest:
            self.error(f"no option takes {unknown_options(rest)}")
        return options

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {without_tokens(message)}{'' if '--help' in message else '; see --help'}\n")
