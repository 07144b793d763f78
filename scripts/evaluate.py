"""Accuracy of a saved model: python scripts/evaluate.py --model_name_or_path DIR --dataset_name NAME

Prints top-1 and top-5, of both heads and their mean if the model has two, and writes them with --output_file.
"""

import os
import sys

# this folder has an evaluate.py, which would hide the `evaluate` library
sys.path[:] = [path for path in sys.path if os.path.realpath(path) != os.path.dirname(os.path.realpath(__file__))]


import json
import logging
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from deit_hf.arguments import DistillationArguments
from deit_hf.recipes import one_line_errors, parse_recipe
from deit_hf.run_arguments import DataArguments
from deit_hf.training import evaluate


@dataclass
class EvaluationArguments:
    model_name_or_path: str = field(metadata={"help": "Hub id or directory of any image classifier."})
    batch_size: int = field(default=64, metadata={"help": "Images at a time on each device."})
    num_workers: int = field(default=2, metadata={"help": "Processes that decode images, for each device."})
    output_file: str | None = field(default=None, metadata={"help": "JSON file for the metrics."})


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with one_line_errors(), tempfile.TemporaryDirectory() as empty:  # a Trainer makes an output directory
        options, data = parse_recipe((EvaluationArguments, DataArguments), sys.argv[1:], __doc__)
        args = DistillationArguments(
            empty,
            per_device_eval_batch_size=options.batch_size,
            dataloader_num_workers=options.num_workers,
            report_to="none",
        )
        metrics = evaluate(options.model_name_or_path, data, args)
        if args.process_index != 0:
            return
        for name, value in metrics.items():
            if "top" in name or name == "eval_loss":
                print(f"{name:28} {value:.4f}")
        if options.output_file is not None:
            Path(options.output_file).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
