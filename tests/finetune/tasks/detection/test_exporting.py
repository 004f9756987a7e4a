"""A detector as one file: onnxruntime finds in images of any size what the network finds, and the file says how."""

import json
import warnings
from types import SimpleNamespace

import pytest
import torch

from finetune.errors import ConfigError, ExportError, ModelError
from finetune.export import formats
from finetune.export.network import Network
from finetune.tasks.detection.exporting import finder, graph, same, write
from finetune.tasks.detection.networks import build, finding
from finetune.tasks.detection.networks.layout import Layout
from tests.conftest import need
from tests.finetune.tasks.detection.small import small
from tests.finetune.tasks.detection.test_networks import DETECTORS

SIDE = 64
SIZES = ((SIDE, SIDE), (SIDE, 107), (96, 70), (33, 161))
FAST = "retinanet"


def detector(kind, model="test_resnet"):
    torch.manual_seed(0)
    return small(build.build(model, kind, 3, pretrained=False, image_size=SIDE)).eval()


def normal(*shape):
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))


def written(model, path):
    """The detector's file, opened, with what the exporter had to say as errors."""
    need("onnx", "onnx")
    need("onnxruntime", "onnx")
    form = formats.named("onnx")
    told = {"classes": '["a", "b", "c"]', "threshold": "0.02", "temperature": "null"}
    told["layout"] = json.dumps(model.layout.to_json())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = write.write(form, model, path, told, path.parent / "no-verify")
    assert path.is_file()
    assert "3 images of noise and a plain one" in said
    return form.open(path)


@pytest.mark.parametrize(
    "kind", [kind if kind == FAST else pytest.param(kind, marks=pytest.mark.slow(seconds=30)) for kind in DETECTORS]
)
def test_onnxruntime_finds_the_same_in_images_of_any_size(kind, tmp_path, capfd):
    model = detector(kind)
    network = written(model, tmp_path / "model.onnx")
    total = same.Difference()
    for size in SIZES:
        image = normal(*size)
        with torch.inference_mode():
            live = dict(zip(graph.outputs(model.layout), graph.Graph(model)(image[None]), strict=True))
        found = {name: torch.from_numpy(of) for name, of in network.named(image[None].numpy()).items()}
        assert {name: of.dtype for name, of in found.items()} == {name: of.dtype for name, of in live.items()}
        assert int(found["labels"].min()) >= 0
        assert int(found["labels"].max()) < 3
        total += same.compare(live, found, model.layout, max(size))
    assert total.objects > 20
    assert total.others == 0
    assert ("masks" in found) == model.layout.masks
    assert capfd.readouterr() == ("", "")  # neither the exporter's nor onnxruntime's warnings


@pytest.mark.parametrize("kind", [FAST, pytest.param("mask-rcnn", marks=pytest.mark.slow(seconds=30))])
def test_where_nothing_is_found_there_are_no_objects(kind, tmp_path):
    model = detector(kind)
    (model if model.layout.one_stage else model.roi_heads).score_thresh = 0.999
    found = written(model, tmp_path / "model.onnx").named(normal(80, 72)[None].numpy())
    shapes = {"boxes": (0, 4), "labels": (0,), "scores": (0,), "masks": (0, 1, 28, 28)}
    assert {name: of.shape for name, of in found.items()} == {name: shapes[name] for name in found}


def test_the_file_alone_answers_as_the_network_does(tmp_path):
    model = detector(FAST)
    written(model, tmp_path / "model.onnx")
    alone = finder.opened(tmp_path / "model.onnx", "auto")
    assert alone.layout == model.layout
    image, size = normal(SIDE, 80), (130, 160)
    with torch.inference_mode():
        live, found = finding.find(model, image, size), alone.find(image, size)
    assert len(live["scores"]) > 5
    difference = same.compare(live, found, model.layout, 160)
    assert (difference.objects, difference.others) == (len(live["scores"]), 0)
    assert max(difference.score, difference.side) < 1e-5


def test_a_file_that_does_not_say_how_to_use_it_is_refused(tmp_path):
    form = SimpleNamespace(library="onnxruntime", command="export", open=lambda *_: Network({"classes": "[]"}, None))
    with pytest.raises(ModelError, match=r"expected metadata .*, got classes; use a file that `export` has written"):
        finder._of_file(form, tmp_path / "model.onnx", "cpu")
    with pytest.raises(ConfigError, match=r"--accelerator cuda: onnxruntime runs model.onnx on the CPU; give the run"):
        finder._of_file(form, tmp_path / "model.onnx", "cuda")


