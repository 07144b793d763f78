"""Pushes a run's directory to the Hub: deit-hf push DIR --hub_model_id user/name

Uploads the files that a run writes, and lists which files it uploads and which it does not: no checkpoints, pickles
or other files. A store of teacher answers (a directory with a store.json) becomes a dataset repository. Exit code
2: wrong input. 3: the Hub could not be reached, refused, or did not answer; try again.
"""

from collections.abc import Sequence

from ..training.console import set_up_logging
from .errors import one_line_errors
from .parser import CommandParser


def main(arguments: Sequence[str] | None = None) -> None:
    """Pushes the directory, and prints the URL of the commit."""
    parser = CommandParser(prog="deit-hf push", description=__doc__)
    parser.add_argument("directory", metavar="DIR", help="output_dir of a finished run, or a store of teacher answers")
    parser.add_argument("--hub_model_id", required=True, help="user/name, or name for a repository of your own")
    parser.add_argument("--private", action="store_true", help="create the repository as private; refuse a public one")
    parser.add_argument("--revision", help="branch, created if missing (default: main)")
    parser.add_argument("--commit_message", help="first line of the commit message")
    parser.add_argument("--include", nargs="+", default=[], metavar="NAME", help="additional files of DIR to upload")
    parser.add_argument("--time_limit", type=float, metavar="SECONDS", help="time limit (default: 600 and 1 per MB)")
    args = parser.parse_args(arguments)
    set_up_logging(verbose=False)
    with one_line_errors():
        from ..hub.push import push_directory

        commit_url = push_directory(
            args.directory,
            args.hub_model_id,
            private=args.private or None,
            revision=args.revision,
            commit_message=args.commit_message,
            include=args.include,
            time_limit=args.time_limit,
        )
        print(commit_url)
