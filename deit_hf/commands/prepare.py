"""Resizes the images of a dataset once: deit-hf prepare SOURCE DIR [--option value ...]

Large images make a training wait for its data. DIR gets parquet files that train, distill and the other commands take
as their DATA, with the same rows in the same order. Images whose short side is larger than 384 pixels are resized to
it (JPEG quality 92); others keep their bytes. SOURCE is a folder of class folders, a folder of parquet files, a Hub
id, or digits. An image that cannot be decoded stops the command, unless --on_bad_image is keep.
"""

import os
import sys
from collections.abc import Sequence

from ..training.console import set_up_logging
from .errors import one_line_errors
from .help import print_help


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the prepared data, and prints what has changed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if print_help("prepare", arguments):
        return
    set_up_logging(verbose=False)
    with one_line_errors():
        from ..data.prepare import PrepareOptions, check_data_options, prepare_images
        from ..data.shard_files import check_new_directory
        from ..data.sources.arguments import DataArguments
        from ..data.sources.load import load_image_parts
        from ..reliability.stop_signals import LeaveOnSignal, leaves_signals_to_the_main_process
        from ..training.recipe_file import parse_recipe

        is_named = any(flag.startswith(("--train_dir", "--validation_dir", "--dataset_name")) for flag in arguments)
        positionals = {"DIR": "output_dir"} if is_named else {"SOURCE": "dataset_name", "DIR": "output_dir"}
        options, data = parse_recipe((PrepareOptions, DataArguments), arguments, __doc__, positionals=positionals)
        check_data_options(data)
        folders = [each for each in (data.dataset_name, data.train_dir, data.validation_dir) if each is not None]
        sources = [folder for folder in folders if os.path.isdir(folder)]
        check_new_directory(options.output_dir, sources)
        with LeaveOnSignal():
            parts = load_image_parts(data, train=data.train_dir is not None or data.validation_dir is None)
            for note in parts.notes:
                print(note)
            gain = prepare_images(
                parts,
                options,
                image_column_name=data.image_column_name,
                sources=sources,
                say=lambda estimate: print(estimate, flush=True),
                worker_init_fn=leaves_signals_to_the_main_process(),
            )
        print("\n".join([*gain.lines(), *gain.advice(), "", "Next:"]))
        print(f"  deit-hf train RECIPE --dataset_name {options.output_dir}")
