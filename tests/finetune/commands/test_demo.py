"""The demo's page: what it computes, what it says, and the page itself in a real browser."""

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from html.parser import HTMLParser

import numpy as np
import pytest
import timm
from PIL import Image
from sklearn.datasets import load_digits

from finetune import Predictor
from finetune.cli import main
from finetune.serving import html as demo_html
from finetune.settings.verbs import DemoOptions
from resnest_timm import split_preferences

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs the extra gradio")
HOSTILE = "<img src=http://192.0.2.1/x onerror=document.title='owned'>${1+1}{{value}}</script><script>1</script>&amp;"


@pytest.fixture(scope="module")
def predictor(digits_run):
    return Predictor(digits_run, accelerator="cpu")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Files of a hundred digits, named by their place."""
    folder = tmp_path_factory.mktemp("digits")
    for i, pixels in enumerate(load_digits().images[:100]):
        Image.fromarray((pixels * (255 / 16)).round().astype(np.uint8)).save(folder / f"{i}.png")
    return [folder / f"{i}.png" for i in range(100)]


class Text(HTMLParser):
    """What a browser shows, and the elements and widths that there are."""

    def __init__(self, html):
        super().__init__()
        self.texts, self.tags, self.widths = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        style = dict(attributes).get("style", "")
        self.widths += [float(width) for width in re.findall(r"width: ([\d.]+)%", style)]

    def handle_data(self, data):
        self.texts.append(data)


def test_no_text_acts_as_markup():
    for html in (
        demo_html.header(HOSTILE, [HOSTILE]),
        demo_html.answer([(HOSTILE, 0.75), ("b", 0.25)]),
        demo_html.failure(HOSTILE),
        demo_html.classes(["a", HOSTILE]),
    ):
        text = Text(html)
        assert set(text.tags) <= {"div", "h1", "h2", "p", "span", "i", "b"}
        assert any(HOSTILE in shown for shown in text.texts)
        assert not {"${", "{{"} & {html[i : i + 2] for i in range(len(html))}
    assert Text(demo_html.failure("a\u202egpj.exe\x00")).texts == ["a\u25a1gpj.exe\u25a1"]


def test_bars_are_as_long_as_the_numbers_say():
    text = Text(demo_html.answer([("cat", 0.9996), ("dog", 0.00035), ("cow", 0.00005)]))
    assert text.texts == ["cat", "cat", ">99.9 %", "dog", "<0.1 %", "cow", "<0.1 %"]
    assert text.widths == pytest.approx([99.96, 0.035, 0.005], abs=0.01)
    text = Text(demo_html.splits([[0.25, 0.75], [0.5125, 0.4875]]))
    assert text.texts[0] == "Where split attention looks"
    assert text.texts[1:7] == ["Stage 1", "25.0 % / ", "75.0 %", "Stage 2", "51.2 %", " / 48.8 %"]
    assert text.widths == [25, 75, 51.25, 48.75]
    assert "2 splits" in text.texts[-1]
    text = Text(demo_html.splits([[0.25], [0.5]]))
    assert text.texts[:5] == ["How far split attention opens", "Stage 1", "25.0 %", "Stage 2", "50.0 %"]
    assert "radix 1" in text.texts[-1]
    assert "b" not in text.tags


def test_classes_of_the_same_name_can_be_told_apart():
    assert demo_html.unique(["crane", "bus", "crane ", " "]) == ["crane (class 0)", "bus", "crane (class 2)", "class 3"]


@needs_gradio
def test_what_is_said_of_an_image_is_what_the_predictor_says(predictor, digits, monkeypatch):
    from finetune.serving import page as demo_page

    found = demo_page.classify(predictor, digits[7])
    (expected,) = predictor([digits[7]])
    assert found.top == list(expected.top)
    pixels = predictor.transform(Image.open(digits[7]).convert("RGB"))[None]
    np.testing.assert_allclose(found.preferences, split_preferences(predictor.model, pixels)[0], atol=1e-6)
    other = timm.create_model("resnet10t", num_classes=10).eval()
    monkeypatch.setattr(predictor, "model", other)
    found = demo_page.classify(predictor, digits[7])
    assert found.preferences is None
    assert found.top == list(predictor([digits[7]])[0].top)


@needs_gradio
def test_the_head_says_what_is_known(predictor, digits_run, tmp_path):
    from finetune.serving.page import describe

    result = json.loads((digits_run / "result.json").read_text())
    title, lines = describe(predictor)
    low, high = result["evaluation"]["intervals"]["test"]["accuracy"]
    accuracy = result["metrics"]["test"]["accuracy"]
    assert title == "resnest14d on digits"
    temperature = result["evaluation"]["calibration"]["temperature"]
    assert lines == [
        f"Accuracy {100 * accuracy:.1f} % (95 % interval {100 * low:.1f} % to {100 * high:.1f} %) on 40 test images",
        "10 classes, images of 32 x 32 pixels",
        f"Probabilities are calibrated: temperature {temperature:.3g}, fitted on validation",
    ]
    # A model that has left its run, without calibration.
    shutil.copytree(digits_run / "model", tmp_path / "mine")
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    del config["calibration"]
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config))
    shutil.copy(digits_run / "result.json", tmp_path)
    title, lines = describe(Predictor(tmp_path / "mine", accelerator="cpu"))
    assert title == "resnest14d in mine"
    assert lines == [
        "10 classes, images of 32 x 32 pixels",
        "Probabilities are the model's own: it has no calibration",
    ]


@needs_gradio
def test_only_what_wasuploaded_is_read(tmp_path):
    from finetune.serving.page import uploaded

    uploads = tmp_path / "uploads"
    uploads.mkdir()
    (uploads / "a.png").write_bytes(b"")
    (tmp_path / "secret.png").write_bytes(b"")
    (uploads / "link.png").symlink_to(tmp_path / "secret.png")
    assert uploaded({"path": str(uploads / "a.png")}, uploads) == uploads / "a.png"
    for path in (tmp_path / "secret.png", uploads / ".." / "secret.png", uploads / "link.png", uploads, "", None):
        with pytest.raises(ValueError, match="nothing was uploaded"):
            uploaded({"path": path and str(path)}, uploads)


def test_what_cannot_be_listened_on_is_named_before_the_model_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: name)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", "RUN", "--port", str(port)]) == 2
    assert f"--port {port}: cannot listen on 127.0.0.1:{port}, for another program does" in capsys.readouterr().err
    # Of a free one the model is the next thing to be wrong.
    assert main(["demo", "/nowhere", "--port", str(port)]) == 2
    assert "no such folder: /nowhere" in capsys.readouterr().err

    def refuse(*_, **__):
        raise OSError("Cannot assign requested address")

    monkeypatch.setattr("socket.create_server", refuse)
    assert main(["demo", "RUN"]) == 2
    assert "--host 127.0.0.1: no free port there, or it is no address of this machine" in capsys.readouterr().err


def test_mistakes_are_explained(digits_run, capsys, monkeypatch):
    cases = [
        (["/nowhere"], "no such folder: /nowhere"),
        ([str(digits_run), "--port", "0"], "--port must be at least 1 and at most 65535, got 0"),
        ([str(digits_run), "--prot", "1"], "unknown flag --prot; did you mean --port"),
    ]
    for arguments, message in cases:
        assert main(["demo", *arguments]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    assert main(["demo", str(digits_run)]) == 2
    assert "gradio: not installed; pip install 'resnest-timm[gradio]'" in capsys.readouterr().err


def test_whether_an_address_is_this_machines_alone():
    from finetune.serving.doors import is_loopback

    hosts = ("127.0.0.1", "127.1.2.3", "::1", "localhost", "0.0.0.0", "::", "192.168.1.2", "example")
    assert [is_loopback(host) for host in hosts] == [True] * 4 + [False] * 4
    assert DemoOptions(model="RUN").host == "127.0.0.1"


def with_hostile_names(run, folder):
    """A copy of a run, in which all text of the dataset tries to be more than text."""
    shutil.copytree(run / "model", folder / "model")
    for path, change in (
        ("result.json", lambda content: content["dataset"].update(id=HOSTILE)),
        ("model/config.json", lambda content: content.update(label_names=[f"{HOSTILE}{i}" for i in range(10)])),
    ):
        content = json.loads((run / path).read_text())
        change(content)
        (folder / path).write_text(json.dumps(content))
    return folder


@contextmanager
def demo_of(run, uploads):
    """`python -m finetune demo` in a process of its own; yields its address."""
    command = [sys.executable, "-m", "finetune", "demo", str(run), "--accelerator", "cpu"]
    environment = os.environ | {"TMPDIR": str(uploads), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as demo:
        try:
            said = []
            while not said or (said[-1] and not said[-1].startswith("http")):
                said.append(demo.stdout.readline())
            assert said[-1], "".join(said)
            yield said[-1].split()[0]
            demo.send_signal(signal.SIGTERM)
            assert demo.stdout.read() == ""
            assert demo.wait(timeout=60) == 0
        finally:
            demo.kill()


@pytest.mark.slow(seconds=30)
@needs_gradio
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian's package chromium)")
def test_in_a_browser_an_image_goes_in_and_its_label_comes_out(digits_run, predictor, digits, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    uploads = tmp_path / "tmp"
    uploads.mkdir()
    run = with_hostile_names(digits_run, tmp_path)
    known = [int(prediction.label) for prediction in predictor(digits)]
    right = next(i for i, truth in enumerate(load_digits().target[:100]) if known[i] == truth)
    page_of_html = tmp_path / "page.png"
    page_of_html.write_text("<!doctype html><html>")
    asked = []
    # Everything but loopback goes to a proxy that is not there.
    arguments = ["--no-sandbox", "--disable-background-networking", "--proxy-server=127.0.0.1:9"]
    with demo_of(run, uploads) as address, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        for width in (1280, 390):
            page = browser.new_page(viewport={"width": width, "height": 800})
            page.on("request", lambda request: asked.append(request.url))
            page.goto(address)
            page.wait_for_selector("input[type=file]", state="attached")
            assert page.locator("h1").inner_text() == f"resnest14d on {HOSTILE}"
            assert "Accuracy" in page.locator("body").inner_text()
            page.set_input_files("input[type=file]", digits[right])
            page.wait_for_selector(".answer")
            assert page.locator(".answer .label").inner_text() == f"{HOSTILE}{known[right]}"
            assert page.locator(".answer .row").count() == 5
            assert page.locator(".splits .row").count() == 4
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.locator(".fd img, .fd script").count() == 0
            page.get_by_label("Clear").or_(page.get_by_label("Remove Image")).first.click()
            page.wait_for_selector(".answer", state="detached")
            page.set_input_files("input[type=file]", page_of_html)
            said = page.wait_for_selector("[role=alert]").inner_text()
            assert said == "page.png cannot be classified: an HTML page, perhaps of a failed download"
            assert page.title() == f"resnest14d on {HOSTILE}"
        policy = page.request.get(address).headers["content-security-policy"]
        browser.close()
    assert "default-src 'self'" in policy
    assert len(asked) > 20
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert list(uploads.glob("finetune-demo-*")) == []
