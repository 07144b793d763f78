"""A page to try a model on images: deit-hf demo MODEL [--teacher SOURCE] [--examples PATH...]

The page runs on this machine until Ctrl-C, by default at http://127.0.0.1:7860. It takes an image by upload, by webcam
or from the examples, and shows the best classes of the class head, the distillation head and their mean, those of the
teacher, and what both tokens attend to. MODEL is a directory or a Hub id of any image classifier; attention is shown
for a DeiT or a ViT. It needs gradio and matplotlib (the extra demo). The page needs no network, and sends nothing
anywhere: uploaded images are kept in gradio's temporary folder (GRADIO_TEMP_DIR) for about ten minutes, and deleted at
the end.

--write_space writes a Space of the Hub instead: app.py, requirements.txt, a README.md with the settings of the Space,
and copies of this package, of the examples, and of models that are local directories.

examples:
  deit-hf demo runs/flowers/student
  deit-hf demo runs/flowers/student --teacher runs/flowers/teacher --examples photos/ --top_k 3
  deit-hf demo user/flowers --write_space space

exit codes: 0 the page was ended, or the Space is written; 2 wrong input.
"""

import signal
import sys
from collections.abc import Sequence
from typing import Any

from ..training.console import set_up_logging
from .parser import CommandParser

SHARING = (
    "--share: a public address through the servers of gradio. For a week, anyone who knows it can use this page, and "
    "the images of all its users pass through these servers"
)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    set_up_logging(verbose=False)
    from .errors import one_line_errors  # this import and those below take seconds

    with one_line_errors():
        from ..analysis.demo_page import check_gradio_installed, launch_demo

        check_gradio_installed()
        from transformers.utils.logging import disable_progress_bar

        if not sys.stderr.isatty():
            disable_progress_bar()  # of the weights
        if options.write_space is not None:
            _write_space(options)
            return
        if options.share:
            print(SHARING)
        page = launch_demo(
            options.model,
            teacher=options.teacher,
            examples=options.examples,
            top_k=options.top_k,
            title=options.title,
            device=options.device,
            host=options.host,
            port=options.port,
            share=options.share,
        )
        public = f", and public at {page.share_url}" if page.share_url else ""
        print(f"the page is at {page.local_url}{public}; press Ctrl-C to stop it", flush=True)
        for number in (signal.SIGINT, signal.SIGTERM):  # gradio deletes the uploaded images after KeyboardInterrupt
            signal.signal(number, signal.default_int_handler)
        page.block_thread()


def _write_space(options: Any) -> None:
    from ..analysis.attention_page import shown_model
    from ..analysis.demo import Demo
    from ..analysis.demo_page import find_examples
    from ..hub.space import check_is_free, write_space

    for name in ("host", "port", "share", "device"):
        if getattr(options, name):
            raise ValueError(f"`--{name}` has no effect on a Space; leave it out, or leave --write_space out")
    check_is_free(options.write_space)
    examples = find_examples(options.examples)
    Demo(
        options.model, teacher=options.teacher, top_k=options.top_k, device="cpu"
    )  # finds what would fail in the Space
    write_space(
        options.write_space,
        options.model,
        title=options.title or shown_model(options.model),
        teacher=options.teacher,
        examples=examples,
        top_k=options.top_k,
    )
    print(f"wrote a Space to {options.write_space}; to try it: python {options.write_space}/app.py")
    print(f"to publish it with all that is in it: hf upload USER/NAME {options.write_space} --repo-type space")


def _parser() -> CommandParser:
    parser = CommandParser(prog="deit-hf demo", usage="deit-hf demo MODEL [options]", description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="directory or Hub id of an image classifier")
    parser.add_argument(
        "--teacher",
        "--teacher_model_name_or_path",
        dest="teacher",
        metavar="SOURCE",
        help="also ask this teacher, of the same classes: Hub id, folder, timm/NAME on the Hub, or timm:NAME[@FILE]",
    )
    parser.add_argument(
        "--examples", nargs="+", default=[], metavar="PATH", help="images, folders or globs to choose from, 24 at most"
    )
    parser.add_argument("--top_k", type=int, default=5, help="classes to show for each head (default: 5)")
    parser.add_argument("--title", help="heading of the page (default: the name of MODEL)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: the GPU if there is one)")
    parser.add_argument(
        "--host",
        help="address to listen on (default: 127.0.0.1, this machine only; 0.0.0.0: its whole network, where browsers "
        "allow no webcam without HTTPS)",
    )
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860)")
    parser.add_argument(
        "--share", action="store_true", help="also make a public address, for a week, through the servers of gradio"
    )
    parser.add_argument("--write_space", metavar="DIR", help="write a Space of the Hub to DIR, which is new or empty")
    return parser
