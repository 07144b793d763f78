"""The demo page in a headless Chromium: `pip install "deit_hf[demo]" playwright`, and a Chromium on the PATH."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.models import NAMES, make_model, save
from support.patience import PATIENCE

from deit_hf import DeiTConfig

pytestmark = pytest.mark.slow

# Reports each connection of the server; the interpreter imports this module at its start.
AUDIT = """
import os, sys
def report(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        with open(os.environ["CONNECTIONS"], "a") as file:
            print(event, arguments[-1] if event != "socket.getaddrinfo" else arguments[0], file=file)
sys.addaudithook(report)
"""


def coloured(index: int) -> Image.Image:
    """An image of the class of this index: one colour for each."""
    colours = ((220, 30, 30), (30, 200, 30), (30, 30, 220), (220, 220, 30), (220, 30, 220))
    noise = np.random.default_rng(index).integers(-20, 20, (60, 80, 3))
    return Image.fromarray((np.array(colours[index]) + noise).clip(0, 255).astype(np.uint8))


def trained(config: DeiTConfig, path: Path) -> str:
    """A model with two heads that knows the class of each colour."""
    config.drop_path_rate = 0.0
    model: Any = make_model("distilled", config).train()
    source = save(model, path)
    from deit_hf.data.transforms import evaluation_view
    from deit_hf.model.build import load_classifier

    view = evaluation_view(load_classifier(source)[1])
    pixels, targets = torch.stack([view(coloured(index)) for index in range(5)]), torch.arange(5)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(80):
        output = model(pixel_values=pixels)
        loss = sum(
            torch.nn.functional.cross_entropy(logits, targets)
            for logits in (output.cls_logits, output.distillation_logits)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return save(model.eval(), path)


@pytest.fixture
def served(tmp_path: Path, tiny_config: DeiTConfig) -> Iterator[tuple[str, subprocess.Popen]]:
    """The address of a page, and the process of the command that started it."""
    pytest.importorskip("gradio")
    source, teacher = trained(tiny_config, tmp_path / "model"), save(make_model("resnet", tiny_config), tmp_path / "t")
    for index in range(2):
        coloured(index).save(tmp_path / f"{index}.png")
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "sitecustomize.py").write_text(AUDIT)
    paths = os.pathsep.join([str(tmp_path / "audit"), *sys.path])
    variables = {"PYTHONPATH": paths, "CONNECTIONS": str(tmp_path / "connections"), "PYTHONUNBUFFERED": "1"}
    options = ["--teacher", teacher, "--examples", *(str(tmp_path / f"{index}.png") for index in range(2))]
    process = subprocess.Popen(
        [sys.executable, "-m", "deit_hf", "demo", source, *options, "--title", "Colours", "--device", "cpu"],
        env={**os.environ, **variables, "GRADIO_TEMP_DIR": str(tmp_path / "uploads")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("the page is at http://127.0.0.1:"), line
    yield line.split()[4].rstrip(";"), process
    process.kill()
    process.wait(PATIENCE)


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


def upload(page: Any, file: Path, shown: str) -> str:
    """Chooses a file, waits until the page shows a text, and returns the whole answer."""
    page.set_input_files("#image input[type=file]", file)
    page.wait_for_selector(f"#answer :text('{shown}')", timeout=1000 * PATIENCE)
    return page.inner_text("#answer")


def best(page: Any) -> dict[str, str]:
    """The best class by head."""
    return {
        section.query_selector("h3").inner_text(): section.query_selector(".deit-best .deit-name").inner_text()
        for section in page.query_selector_all(".deit-bars section")
    }


def test_page_in_a_browser(served: tuple[str, Any], browser: Any, tmp_path: Path):
    address, _ = served
    (tmp_path / "text.jpg").write_text("text")
    page = browser.new_page(viewport={"width": 390, "height": 800})
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    page.wait_for_selector("#image input[type=file]", state="attached", timeout=1000 * PATIENCE)
    assert page.inner_text("h1") == "Colours"
    for index in (1, 3):
        coloured(index).save(tmp_path / f"{index}.png")
        upload(page, tmp_path / f"{index}.png", NAMES[index])
        page.wait_for_function(f"document.querySelector('.deit-best .deit-name').innerText == '{NAMES[index]}'")
        found = best(page)
        assert [*found] == ["Class head", "Distillation head", "Mean of both heads", "Teacher"]
        assert {name for head, name in found.items() if head != "Teacher"} == {NAMES[index]}
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert "text.jpg is not an image" in upload(page, tmp_path / "text.jpg", "is not an image")
    assert page.query_selector(".deit-answer") is None
    upload(page, tmp_path / "1.png", "Attention")
    assert best(page)["Class head"] == NAMES[1]

    page.focus("#deit-1")
    page.keyboard.press("ArrowRight")
    captions = [each.inner_text() for each in page.query_selector_all("figure") if each.is_visible()]
    assert captions == ["Seen by the model", "Class token", "Distillation token"]
    shown = [each for each in page.query_selector_all("figure img") if each.is_visible()]
    assert "rollout" in shown[1].get_attribute("alt")

    page.click("#image button[aria-label='Clear'], #image button[aria-label='Remove Image']")
    page.wait_for_selector(".deit-empty")
    page.focus(".gallery-item")
    page.keyboard.press("Enter")
    page.wait_for_selector(".deit-answer", timeout=1000 * PATIENCE)
    assert best(page)["Class head"] == NAMES[0]

    assert len(requests) > 5
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []
    connections = (tmp_path / "connections").read_text().splitlines()
    assert [each for each in connections if "127.0.0.1" not in each] == []


def test_two_users_see_their_own_answers_and_uploads_are_deleted_at_the_end(
    served: tuple[str, subprocess.Popen], browser: Any, tmp_path: Path
):
    address, process = served
    pages = []
    for index in (2, 4):
        coloured(index).save(tmp_path / f"user{index}.png")
        page = browser.new_context().new_page()
        page.goto(address)
        page.wait_for_selector("#image input[type=file]", state="attached", timeout=1000 * PATIENCE)
        pages.append((page, index))
    for page, index in pages:
        page.set_input_files("#image input[type=file]", tmp_path / f"user{index}.png")
    for page, index in pages:
        page.wait_for_selector(".deit-answer", timeout=1000 * PATIENCE)
        assert best(page)["Mean of both heads"] == NAMES[index]
    assert len(list((tmp_path / "uploads").rglob("user*.png"))) == 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    assert list((tmp_path / "uploads").rglob("user*.png")) == []
