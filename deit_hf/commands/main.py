"""The `deit-hf` command: runs the sub-command that its first argument names.

The module of a sub-command is imported only when it is used, so that help and tables need no torch.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib import import_module

from ..argument_checks import nearest_option, without_tokens

COMMANDS = {
    "check": "report what a dataset contains, and warn about probable mistakes",
    "prepare": "resize the images of a dataset once, so that a training does not wait for them",
    "distill": "from a dataset and a teacher to a small model, in one command",
    "train": "train a model from a recipe and options",
    "cache-teacher": "store the teacher's answers to the views of a training, to train without the teacher",
    "evaluate": "measure the accuracy of a saved model",
    "report": "write a page about models: accuracy, calibration, confusions, mistakes, curves",
    "predict": "classify images with a saved model",
    "attention": "show what the tokens of a model attend to in images",
    "demo": "try a model in the browser: upload or webcam, classes of each head, attention",
    "compare": "show a table of finished runs",
    "convert": "convert official, timm or mmpretrain weights, and back to timm's names",
    "export": "write a model as ONNX, to run it without torch",
    "push": "push the directory of a run to the Hub",
    "recipes": "list the recipes of this package, print or copy one",
    "models": "show size and cost of the eight published models",
    "reproduce": "repeat tables of the paper at small scale, with several seeds",
    "benchmark": "measure the speed of input, model and training compared to timm and transformers",
}

USAGE = """\
usage: deit-hf COMMAND [ARGUMENTS]
       deit-hf COMMAND --help
"""

EXAMPLES = """
  deit-hf distill digits
  deit-hf distill photos/ --teacher microsoft/resnet-50
  deit-hf predict runs/photos/student photo.jpg
"""


def help_text() -> str:
    """The text of `deit-hf --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join([USAGE, "commands:", *lines, "", "examples:"]) + EXAMPLES


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a sub-command.

    Args:
        arguments: name and arguments of the sub-command; those of the process by default.

    Raises:
        SystemExit: with the exit code of the sub-command; 2 if there is no such command; 128 + N after signal N, as in
            a shell, where the sub-command has no code of its own for it.
    """
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if name in ("-h", "--help"):
        sys.stdout.write(help_text())
    elif name == "--version":
        sys.stdout.write(f"deit-hf {import_module(__package__.partition('.')[0]).__version__}\n")
    elif name in COMMANDS:
        with _cleans_up_after_signals():
            import_module(f".{name.replace('-', '_')}", __package__).main(rest)
    else:
        kind, known = ("option", ("--help", "--version")) if name.startswith("-") else ("command", COMMANDS)
        hint = nearest_option(name, known).replace("--help", "deit-hf --help")
        sys.stderr.write(f"error: unknown {kind} {without_tokens(name.partition('=')[0])}{hint}\n")
        raise SystemExit(2)


@contextlib.contextmanager
def _cleans_up_after_signals() -> Iterator[None]:
    """Ends the command after SIGTERM or Ctrl-C without a traceback, once its temporary files are deleted.

    A training has its own way meanwhile (reliability/stop_signals.py). Only Python's main thread receives signals.
    """
    process = os.getpid()

    def end(number: int, *_: object) -> None:
        if os.getpid() != process:  # a forked data worker, which nothing keeps
            os._exit(128 + number)
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
