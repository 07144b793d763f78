"""The command that shows what a model attends to: files, page, bad images and wrong input."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.models import make_model, save

from deit_hf import DeiTConfig
from deit_hf.analysis import attention_figures, attention_page
from deit_hf.analysis.attention_page import file_stems, shown_name
from deit_hf.commands.attention import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two images of the same name and the same pixels; figures are small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(attention_figures, "DPI", 30)
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for name in ("a", "b"):
        Path(name).mkdir()
        Image.fromarray(noise).save(f"{name}/x<1>.png")
    return tmp_path


def exit_code(*arguments: str) -> int:
    try:
        main(arguments)
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def error_of(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line of an error with exit code 2."""
    assert exit_code(*arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_two_heads_give_figures_and_one_page_that_needs_no_other_file(
    folder: Path, tiny_config: DeiTConfig, capsys: pytest.CaptureFixture
):
    tiny_config.num_attention_heads = 1
    model = make_model("distilled", tiny_config)
    model.config.id2label[0] = "<i>ant</i>"
    save(model, folder / "model")
    assert exit_code("model", "a/x<1>.png", "b", "-o", "out/new") == 0
    assert capsys.readouterr().out == "wrote out/new/attention.html and 7 PNG files for 2 images\n"
    stems = ["x_1_", "x_1_-2"]
    figures = [
        "filters.png",
        "positions.png",
        "tokens.png",
        *(f"{s}-{k}.png" for s in stems for k in ("attention", "heads")),
    ]
    assert sorted(path.name for path in Path("out/new").iterdir()) == sorted(["attention.html", *figures])

    page = Path("out/new/attention.html").read_text(encoding="utf-8")
    images = re.findall(r"<img [^>]*>", page)
    assert len(images) == 7
    assert all('src="data:image/jpeg;base64,' in each and re.search(r'alt="[^"]{20,}"', each) for each in images)
    assert not re.search(r"<(script|iframe|object)|(src|href)=\"(?!data:)|url\(", page)
    assert re.findall(r"<h2>(.*?)</h2>", page)[1:3] == ["a/x&lt;1&gt;.png", "b/x&lt;1&gt;.png"]
    assert "<i>" not in page
    assert page.count("&lt;i&gt;ant&lt;/i&gt;") >= 1
    assert [page.count(f"<caption>{head}</caption>") for head in ("class head", "distillation head")] == [2, 2]
    assert str(folder) not in page
    assert "overlap by" in page

    assert "<h1>Attention of model</h1>" in page
    for kind in ("attention", "heads"):  # equal images have equal figures
        first, second = (Path(f"out/new/{stem}-{kind}.png").read_bytes() for stem in stems)
        assert first == second

    error = error_of(capsys, "model", "a/x<1>.png", "-o", "out/new")
    assert "`out/new` already has attention.html and 5 more; name another directory with -o, or pass --ov" in error


def test_one_head_and_a_bad_image_among_others(
    folder: Path, tiny_config: DeiTConfig, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
):
    tiny_config.num_attention_heads = 6  # more than fit into a row
    save(make_model("plain", tiny_config), folder / "model")
    Path("a/bad.png").write_text("hello")
    Path("attention").mkdir()
    for name in ("positions.png", "notes.txt"):
        Path("attention", name).write_text("mine")
    assert "already has positions.png; name another" in error_of(capsys, "model", "a")
    assert exit_code("model", "a", "--overwrite") == 1
    assert Path("attention/positions.png").read_bytes().startswith(b"\x89PNG")
    assert Path("attention/notes.txt").read_text() == "mine"
    assert capsys.readouterr().out == "wrote attention/attention.html and 4 PNG files for 1 image\n"
    assert "1 of 2 images cannot be read: a/bad.png is empty or not in an image format" in caplog.text
    page = Path("attention/attention.html").read_text(encoding="utf-8")
    assert "1 image could not be read and is not shown" in page
    assert "distillation" not in page
    assert not Path("attention/tokens.png").exists()

    assert "a/bad.png is empty or not in an image" in error_of(capsys, "model", "a/bad.png", "-o", "new")
    Path("a/x<1>.png").unlink()
    assert "none of the 1 images can be read; the first: a/bad" in error_of(capsys, "model", "a", "-o", "new")
    assert not Path("new").exists()


def test_wrong_input_is_one_line_and_writes_nothing(
    folder: Path, tiny_config: DeiTConfig, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    save(make_model("resnet", tiny_config), folder / "convnet")
    image = "a/x<1>.png"
    assert "`convnet` is of type `resnet`" in error_of(capsys, "convnet", image)
    assert "the model comes first: deit-hf attention MODEL IMAGE..." in error_of(capsys, image, "convnet")
    assert "no image is named after the model `convnet`" in error_of(capsys, "convnet")
    assert "`missing.png` does not exist" in error_of(capsys, "convnet", "missing.png")
    assert f"`{image}` is a file; name a directory" in error_of(capsys, "convnet", image, "-o", image)
    monkeypatch.setattr(attention_page, "MAX_IMAGES", 1)
    assert "2 images are named, but a page shows at most 1; name fewer" in error_of(capsys, "convnet", "a", "b")
    monkeypatch.setattr(attention_figures.importlib.util, "find_spec", lambda name: None)
    assert 'pip install "deit_hf[viz]"' in error_of(capsys, "convnet", image)
    assert not Path("attention").exists()


def test_names_of_files_are_unique_short_and_without_folders_or_queries():
    images = ["a/x.png", "b/X.jpg", "x-2.png", "https://y.org/p/x.png?token=1", "..png", "ü" * 300 + ".png", "/"]
    stems = file_stems(images)
    assert stems[:4] == ["x", "X-2", "x-2-2", "x-3"]
    assert stems[4:] == ["png", "ü" * 50, "image"]
    assert shown_name("https://y.org/p/x.png?token=1") == "y.org/p/x.png"
    assert [shown_name(name) for name in ("/home/me/x.png", "../me/x.png", "a/x.png")] == ["x.png", "x.png", "a/x.png"]
