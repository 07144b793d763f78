"""Accuracy of a saved model: python scripts/evaluate.py --model_name_or_path DIR --dataset_name NAME

Prints top-1 and top-5, of both heads and of both together if the model has two, with the crop and the fusion that they
belong to. Writes them with --output_file, and the accuracy of each class with --per_class_file.
"""

import os
import sys

# this folder has an evaluate.py, which would hide the `evaluate` library
sys.path[:] = [path for path in sys.path if os.path.realpath(path) != os.path.dirname(os.path.realpath(__file__))]


import json
import logging
import tempfile
from pathlib import Path

from deit_hf.arguments import DistillationArguments
from deit_hf.evaluation import FUSIONS
from deit_hf.recipes import one_line_errors, parse_recipe
from deit_hf.run_arguments import DataArguments, EvaluationArguments
from deit_hf.training import evaluate


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with one_line_errors(), tempfile.TemporaryDirectory() as empty:  # a Trainer makes an output directory
        options, data = parse_recipe((EvaluationArguments, DataArguments), sys.argv[1:], __doc__)
        args = DistillationArguments(
            empty,
            per_device_eval_batch_size=options.batch_size,
            dataloader_num_workers=options.num_workers,
            eval_fusion=options.fusion,
            report_to="none",
        )
        metrics = evaluate(
            options.model_name_or_path,
            data,
            args,
            crop_ratio=options.crop_ratio,
            eval_crop=options.eval_crop,
            per_class_file=options.per_class_file,
        )
        if args.process_index != 0:
            return
        for name, value in metrics.items():
            if "top" in name or name == "eval_loss":
                print(f"{name:28} {value:.4f}")
        print(f"{'eval_samples':28} {metrics['eval_samples']}")
        fusion = FUSIONS[metrics["eval_fusion"]] if "eval_fusion" in metrics else "none, there is one head"
        print(f"crop: {metrics['eval_crop']}, fusion: {fusion}")
        if options.output_file is not None:
            Path(options.output_file).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
