"""Pushes a run's directory to the Hub: python scripts/push_to_hub.py DIR --hub_model_id user/name

Uploads what a run writes, and says what goes and what stays: checkpoints, pickles and all other files stay here. Exit
code 2: wrong input; 3: the Hub was not reached, refused or did not answer, try again.
"""

import argparse
import logging

from ..hub.push import push_directory
from .errors import one_line_errors
from .parser import CommandParser


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("deit_hf").setLevel(logging.INFO)  # what goes and what stays
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", metavar="DIR", help="output_dir of a finished run")
    parser.add_argument("--hub_model_id", required=True, help="user/name, or name for your own")
    parser.add_argument("--private", action="store_true", help="a new repository is private; refuse a public one")
    parser.add_argument("--revision", help="branch, made if it is not there; main by default")
    parser.add_argument("--commit_message", help="first line of the commit")
    parser.add_argument("--include", nargs="+", default=[], metavar="NAME", help="further files of DIR to upload")
    parser.add_argument("--time_limit", type=float, metavar="SECONDS", help="give up then; 600 and 1 for each MB")
    args = parser.parse_args()
    with one_line_errors():
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
