"""`--help` of the commands that take options of the data classes; it imports no torch."""

from collections.abc import Sequence


def print_help(command: str, arguments: Sequence[str]) -> bool:
    """Prints the help of a command if the arguments ask for it, and returns whether they do."""
    return False
