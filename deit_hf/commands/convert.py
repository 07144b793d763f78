"""Official, timm or mmpretrain checkpoint to a model directory: deit-hf convert FILE DIR

Back to one file that timm loads: deit-hf convert DIR FILE.safetensors --to_timm
"""

from collections.abc import Sequence
from pathlib import Path

from ..atomic_files import written_aside
from ..training.console import set_up_logging
from .errors import one_line_errors
from .parser import CommandParser


def main(arguments: Sequence[str] | None = None) -> None:
    """Converts a checkpoint."""
    parser = CommandParser(prog="deit-hf convert", description=__doc__)
    parser.add_argument("input", help="checkpoint (.pth, .safetensors); with --to_timm a model directory")
    parser.add_argument("output", type=Path, help="directory for model and processor; with --to_timm a file")
    parser.add_argument("--to_timm", action="store_true", help="write one safetensors file with timm's names")
    parser.add_argument("--labels", help="class names in order: a text file (one per line) or JSON")
    parser.add_argument("--image_size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="if it is not square")
    parser.add_argument("--num_attention_heads", type=int, help="if the heads are not 64 wide")
    parser.add_argument("--overwrite", action="store_true", help="write even if the output exists")
    options = parser.parse_args(arguments)
    set_up_logging(verbose=False)
    with one_line_errors():
        from ..model.configuration_deit import to_pair
        from ..model.conversion import convert_checkpoint, export_checkpoint, read_labels
        from ..model.image_processing_deit import make_processor

        output = options.output
        if options.to_timm and output.suffix != ".safetensors":
            raise ValueError(f"with --to_timm the output is a `.safetensors` file, but `{output}` is not")
        if output.exists() and output.is_dir() == options.to_timm:
            kind, other = ("file", "directory") if output.is_file() else ("directory", "file")
            raise ValueError(f"`{output}` already exists and is a {kind}, but must be a {other}; name another output")
        if not options.overwrite and (output.is_file() or (output.is_dir() and any(output.iterdir()))):
            raise ValueError(f"`{output}` already exists and is not empty; name another output, or pass --overwrite")
        overrides = {"image_size": options.image_size, "num_attention_heads": options.num_attention_heads}
        overrides |= {"id2label": read_labels(options.labels)} if options.labels else {}
        overrides = {name: value for name, value in overrides.items() if value is not None}
        if options.to_timm:
            if overrides:
                raise ValueError(
                    f"with --to_timm, {', '.join(f'`{name}`' for name in overrides)} cannot be given; leave it out"
                )
            export_checkpoint(options.input, output)
        else:
            model = convert_checkpoint(options.input, **overrides)
            with written_aside(output) as part:
                model.save_pretrained(part)
                make_processor(to_pair(model.config.image_size)).save_pretrained(part)
        print(f"wrote {output}")
