"""The command that starts the demo page: what each option does, and wrong input in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.models import make_model, save

from deit_hf import DeiTConfig
from deit_hf.analysis import demo_page
from deit_hf.commands.demo import main
from deit_hf.hub import space


class Page:
    """Stands for a page that was started."""

    local_url = "http://127.0.0.1:7860/"

    def __init__(self, share_url: str | None):
        self.share_url, self.was_waited_for = share_url, False

    def block_thread(self) -> None:
        self.was_waited_for = True


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any], Page]]:
    """What the command starts, instead of a server; gradio is not needed."""
    found: list[tuple[str, dict[str, Any], Page]] = []

    def launch(model: str, **options: Any) -> Page:
        found.append((model, options, Page("https://x.gradio.live" if options["share"] else None)))
        return found[-1][2]

    monkeypatch.setattr(demo_page, "launch_demo", launch)
    monkeypatch.setattr(demo_page, "check_gradio_installed", lambda: None)
    monkeypatch.setattr(space, "version", lambda name: "6.31.0" if name == "gradio" else "0.1.0")
    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    return found


@pytest.fixture
def model(tmp_path: Path, tiny_config: DeiTConfig, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save("x.png")
    return save(make_model("plain", tiny_config), tmp_path / "model")


def error_of(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line of an error with exit code 2."""
    with pytest.raises(SystemExit, match="^2$"):
        main(arguments)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_every_option_reaches_the_page(started: list, capsys: pytest.CaptureFixture):
    defaults = dict.fromkeys(("teacher", "title", "device", "host", "port"))
    defaults |= {"examples": [], "top_k": 5, "share": False}
    main(["user/model"])
    assert started[-1][:2] == ("user/model", defaults)
    assert started[-1][2].was_waited_for
    assert capsys.readouterr().out == "the page is at http://127.0.0.1:7860/; press Ctrl-C to stop it\n"
    for arguments, name, value in (
        (["--teacher", "user/teacher"], "teacher", "user/teacher"),
        (["--teacher_model_name_or_path", "user/teacher"], "teacher", "user/teacher"),
        (["--examples", "a.jpg", "photos"], "examples", ["a.jpg", "photos"]),
        (["--top_k", "3"], "top_k", 3),
        (["--title", "Birds"], "title", "Birds"),
        (["--device", "cpu"], "device", "cpu"),
        (["--host", "0.0.0.0"], "host", "0.0.0.0"),
        (["--port", "8000"], "port", 8000),
    ):
        main(["user/model", *arguments])
        assert started[-1][1] == {**defaults, name: value}


def test_sharing_says_what_becomes_public(started: list, capsys: pytest.CaptureFixture):
    main(["user/model", "--share"])
    lines = capsys.readouterr().out.splitlines()
    assert started[-1][1]["share"] is True
    assert "through the servers of gradio" in lines[0]
    assert "https://x.gradio.live" in lines[1]


def test_a_space_is_written_instead_of_a_page(started: list, model: str, capsys: pytest.CaptureFixture):
    main([model, "--write_space", "space", "--examples", "x.png", "--top_k", "2", "--title", "Birds"])
    assert started == []
    app = Path("space/app.py").read_text()
    for part in ('HERE / "model"', "examples=[HERE", "top_k=2", "title='Birds'"):
        assert part in app
    assert "python space/app.py" in capsys.readouterr().out
    main([model, "--write_space", "plain"])
    assert "title='model'" in Path("plain/app.py").read_text()


def test_wrong_input_is_one_line(started: list, model: str, tiny_config: DeiTConfig, capsys: pytest.CaptureFixture):
    Path("full").mkdir()
    Path("full/file").touch()
    space_of = (model, "--write_space")
    for arguments, message in (
        ([model, "--prot", "1"], "unknown option --prot"),
        ([*space_of, "full"], "`full` is not an empty directory"),
        ([*space_of, "x.png"], "`x.png` is not an empty directory"),
        ([*space_of, "new", "--share"], "`--share` has no effect on a Space"),
        ([*space_of, "new", "--port", "80"], "`--port` has no effect on a Space"),
        ([*space_of, "new", "--examples", "no.jpg"], "`no.jpg` does not exist"),
        ([*space_of, "new", "--top_k", "0"], "`top_k` is 0"),
        (["./no", "--write_space", "new"], "no directory `./no`"),
    ):
        assert message in error_of(capsys, *arguments)
    assert not Path("new").exists()


def test_wrong_input_of_a_page_is_one_line(model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Up to the point where gradio would start."""
    monkeypatch.setattr(demo_page, "check_gradio_installed", lambda: None)
    for arguments, message in (
        (["./no"], "no directory `./no`"),
        ([model, "--teacher", "./no"], "no directory `./no`"),
        ([model, "--examples", "no/"], "`no/` does not exist"),
        ([model, "--top_k", "0"], "`top_k` is 0"),
        ([model, "--port", "0"], "`port` is 0, but must be in [1, 65535]"),
        ([model, "--device", "abacus"], "does not have"),
    ):
        assert message in error_of(capsys, *arguments)
    monkeypatch.undo()
    monkeypatch.setattr(demo_page.importlib.util, "find_spec", lambda name: None)
    assert 'pip install "deit_hf[demo]"' in error_of(capsys, model)
