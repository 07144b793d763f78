"""A page about models: deit-hf report MODEL... --data DATA [--output report.html] [--option value ...]

Measures one model or several next to each other, and writes one HTML file that needs no network: accuracy of each
head with 95 % intervals, calibration, accuracy by class, confusions, the most confident mistakes and the images on
which the heads differ, disagreement with teacher and labels, training curves, size and speed. NAME.json with all
numbers is written next to NAME.html. The directory of a distillation job stands for its student; the student without a
teacher and the teacher of the job are added.
"""

import json
import sys
import tempfile
from collections.abc import Sequence

from ..training.console import set_up_logging
from .errors import one_line_errors
from .help import print_help


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the models, and writes the page and its numbers."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if print_help("report", arguments):
        return
    set_up_logging(verbose=False)
    with one_line_errors(), tempfile.TemporaryDirectory() as empty:  # of options that name an output directory
        from ..analysis.report_figures import require_matplotlib
        from ..analysis.report_page import render_page
        from ..atomic_files import write_text
        from ..data.sources.arguments import DataArguments
        from ..evaluation.arguments import ReportArguments
        from ..jobs.report import make_report, results_in_words
        from ..training.arguments import DistillationArguments
        from ..training.recipe_file import parse_recipe

        positionals = {"MODEL...": "models"}
        options, data = parse_recipe((ReportArguments, DataArguments), arguments, __doc__, positionals=positionals)
        set_up_logging(verbose=options.verbose)
        if options.page is not None:
            require_matplotlib()
        args = DistillationArguments(
            empty,
            per_device_eval_batch_size=options.batch_size,
            dataloader_num_workers=options.num_workers,
            report_to="none",
            verbose=options.verbose,
        )
        report = make_report(options, data, args)
        print("\n".join(results_in_words(report.facts)))  # also if the files cannot be written
        texts = {options.files[-1]: json.dumps(report.facts, indent=1, ensure_ascii=False) + "\n"}
        if options.page is not None:
            texts[options.page] = render_page(report.facts, report.images, report.logs)
        for file, text in texts.items():
            write_text(file, text)
        for file in options.files:
            print(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB)")
