"""What the curves of a detector's run show."""

import numpy as np
import pytest

from finetune.evaluation.figures import curves
from finetune.tasks.detection.figures import drawing


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("", ["AP", "AP at overlap 0.5"]), ("mask_", ["mask AP", "mask AP at overlap 0.5"])],
)
def test_validation_s_average_precision_is_drawn(kind, expected):
    columns = {"epoch": np.arange(1.0, 4), "train_loss": np.ones(3), "lr": np.ones(3), "val_map": np.ones(3) / 2}
    columns |= {f"val_{kind}map": np.ones(3) / 3, f"val_{kind}map_50": np.ones(3) / 4}
    made = curves.draw(columns, 3, drawing.lines(columns))
    shown = {line.get_label(): line.get_ydata() for line in made.axes[1].lines}
    assert [name for name in shown if not name.startswith("_")] == expected
    assert list(shown[expected[0]]) == [1 / 3] * 3