def test_there_is_no_other_form():
    with pytest.raises(ConfigError, match=r"--format openvino: detectors are written for onnxruntime alone: use"):
        write.write(formats.named("openvino"), detector(FAST), None, {}, None)


def test_what_cannot_be_exported_or_differs_is_not_written(tmp_path, monkeypatch):
    need("onnxruntime", "onnx")
    model = detector(FAST)

    def fails(*_):
        raise RuntimeError("no symbol for aten::cummax\nat ...")

    monkeypatch.setattr(write.onnx, "save_traced", fails)
    with pytest.raises(ExportError, match=r"cannot be exported for onnxruntime: RuntimeError: no symbol for aten::cum"):
        write.write(formats.named("onnx"), model, tmp_path / "model.onnx", {}, tmp_path)

    def empty(graph, path, *_):
        path.touch()

    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    blind = SimpleNamespace(named=lambda _: {name: of.numpy() for name, of in nothing.items()})
    form = SimpleNamespace(name="onnx", library="onnxruntime", load=lambda *_: blind)
    monkeypatch.setattr(write.onnx, "save_traced", empty)
    model.score_thresh = 0.0
    model.layout = Layout.from_json(model.layout.to_json() | {"score_thresh": 0.0})
    with pytest.raises(ExportError, match=r"other objects than the model in 3 images .*: 0 are the same, \d+ of one"):
        write.write(form, model, tmp_path / "model.onnx", {}, tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- what counts as the same -----------------------------------------------------------------------------------------

LAYOUT = Layout("fcos", "x", {}, (), 3, 64, 107, (0.5,) * 3, (0.5,) * 3, "bilinear", ((8.0,),), (1.0,))


def seen(*objects):
    """(box, label, score) of each."""
    boxes, labels, scores = zip(*objects, strict=True) if objects else ((), (), ())
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "scores": torch.tensor(scores, dtype=torch.float32),
    }


ONE, TWO = ((0, 0, 10, 10), 1, 0.9), ((20, 20, 40, 40), 0, 0.5)


def test_order_and_rounding_make_no_difference():
    near = ((0, 0.001, 10, 10), 1, 0.90001)
    found = same.compare(seen(ONE, TWO), seen(TWO, near), LAYOUT, 64)
    assert (found.objects, found.ties, found.others) == (2, 0, 0)
    assert found.score == pytest.approx(1e-5, rel=0.02)
    assert found.side == pytest.approx(0.001 / 64, rel=0.01)
    assert same.compare(seen(), seen(), LAYOUT, 64) == same.Difference()


@pytest.mark.parametrize(
    "other",
    [((0, 0, 10, 10), 2, 0.9), ((0, 8, 10, 18), 1, 0.9), ((0, 0, 10, 10), 1, 0.8)],
    ids=["another label", "another place", "another score"],
)
def test_an_object_that_is_another_is_no_tie(other):
    assert same.compare(seen(ONE), seen(other), LAYOUT, 64) == same.Difference(others=2)
    assert same.compare(seen(ONE), seen(), LAYOUT, 64).others == 1


def test_nan_is_no_answer():
    assert same.compare(seen(ONE), seen(((0, 0, 10, float("nan")), 1, 0.9)), LAYOUT, 64).others == 1


def test_what_rounding_decides_on_is_a_tie():
    unsure = ((5, 5, 9, 9), 2, 0.01005)  # score_thresh is 0.01
    assert same.compare(seen(ONE, unsure), seen(ONE), LAYOUT, 64) == same.Difference(objects=1, ties=1)
    shifted = ((0, 2, 10, 12), 1, 0.89995)  # overlaps by 2/3, and is as sure: either one suppresses the other
    assert same.compare(seen(ONE), seen(shifted), LAYOUT, 64) == same.Difference(ties=2)
    limit = ((0, 0, 10, 5.03), 1, 0.6)  # overlaps by 0.503; the limit is 0.5
    assert same.compare(seen(ONE, limit), seen(ONE), LAYOUT, 64) == same.Difference(objects=1, ties=1)
    full = Layout.from_json(LAYOUT.to_json() | {"detections_per_img": 1})
    assert same.compare(seen(ONE), seen(((30, 30, 40, 40), 0, 0.9)), full, 64) == same.Difference(ties=2)
