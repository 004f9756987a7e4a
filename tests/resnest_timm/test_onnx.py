"""ONNX export, run by onnxruntime, with a batch of any size."""

import pytest
import torch
from torch.export import Dim

import resnest_timm  # noqa: F401
from tests.resnest_timm.helpers import SHALLOW, assert_same, create, images

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
pytest.importorskip("onnxscript", reason="needs the extra `onnx`")


@pytest.mark.filterwarnings("ignore")  # the exporter's own, of its dependencies
@pytest.mark.parametrize("name", ["resnest50d", "resnest50_fast_1s1x64d", "resnest50d_4s2x40d"])
def test_onnxruntime_gives_the_logits(name, tmp_path):
    model = create(name, **SHALLOW).float().eval()
    batch = ({0: Dim("batch", min=1, max=64)},)
    program = torch.onnx.export(model, (images(2, 64).float(),), dynamo=True, dynamic_shapes=batch, verbose=False)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for count in (1, 2, 5):
        x = images(count, 64).float()
        (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert_same(torch.from_numpy(logits), model(x), 1e-5)
