"""Speed of the input compared to timm: deit-hf benchmark input [--dataset_name DIR --train_split NAME]

Makes the paper's training views in one data worker, alternating between this package and timm's own transforms. The
JPEGs are generated unless a dataset is named. A ratio above 1 means that this package is faster.
"""

from collections.abc import Sequence

from ..data.sources.arguments import DataArguments
from .errors import one_line_errors
from .parser import CommandParser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints the speed."""
    parser = CommandParser(prog="deit-hf benchmark", description=__doc__)
    parser.add_argument("part", choices=["input"], help="what to measure")
    parser.add_argument("--dataset_name", help="Hub id or local directory of a dataset of images and labels")
    parser.add_argument("--train_split", default="train", help="name of its split")
    parser.add_argument("--image_column_name", default="image", help="column that holds the images")
    parser.add_argument("--label_column_name", default="label", help="column that holds the labels")
    parser.add_argument("--num_images", type=int, default=100, help="images per round")
    parser.add_argument("--num_rounds", type=int, default=10, help="rounds that are measured")
    parser.add_argument("--image_size", type=int, default=224, help="side of a view in pixels")
    options = parser.parse_args(arguments)
    with one_line_errors():
        from ..benchmarks.input import generate_jpegs, measure_input
        from ..data.sources.load import load_image_datasets

        if options.dataset_name is None:
            for name in ("train_split", "image_column_name", "label_column_name"):
                if getattr(options, name) != parser.get_default(name):
                    raise ValueError(f"`{name}` is for a dataset; name one with `--dataset_name`, or leave it out")
            rows = generate_jpegs(options.num_images)
        else:
            data = DataArguments(
                dataset_name=options.dataset_name,
                train_split=options.train_split,
                image_column_name=options.image_column_name,
                label_column_name=options.label_column_name,
                max_train_samples=options.num_images,
            )
            rows = load_image_datasets(data)[0]
        speed = measure_input(
            rows,
            image_size=options.image_size,
            num_rounds=options.num_rounds,
            image_column_name=options.image_column_name if options.dataset_name else "image",
        )
        print(speed)
