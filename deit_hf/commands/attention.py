"""Shows what a model attends to in images: deit-hf attention MODEL IMAGE... [-o DIR]

MODEL is a directory or a Hub id of a DeiT or a ViT, with one head or two. IMAGE is an image, a folder (searched at any
depth), a glob such as 'photos/**/*.jpg', or a URL; 50 images at most. Drawing needs matplotlib (the extra viz).

examples:
  deit-hf attention runs/flowers/student photo.jpg
  deit-hf attention facebook/deit-tiny-distilled-patch16-224 photos/ -o attention-of-tiny

DIR gets attention.html, one page with all figures that needs no other file, and the figures as PNG files:
  NAME-attention.png  the attention of the class token and of the distillation token in the image NAME: in the last
                      layer (mean of its heads) and by rollout through all layers; and their difference
  NAME-heads.png      the attention in each head of the last layer
  positions.png       the similarity of the position embeddings
  filters.png         the filters of the patch embedding, or their principal components
  tokens.png          the cosine similarity of both tokens after each layer (models with a distillation token)

exit codes: 0 all images are shown; 1 some images cannot be read (they are listed, the others are shown); 2 wrong
input.
"""

import argparse
import sys
from collections.abc import Sequence

from ..training.console import set_up_logging
from .parser import CommandParser
from .predict import SOME_ARE_BAD, model_and_paths, warn_of_bad_images


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    set_up_logging(verbose=False)
    from .errors import one_line_errors  # this import and those below take seconds

    with one_line_errors():
        model, paths = model_and_paths(options.names, options.model, "deit-hf attention MODEL IMAGE...")
        from transformers.utils.logging import disable_progress_bar

        from ..analysis.attention_page import write_attention
        from ..data.sources.image_paths import find_images

        if not sys.stderr.isatty():
            disable_progress_bar()  # of the weights
        images = find_images(paths)
        written = write_attention(
            images,
            model,
            options.output_dir,
            device=options.device,
            overwrite=options.overwrite,
            skip_bad_images=images != paths or len(paths) != 1,
        )
        num_shown = len(images) - len(written.bad_images)
        images_in_words = "1 image" if num_shown == 1 else f"{num_shown} images"
        print(f"wrote {written.page} and {written.num_figures} PNG files for {images_in_words}")
        warn_of_bad_images(written.bad_images, len(images))
    if written.bad_images:
        raise SystemExit(SOME_ARE_BAD)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="deit-hf attention",
        usage="deit-hf attention MODEL IMAGE... [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", metavar="MODEL IMAGE", help="the model, and the images")
    parser.add_argument(
        "--model", "--model_name_or_path", dest="model", metavar="MODEL",
        help="the model; all positional arguments are then images",
    )  # fmt: skip
    parser.add_argument(
        "-o",
        "--output_dir",
        metavar="DIR",
        default="attention",
        help="directory for page and figures (default: attention)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same names in DIR")
    parser.add_argument("--device", help="cpu, cuda, ... (default: the GPU if there is one)")
    return parser
