"""The page of the demo: its HTML, and, where gradio is installed, the server that several users ask at once."""

import re
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.models import make_model, save

from deit_hf import DeiTConfig
from deit_hf.analysis import demo_page
from deit_hf.analysis.demo import Answer, Demo
from deit_hf.analysis.demo_page import answer_html, check_gradio_installed, find_examples, launch_demo

PIXELS = np.zeros((4, 4, 3), dtype=np.uint8)


def test_answer_has_names_in_full_shares_in_percent_and_images_inside():
    tokens = {"class token": PIXELS, "distillation token": PIXELS}
    classes = {"class head": [("<b>kite</b> & co", 0.98765), ("owl", 0.0004)], "teacher": [("owl", 1.0)]}
    html = answer_html(Answer(classes, PIXELS, {"last layer": tokens, "rollout": tokens}))
    assert "&lt;b&gt;kite&lt;/b&gt; &amp; co" in html
    assert re.findall(r"[\d.]+ %", html) == ["98.8 %", "0.0 %", "100.0 %"]
    assert re.findall(r"<h3>(.*?)</h3>", html) == ["Class head", "Teacher", "Attention"]
    sources = re.findall(r'src="(.*?)"', html)
    assert len(sources) == 5
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert html.count('type="radio"') == 2
    assert "Attention" not in answer_html(Answer(classes, None, {}))


def test_missing_gradio_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo_page.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "deit_hf\[demo\]"'):
        check_gradio_installed()
    with pytest.raises(ImportError, match="needs gradio"):
        launch_demo("no/model")


def test_examples_are_found_and_checked_before_the_page_starts(tmp_path: Path):
    for number in range(25):
        Image.fromarray(PIXELS).save(tmp_path / f"{number:02}.png")
    with pytest.raises(ValueError, match="25 examples are named, but the page shows at most 24"):
        find_examples([str(tmp_path)])
    (tmp_path / "24.png").unlink()
    assert [Path(each).name for each in find_examples([str(tmp_path)])] == [f"{number:02}.png" for number in range(24)]
    (tmp_path / "00.png").write_text("text")
    with pytest.raises(ValueError, match=r"00\.png"):
        find_examples([str(tmp_path)])
    assert find_examples([]) == []


# ---- with gradio ----


@pytest.fixture
def page(tmp_path: Path, tiny_config: DeiTConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A page that was started on a free port of this machine, with two examples."""
    pytest.importorskip("gradio")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    source = save(make_model("distilled", tiny_config), tmp_path / "model")
    for seed in range(2):
        noise(seed).save(tmp_path / f"{seed}.png")
    page = launch_demo(source, examples=[tmp_path / "0.png", tmp_path / "1.png"], top_k=3, title="Toys", device="cpu")
    yield page
    page.close()


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def test_users_at_once_get_their_own_answers_and_a_bad_upload_harms_nobody(page: Any, tmp_path: Path):
    client_of = pytest.importorskip("gradio_client")
    (tmp_path / "bad.jpg").write_text("text")
    demo = Demo(str(tmp_path / "model"), top_k=3, device="cpu")
    expected = [answer_html(demo.answer(noise(seed))) for seed in range(2)]
    assert expected[0] != expected[1]
    together = threading.Barrier(3)

    def ask(name: str) -> list[str]:
        client = client_of.Client(page.local_url, verbose=False)
        together.wait()
        return [client.predict(client_of.handle_file(tmp_path / name), api_name="/classify")[1] for _ in range(3)]

    with ThreadPoolExecutor(3) as threads:
        first, second, bad = threads.map(ask, ("0.png", "1.png", "bad.jpg"))
    assert first == [expected[0]] * 3
    assert second == [expected[1]] * 3
    assert len(set(bad)) == 1
    assert "bad.jpg is not an image" in bad[0]


def test_page_has_its_title_stays_on_this_machine_and_loads_nothing_from_elsewhere(page: Any):
    assert page.local_url.startswith("http://127.0.0.1:")
    assert page.share_url is None
    assert not page.analytics_enabled
    with urllib.request.urlopen(page.local_url) as answer:
        policy, text = answer.headers["Content-Security-Policy"], answer.read().decode()
    assert policy.startswith("default-src 'self'")
    assert "http" not in policy
    assert "Toys" in text
    assert "fonts.googleapis.com/css" not in text


def test_a_port_that_is_taken_is_one_line(page: Any, tmp_path: Path):
    port = int(page.local_url.rstrip("/").rpartition(":")[2])
    with pytest.raises(OSError, match=f"`port` {port} of `host` 127.0.0.1 cannot be opened: it is not free"):
        launch_demo(tmp_path / "model", port=port, device="cpu")


def test_port_out_of_range_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo_page, "check_gradio_installed", lambda: None)
    with pytest.raises(ValueError, match="`port` is 70000"):
        launch_demo("no/model", port=70000)
