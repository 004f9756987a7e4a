"""The demo's page of a segmentation, answered as a browser would have it."""

import base64
import html
import io
import json
import re
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.tasks.segmentation import network as networks
from finetune.tasks.segmentation import saving
from tests.conftest import need
from tests.finetune.tasks.segmentation import drawn

CLASSES = ("background", "<b>leaf</b>", "stem")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    made = networks.build("resnest14d", 3, False)
    made.classes = CLASSES
    path = tmp_path_factory.mktemp("models") / "model"
    how = {"input_size": (3, 64, 64), "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    saving.save(made, path, how, 1.5, "semantic-segmentation")
    return path


@pytest.mark.slow(seconds=20)
def test_a_dropped_image_gets_its_classes(folder, tmp_path):
    need("gradio", "gradio")
    from finetune.tasks.segmentation.answering import page

    network, names = saving.load(folder).eval(), page.html.unique(CLASSES)
    prepare = page.Prepare(page.models.data_config(network))

    def respond(dropped, opacity):
        return page.answer_to(network, prepare, names, tmp_path, dropped, opacity)

    image, _ = drawn.scenes(1)[0]
    Image.fromarray(image).save(tmp_path / "photo.png")
    dropped = {"path": str(tmp_path / "photo.png"), "orig_name": "photo.png"}
    painted, legend, hint, shown = respond(dropped, 0.0)
    assert np.array_equal(painted, image)  # nothing of the classes is seen
    assert "Point into the picture" in hint
    mask = shown[1]
    assert mask.shape == image.shape[:2]
    assert "<b>leaf" not in legend
    (source,) = re.findall(r'src="data:image/png;base64,([^"]+)"', hint)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))), mask)
    assert json.loads(html.unescape(re.findall(r'data-classes="([^"]+)"', hint)[0])) == list(names)
    nothing, said, *_ = respond({"path": "/etc/hostname", "orig_name": "x"}, 0.5)
    assert nothing is None
    assert "nothing was uploaded" in said
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.cancel()


def test_the_folder_alone_says_what_it_is(folder):
    ours = json.loads((folder / "finetune.json").read_text())
    assert ours["classes"] == list(CLASSES)
    assert ours["temperature"] == 1.5
    assert (ours["image_size"], ours["multiple"], ours["longest"]) == (64, 32, 8)
    from finetune.tasks import registry

    assert registry.of_model(folder).name == "semantic-segmentation"
    assert registry.of_model(folder / "model.onnx").name == "semantic-segmentation"
    loaded = saving.load(folder)
    assert loaded.temperature == 1.5


def test_a_damaged_folder_is_refused(folder, tmp_path):
    import shutil

    broken = shutil.copytree(folder, tmp_path / "model")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"_model_class": "from_pretrained"}))
    with pytest.raises(saving.ModelError, match=r"is damaged: expected one of FPN, .* got from_pretrained"):
        saving.load(broken)
    (broken / "finetune.json").write_text("{")
    with pytest.raises(saving.ModelError, match=r"finetune.json is damaged: expected JSON"):
        saving.load(broken)
