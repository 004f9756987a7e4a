"""The benchmarks of the input and of the whole job at their smallest: what they compare, and their tables."""

import importlib
import io
import re

import numpy as np
import pytest
from datasets import Dataset, Features, Image, load_dataset
from PIL import Image as PILImage

from tests.conftest import ROOT


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.fixture
def folder(tmp_path):
    """Six JPEGs without labels."""
    rng = np.random.default_rng(0)

    def jpeg():
        buffer = io.BytesIO()
        PILImage.fromarray(rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)).save(buffer, "JPEG")
        return {"path": None, "bytes": buffer.getvalue()}

    path = tmp_path / "data"
    path.mkdir()
    rows = Dataset.from_dict({"image": [jpeg() for _ in range(6)]}, features=Features(image=Image(decode=False)))
    rows.cast_column("image", Image()).to_parquet(str(path / "train.parquet"))
    return path


def test_one_row_a_dataset_with_the_medians_and_their_ratio(script, folder, capsys, monkeypatch):
    input_speed = script("input_speed")
    measured = []
    measure = input_speed.Candidate.measure
    monkeypatch.setattr(input_speed.Candidate, "measure", lambda self: (measure(self), measured.append(self)))
    arguments = ["--dataset", str(folder), "--size", "32", "--workers", "0", "--repeats", "3", "--images", "16"]
    assert input_speed.main([*arguments, "--batch-size", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line.strip("| ").split(" | ") for line in lines if line.startswith("| data |")]
    assert row[:3] == ["data", "32", "0"]
    assert [c.name for c in measured[:3]] == ["ours", "ours, by Pillow in full", "timm"]
    assert [c.name for c in measured[3:6]] == ["ours, by Pillow in full", "timm", "ours"]  # nobody is always the first
    ours, full, timms = measured[:3]
    assert len(measured) == 9
    middle = [sorted(c.rates)[1] for c in (ours, full, timms)]
    assert [float(re.match(r"\d+", cell)[0]) for cell in row[3:6]] == [pytest.approx(m, abs=0.5) for m in middle]
    assert float(row[6]) == pytest.approx(middle[0] / middle[2], abs=0.006)
    assert float(row[7]) == pytest.approx(sorted(timms.cpu)[1] / sorted(ours.cpu)[1], abs=0.006)
    assert float(row[8]) == pytest.approx(middle[1] / middle[2], abs=0.006)


def test_both_read_the_same_bytes(script, folder, tmp_path):
    input_speed = script("input_speed")
    options = input_speed.Options(dataset=(str(folder),), size=(32,), images=15)
    (tmp_path / "out").mkdir()
    input_speed.write_parquet(str(folder), options, tmp_path / "out")
    encoded = [
        [
            row["bytes"]
            for row in load_dataset(str(path), split="train").cast_column("image", Image(decode=False))["image"]
        ]
        for path in (folder, tmp_path / "out")
    ]
    assert encoded[1] == (encoded[0] * 3)[:15]


def test_a_size_for_each_dataset(script, capsys):
    assert script("input_speed").main(["--dataset", "a", "b", "--size", "32"]) == 2
    assert capsys.readouterr().err == "--size: one per dataset, got 1 for 2\n"


def test_the_table_of_whole_jobs(script):
    speed = script("finetune_speed")
    ours = speed.Job("ours", [30.0, 20.0, 25.0], [40.0, 40.0, 40.0], [0.5, 0.6, 0.7])
    theirs = speed.Job("transformers", [50.0, 100.0, 40.0], [100.0, 80.0, 60.0], [0.55, 0.5, 0.45])
    lines = speed.table([ours, theirs], speed.Options(dataset="clothing"))
    assert lines[0].split(" | ")[1] == "end of epoch 2, s"
    assert lines[2] == "| ours | 25.0 ±20 % | 40.0 ±0 % | 0.6000 | 0.5000, 0.6000, 0.7000 |"
    assert lines[3].startswith("| transformers | 50.0 ±60 % | 80.0 ±25 % | 0.5000 |")
    assert lines[4] == "| ours / transformers | 0.50 | 0.50 | +0.1000 | |"


def test_a_job_that_fails_says_why(script):
    speed = script("finetune_speed")
    with pytest.raises(RuntimeError, match=r"(?s)ended with 3:.*no luck"):
        speed.launch(
            [speed.sys.executable, "-c", "import sys; print('no luck', file=sys.stderr); sys.exit(3)"],
            speed.Options(dataset="clothing"),
        )


def test_what_is_not_installed_is_said_before_anything_runs(script, capsys, monkeypatch):
    speed = script("finetune_speed")
    monkeypatch.setattr(speed, "launch", lambda *_: pytest.fail("nothing may run"))
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: None if name == "accelerate" else name)
    assert speed.main(["--dataset", "clothing"]) == 2
    assert capsys.readouterr().err == "error: no accelerate: pip install 'resnest-timm[bench]'\n"
