"""The page of `deit-hf demo`: an image by upload, webcam or example; bars of each head; attention of both tokens.

It makes no request to other machines: analytics, version check and run history of gradio are off, fonts are those of
the system, and a content security policy forbids everything that does not come from this server.
"""

import base64
import importlib.util
import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from ..argument_checks import check
from ..data.decoding import decode_image
from ..data.sources.image_paths import find_images
from .attention_page import shown_model
from .demo import Answer, Demo, opened
from .page_template import TEMPLATES, render

if TYPE_CHECKING:
    import gradio as gr

JPEG_QUALITY = 90
MAX_EXAMPLES = 24
MAX_FILE_SIZE = "50mb"
CACHE_SECONDS = (60, 600)  # how often gradio deletes uploaded files, and how old they are then
FONTS = ["system-ui", "sans-serif"]
MONOSPACE = ["ui-monospace", "monospace"]
# gradio's own page needs inline scripts and styles; example images and the webcam need blob and data.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' blob: data:"
EMPTY = '<div class="deit-empty">Choose an image to see what the model says about it.</div>'


def check_gradio_installed() -> None:
    """Raises an ImportError with the command that installs gradio, an optional dependency."""
    if importlib.util.find_spec("gradio") is None:
        raise ImportError('the demo needs gradio; install with: pip install "deit_hf[demo]"')


def launch_demo(
    model_name_or_path: str | os.PathLike[str],
    *,
    teacher: str | os.PathLike[str] | None = None,
    examples: Sequence[str | os.PathLike[str]] = (),
    top_k: int = 5,
    title: str | None = None,
    device: str | None = None,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
) -> "gr.Blocks":
    """Starts the page in a thread of this process, and returns it; `block_thread()` of it waits for Ctrl-C.

    Uploaded images are in gradio's temporary folder (`GRADIO_TEMP_DIR`) for about ten minutes, or until the page
    ends.

    Args:
        model_name_or_path: Hub id or directory of any image classifier; a DeiT or ViT also shows its attention.
        teacher: as for `Teacher.from_pretrained`; its classes are shown next to those of the model.
        examples: images, folders, globs or URLs of images that users can choose with one click; 24 images at most.
        top_k: number of classes to show for each head.
        title: heading of the page; by default the name of the model.
        device: as in `torch.device`; by default the accelerator, such as a GPU, if there is one.
        host: address to listen on; by default `GRADIO_SERVER_NAME`, or this machine only (127.0.0.1).
        port: by default `GRADIO_SERVER_PORT`, or the first free one from 7860.
        share: also make a public address, through servers of gradio, for a week. Anyone who knows it can use the page.

    Raises:
        ImportError: gradio or matplotlib, which are optional dependencies, are not installed.
        OSError: a source does not exist, the port is not free, or the public address was not made.
        ValueError: an option is out of range, an example cannot be read, or the classes of the teacher do not match.
    """
    check_gradio_installed()
    if port is not None:
        check("port", port, lambda v: 1 <= v <= 65535, "in [1, 65535]")
    paths = find_examples([os.fspath(each) for each in examples])
    source = os.fspath(model_name_or_path)
    demo = Demo(source, teacher=None if teacher is None else os.fspath(teacher), top_k=top_k, device=device)
    page = make_page(demo, title=title or shown_model(source), examples=paths)
    return _launched(page, host, port, share=share)


def find_examples(paths: Sequence[str]) -> list[str]:
    """Lists the example images that files, folders, globs and URLs name, after a check that each can be read.

    Raises:
        OSError: an image does not exist.
        ValueError: there are more than 24, or one cannot be read.
    """
    images = find_images(paths)
    if len(images) > MAX_EXAMPLES:
        raise ValueError(f"{len(images)} examples are named, but the page shows at most {MAX_EXAMPLES}; name fewer")
    for image in images:
        decode_image(image, image)
    return images


def make_page(demo: Demo, *, title: str, examples: Sequence[str] = ()) -> "gr.Blocks":
    """Makes the page, without starting it.

    Args:
        demo: answers to images.
        title: heading of the page.
        examples: images that users can choose.
    """
    import gradio as gr

    def answered(upload: dict[str, Any] | None) -> tuple[Any, Any]:
        """The image component and the answer, after the image changed."""
        if upload is None:
            return gr.skip(), gr.skip()
        try:
            image = opened(upload["path"], upload.get("orig_name") or "this file")
        except ValueError as error:
            return None, render("demo_bad_image.html", {"error": error})
        return gr.skip(), answer_html(demo.answer(image))

    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=CACHE_SECONDS) as page:
        head = {"title": title, "model": demo.model, "has_tokens": demo.has_tokens}
        gr.HTML(render("demo_head.html", head), padding=False)
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                image = gr.Image(label="Image", sources=["upload", "webcam", "clipboard"], height=320, elem_id="image")
                if examples:
                    gr.Examples(
                        [[each] for each in examples], image, cache_examples=False, examples_per_page=MAX_EXAMPLES
                    )
            with gr.Column(scale=3, min_width=280):
                answer = gr.HTML(EMPTY, elem_id="answer", padding=False)
        # without preprocessing, because gradio's would fail on a bad image
        image.change(answered, image, [image, answer], preprocess=False, show_progress="minimal", api_name="classify")
        image.clear(lambda: EMPTY, None, answer, queue=False)
    return page


def _launched(page: "gr.Blocks", host: str | None, port: int | None, *, share: bool) -> "gr.Blocks":
    import gradio as gr
    from starlette.middleware import Middleware

    os.environ.setdefault("GRADIO_RUN_HISTORY", "False")  # the browser would keep the images
    in_space = "SPACE_ID" in os.environ  # its page loads scripts of the Hub
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            ssr_mode=False,
            max_file_size=MAX_FILE_SIZE,
            theme=gr.themes.Default(primary_hue="blue", font=FONTS, font_mono=MONOSPACE),
            css_paths=TEMPLATES / "demo.css",
            app_kwargs={} if in_space else {"middleware": [Middleware(OnlyOwnSources)]},
        )
    except OSError as error:
        if port is None or "empty port" not in str(error):
            raise
        raise OSError(
            f"`port` {port} of `host` {host or '127.0.0.1'} cannot be opened: it is not free, or the address is not "
            "of this machine; name another one, or leave both out for the first free port from 7860"
        ) from error
    if share and page.share_url is None:
        page.close()
        raise OSError("no public address was made: the servers of gradio were not reached; leave `share` out")
    return page


class OnlyOwnSources:
    """Adds a content security policy to each answer of a server (ASGI): browsers load nothing from elsewhere."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode("ascii"))
                message = {**message, "headers": [*message.get("headers", ()), policy]}
            await send(message)

        await self.app(scope, receive, send_with_policy)


# ---- HTML ----


def answer_html(answer: Answer) -> str:
    """The HTML of an answer: a list of classes for each head, and the attention of the tokens."""
    return render("demo_answer.html", {"answer": answer, "jpeg": _jpeg})


def _jpeg(pixels: np.ndarray) -> str:
    """A data URL of pixels (height, width, 3), so that no file of an answer is written."""
    with io.BytesIO() as file:
        PIL.Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
