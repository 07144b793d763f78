"""Pushes a run's directory to the Hub: python scripts/push_to_hub.py DIR --hub_model_id user/name

Checkpoints and pickles stay here. Exit code 2: wrong input; 3: the Hub was not reached or refused, try again.
"""

import argparse

from ..hub.push import push_directory
from .errors import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", metavar="DIR", help="output_dir of a finished run")
    parser.add_argument("--hub_model_id", required=True, help="user/name, or name for your own")
    parser.add_argument("--private", action="store_true", help="a new repository is private; refuse a public one")
    parser.add_argument("--revision", help="branch, made if it is not there; main by default")
    parser.add_argument("--commit_message", help="first line of the commit")
    args = parser.parse_args()
    with one_line_errors():
        commit_url = push_directory(
            args.directory,
            args.hub_model_id,
            private=args.private or None,
            revision=args.revision,
            commit_message=args.commit_message,
        )
        print(commit_url)
