"""docs/how-to/downstream.md itself: its examples are short and all tested, its table and its versions are true."""

import ast
import re

import pytest
import timm
import torch

import resnest_timm  # noqa: F401
from tests.downstream.helpers import DOCUMENT
from tests.examples import ROOT, example

TEXT = (ROOT / DOCUMENT).read_text(encoding="utf-8")
RUN_BY_TESTS = {
    "segmentation_models_pytorch",
    "torchvision",
    "upernet",
    "detr",
    "detectron2",
    "detectron2 fpn",
    "detectron2 config",
    "mmdetection",
    "mmdetection config",
}
HEADER, _, *ROWS = (
    line.strip("| ").split(" | ") for line in TEXT.split("<!-- features -->\n")[1].split("\n\n")[0].split("\n")
)


def test_every_example_is_run():
    assert set(re.findall(r"<!-- example: (.+) -->", TEXT)) == RUN_BY_TESTS
    assert TEXT.count("```") == 2 * len(RUN_BY_TESTS)
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "downstream").glob("test_*.py"))
    for name in RUN_BY_TESTS:
        assert re.search(rf'(run_example\(|example\().*"{name}"', tests), name


@pytest.mark.parametrize("name", sorted(RUN_BY_TESTS))
def test_examples_are_short(name):
    code = example(name, DOCUMENT)
    lines = [line for line in code.splitlines() if line.strip() and not line.strip().startswith("#")]
    assert 4 < len(lines) < 15
    assert max(len(line) for line in lines) <= 120
    if "config" not in name and name != "detectron2 fpn":  # which goes on where `detectron2` ends
        assert "resnest_timm" in [alias.name for alias in ast.parse(code).body[0].names]


@pytest.mark.parametrize("name", ["resnest50d", "resnest101e"])
@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3, 4), (1, 3)])
def test_table_of_features(name, output_stride, out_indices):
    column = {32: 3, 16: 4, 8: 5}[output_stride]
    rows = [ROWS[index] for index in out_indices]
    assert [int(row[0]) for row in rows] == list(out_indices)
    modules = [row[1].strip("`") for row in rows]
    stem = re.fullmatch(r"(\d+) \((\d+) from resnest101 on\)", ROWS[0][2])
    channels = [int(stem[2 if name == "resnest101e" else 1]) if row is ROWS[0] else int(row[2]) for row in rows]
    strides = [int(row[column]) for row in rows]

    arguments = {"features_only": True, "out_indices": out_indices, "device": "meta"}
    model = timm.create_model(name, output_stride=output_stride, **arguments).eval()
    info = model.feature_info
    assert (info.module_name(), info.channels(), info.reduction()) == (modules, channels, strides)
    shapes = [tuple(feature.shape) for feature in model(torch.empty(1, 3, 64, 128, device="meta"))]
    assert shapes == [(1, c, 64 // s, 128 // s) for c, s in zip(channels, strides, strict=True)]


def test_table_is_read_whole():
    assert (len(HEADER), [len(row) for row in ROWS]) == (6, [6] * 5)


def test_versions_are_those_that_are_tested():
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-")
    named = re.findall(r"(segmentation-models-pytorch|torchvision|transformers)\s+(\d+\.\d+\.\d+)", TEXT)
    assert {name for name, _ in named} == {"segmentation-models-pytorch", "torchvision", "transformers"}
    for name, version in named:
        assert f"{name}=={version}\n" in pinned
