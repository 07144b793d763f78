"""Classifies images with a saved model: python scripts/predict.py IMAGE... --model DIR

IMAGE is the path or URL of an image in any format that Pillow reads.
"""

import argparse

from tqdm import tqdm

from ..evaluation.predict import predict
from ..training.console import set_up_logging
from .errors import one_line_errors
from .parser import CommandParser


def main() -> None:
    set_up_logging(verbose=False)
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="path or URL")
    parser.add_argument("--model", required=True, help="Hub id or directory of any image classifier")
    parser.add_argument("--top_k", type=int, default=5, help="classes to show for each image")
    options = parser.parse_args()
    with one_line_errors():
        predictions = predict(options.images, options.model, num_best=options.top_k)
        for prediction in tqdm(predictions, total=len(options.images), unit="image", disable=len(options.images) < 2):
            tqdm.write(prediction.image)
            for label, probability in prediction.classes:
                tqdm.write(f"  {probability:7.2%}  {label}")
