"""Reports what a dataset contains: deit-hf check DATA [--option value ...]

Prints the classes, images and image sizes of each part, what is left out and why, and warns about probable mistakes,
such as images that two parts share. DATA is a folder of class folders, a folder of parquet files, a Hub id, or digits.
"""

import sys
from collections.abc import Sequence

from ..training.console import set_up_logging
from .errors import one_line_errors
from .help import print_help


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the report and the warnings."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if print_help("check", arguments):
        return
    set_up_logging(verbose=False)
    with one_line_errors():
        from ..data.check import check_data
        from ..data.sources.arguments import DataArguments
        from ..data.sources.load import load_image_parts
        from ..training.recipe_file import parse_recipe

        (data,) = parse_recipe((DataArguments,), arguments, __doc__, positionals={"DATA": "dataset_name"})
        parts = load_image_parts(data, train=data.train_dir is not None or data.validation_dir is None)
        columns = {name: getattr(data, name) for name in ("image_column_name", "label_column_name")}
        report = check_data(parts, **columns)
        print("\n".join(report.lines()))
        for warning in report.warnings():
            print(f"warning: {warning}")
