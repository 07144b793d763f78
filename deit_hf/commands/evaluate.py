"""Accuracy of a saved model: deit-hf evaluate MODEL DATA [--option value ...]

Prints top-1, top-5, balanced accuracy and macro-F1, and the crop and fusion that were used. A model with two heads is
measured by each head and by both together. --output writes the results to a file, --per_class_file the accuracy of
each class.
"""

import json
import sys
import tempfile
from collections.abc import Sequence

from ..training.console import set_up_logging
from .errors import one_line_errors
from .help import print_help


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluates a model and prints the metrics."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if print_help("evaluate", arguments):
        return
    set_up_logging(verbose=False)
    with one_line_errors(), tempfile.TemporaryDirectory() as empty:  # a Trainer creates an output directory
        from ..atomic_files import write_text
        from ..data.sources.arguments import DataArguments
        from ..evaluation.accuracy_text import accuracy_table
        from ..evaluation.arguments import EvaluationArguments
        from ..evaluation.fusion import FUSIONS
        from ..training.arguments import DistillationArguments
        from ..training.recipe_file import parse_recipe
        from ..training.saved_model import measure

        positionals = {"MODEL": "model_name_or_path", "DATA": "dataset_name"}
        options, data = parse_recipe((EvaluationArguments, DataArguments), arguments, __doc__, positionals=positionals)
        set_up_logging(verbose=options.verbose)
        args = DistillationArguments(
            empty,
            per_device_eval_batch_size=options.batch_size,
            dataloader_num_workers=options.num_workers,
            fusion=options.fusion,
            report_to="none",
            verbose=options.verbose,
        )
        metrics, by_class = measure(
            options.model_name_or_path,
            data,
            args,
            crop_ratio=options.crop_ratio,
            eval_crop=options.eval_crop,
            by_class=options.per_class_file is not None,
        )
        if args.process_index != 0:
            return
        print(f"{accuracy_table(metrics)}\n{metrics['eval_samples']:,} images")
        fusion = FUSIONS[metrics["eval_fusion"]] if "eval_fusion" in metrics else "none, the model has one head"
        print(f"crop: {metrics['eval_crop']}, fusion: {fusion}")
        if options.output is not None:  # the results are printed, even if a file cannot be written
            write_text(options.output, json.dumps(metrics, indent=2) + "\n")
        if options.per_class_file is not None and by_class is not None:
            write_text(options.per_class_file, json.dumps(by_class, indent=1))
