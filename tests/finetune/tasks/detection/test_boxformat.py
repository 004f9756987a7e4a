"""The form of boxes is inferred from numbers that allow one only; else the error shows why not."""

import numpy as np
import pytest

from finetune.errors import SchemaError
from finetune.tasks.detection.reads.boxformat import FORMATS, Evidence, decide, to_xyxy


def corners(count=400, seed=0):
    """Boxes of all sizes in images of several, some of them at the edges: float64 [n, 4] and [n, 2]."""
    rng = np.random.default_rng(seed)
    sizes = np.array([(640, 480), (480, 640), (512, 512)], dtype=np.float64)[rng.integers(0, 3, count)]
    first, second = np.sort(rng.uniform(0, 1, (2, count, 2)), axis=0)
    return np.concatenate([first * sizes, second * sizes], axis=1).round(), sizes


def written(xyxy, sizes, form):
    """The same boxes in a form."""
    kind, _, unit = form.partition("-")
    sides = xyxy[:, 2:] - xyxy[:, :2]
    first = (xyxy[:, :2] + xyxy[:, 2:]) / 2 if kind == "cxcywh" else xyxy[:, :2]
    made = xyxy.copy() if kind == "xyxy" else np.concatenate([first, sides], axis=1)
    return made / np.concatenate([sizes, sizes], axis=1) if unit else made


def evidence(form, xyxy=None, sizes=None, areas=None, extents=None):
    if xyxy is None:
        xyxy, sizes = corners()
    nothing = np.full(len(xyxy), np.nan)
    return Evidence(
        written(xyxy, sizes, form),
        sizes,
        nothing if areas is None else areas,
        np.full((len(xyxy), 4), np.nan) if extents is None else extents,
    )


@pytest.mark.parametrize("form", FORMATS)
def test_each_form_is_recognised_and_read(form):
    xyxy, sizes = corners()
    found, why = decide(evidence(form), "bbox")
    assert found == form
    assert f"{form} 100% in their image" in why
    np.testing.assert_allclose(to_xyxy(written(xyxy, sizes, form), sizes, form), xyxy, atol=1e-9)


def small(count=100):
    """Boxes near the top left corner, whose numbers every form allows: x + w < W, and w > x."""
    rng = np.random.default_rng(1)
    first = rng.integers(5, 20, (count, 2)).astype(np.float64)
    sizes = np.full((count, 2), 1000.0)
    return np.concatenate([first, first + rng.integers(100, 300, (count, 2))], axis=1), sizes


def test_a_tie_is_an_error_that_shows_the_evidence():
    xyxy, sizes = small()
    with pytest.raises(
        SchemaError,
        match=r"'bbox' could be xywh or xyxy \(100 boxes: xywh 100% in their image; xyxy 100%.*say by --box-format",
    ):
        decide(evidence("xyxy", xyxy, sizes), "bbox")


@pytest.mark.parametrize("form", ["xywh", "xyxy"])
def test_an_area_decides_a_tie(form):
    xyxy, sizes = small()
    areas = (xyxy[:, 2:] - xyxy[:, :2]).prod(1)
    found, why = decide(evidence(form, xyxy, sizes, areas), "bbox")
    assert found == form
    assert f"{form} 100% in their image, 100% agree" in why


@pytest.mark.parametrize("form", ["xywh", "xyxy"])
def test_outlines_decide_where_areas_are_those_of_masks(form):
    xyxy, sizes = small()
    areas = 0.4 * (xyxy[:, 2:] - xyxy[:, :2]).prod(1)
    assert decide(evidence(form, xyxy, sizes, areas, xyxy + 0.5), "bbox")[0] == form


def test_areas_against_positions_are_an_error():
    xyxy, sizes = corners()
    wrong = evidence("xyxy", xyxy, sizes, xyxy[:, 2:].prod(1))  # areas of the numbers as widths and heights
    with pytest.raises(SchemaError, match=r"are none of the forms that are known .*--box-format"):
        decide(wrong, "bbox")


def test_numbers_of_no_form_are_an_error():
    rng = np.random.default_rng(0)
    sizes = np.full((50, 2), 100.0)
    with pytest.raises(SchemaError, match="none of the forms"):
        decide(Evidence(rng.uniform(-900, 900, (50, 4)), sizes, np.full(50, np.nan), np.full((50, 4), np.nan)), "b")


def test_a_few_boxes_beyond_the_edge_do_not_hide_the_form():
    xyxy, sizes = corners(1000)
    xyxy[:5, 2:] += 40
    assert decide(evidence("xywh", xyxy, sizes), "bbox")[0] == "xywh"


def test_boxes_without_an_area_say_nothing_of_the_form():
    xyxy, sizes = corners()
    xyxy[:40, 2:] = xyxy[:40, :2]
    assert decide(evidence("xyxy", xyxy, sizes), "bbox")[0] == "xyxy"
