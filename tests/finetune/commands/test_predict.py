"""`python -m finetune predict`, against the exported model in plain timm, and against the run's own numbers."""

import csv
import io
import json
import os
import re
import shutil
import sys

import datasets
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits

from finetune import PredictOptions, Predictor, predict
from finetune.cli import main


def digit(index):
    return Image.fromarray((load_digits().images[index] * (255 / 16)).round().astype(np.uint8))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of several kinds and places, and what is none."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub" / "deep [1]").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    digit(0).save(folder / "a.png")
    digit(1).convert("P").save(folder / "b.GIF")
    digit(2).convert("RGB").save(folder / "sub" / "c.jpg", quality=95)
    digit(3).convert("CMYK").save(folder / "sub" / "deep [1]" / "d.jpeg", quality=95)
    digit(4).save(folder / ".hidden" / "e.png")
    (folder / "._a.png").write_bytes(b"resource fork")
    (folder / "notes.txt").write_text("no image")
    (folder / "sub" / "broken.jpg").write_bytes((folder / "sub" / "c.jpg").read_bytes()[:200])
    (folder / "sub" / "page.png").write_text("<html>404</html>")
    return folder


def told(capsys, *arguments, code=0):
    """Records of a JSON run in this process, and standard error."""
    assert main(["predict", *map(str, arguments), "--accelerator", "cpu"]) == code
    captured = capsys.readouterr()
    return [json.loads(line) for line in captured.out.splitlines()], captured.err


def test_files_folders_globs_and_bad_files(digits_run, photos, cli):
    arguments = [photos, photos / "**" / "*.jp*g", photos / "sub/deep [1]/d.jpeg", "nothing.png", photos / "*.bmp"]
    done = cli("finetune", "predict", digits_run, *arguments, "--top-k", 10, "--workers", 0, "--batch-size", 3)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    names = [record["image"].removeprefix(f"{photos}/") for record in records]
    walked = ["a.png", "b.GIF", "sub/broken.jpg", "sub/c.jpg", "sub/page.png", "sub/deep [1]/d.jpeg"]
    matched = ["sub/broken.jpg", "sub/c.jpg", "sub/deep [1]/d.jpeg"]
    assert names == [*walked, *matched, "sub/deep [1]/d.jpeg", "nothing.png", "*.bmp"]
    bad = {name: record["error"] for name, record in zip(names, records, strict=True) if "error" in record}
    assert bad.keys() == {"sub/broken.jpg", "sub/page.png", "nothing.png", "*.bmp"}
    assert bad["nothing.png"] == "no such file or folder"
    assert bad["*.bmp"] == "nothing matches"
    assert bad["sub/page.png"] == "ImageError: an HTML page, perhaps of a failed download"
    for name, reason in bad.items():
        assert re.search(rf"cannot read \S*{re.escape(name)}: {re.escape(reason)}", done.stderr)
    assert "1 files are no images by their names" in done.stderr
    temperature = json.loads((digits_run / "model/config.json").read_text())["calibration"]["temperature"]
    assert f"10 classes, temperature {temperature:.4g}" in done.stderr
    assert "12 images: 5 could not be read, 0 abstained" in done.stderr
    model = timm.create_model(f"local-dir:{digits_run / 'model'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    for name, record in zip(names, records, strict=True):
        if name not in bad:
            with torch.inference_mode(), Image.open(photos / name) as image:
                truth = (model(transform(image.convert("RGB"))[None]) / temperature).softmax(1)[0]
            assert record["label"] == str(truth.argmax().item())
            assert record["abstained"] is False
            shares = {entry["label"]: entry["probability"] for entry in record["top"]}
            assert shares == pytest.approx({str(i): p.item() for i, p in enumerate(truth)}, abs=1e-4)
            assert record["confidence"] == record["top"][0]["probability"] == max(shares.values())


def test_a_runs_own_split_has_the_runs_accuracy(digits_run, capsys):
    records, _ = told(capsys, digits_run, "--split", "test", "--top-k", 1)
    part = json.loads((digits_run / "splits.json").read_text())["test"]
    assert [(r["split"], r["row"]) for r in records] == [(part["source"], row) for row in part["rows"]]
    right = [record["label"] == str(load_digits().target[record["row"]]) for record in records]
    recorded = json.loads((digits_run / "result.json").read_text())["metrics"]["test"]
    assert np.mean(right) == pytest.approx(recorded["accuracy"], abs=1e-9)
    assert all(len(record["top"]) == 1 for record in records)


def test_a_model_without_a_temperature_says_so(digits_run, tmp_path, capsys):
    model = shutil.copytree(digits_run / "model", tmp_path / "model")
    described = json.loads((model / "config.json").read_text())
    del described["calibration"]
    (model / "config.json").write_text(json.dumps(described))
    digit(0).save(tmp_path / "0.png")
    records, said = told(capsys, model, tmp_path / "0.png")
    assert len(records) == 1
    assert "the model has no calibration: probabilities are the model's own (temperature 1)" in said


def test_a_dataset_needs_no_labels_and_keeps_its_order(digits_run, capsys, tmp_path):
    rows = [{"bytes": png(digit(i)), "path": None} for i in range(30)]
    rows[7]["bytes"] = b"broken"
    features = datasets.Features(photo=datasets.Image())
    parts = {"new": datasets.Dataset.from_dict({"photo": rows}, features=features)}
    parts["old"] = parts["new"].select(range(2))
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "data")
    arguments = ["--dataset", tmp_path / "data", "--batch-size", 4, "--workers", 2]
    direct = Predictor(digits_run, accelerator="cpu")([digit(i) for i in range(30) if i != 7])
    least = np.quantile([prediction.top[0][1] for prediction in direct], 0.51)  # between two of the 29
    records, said = told(capsys, digits_run, *arguments, "--split", "new", "--min-confidence", least)
    assert [(r["split"], r["row"]) for r in records] == [("new", i) for i in range(30)]
    assert records[7]["error"].startswith("UnidentifiedImageError")
    assert "cannot read new, row 7: UnidentifiedImageError" in said
    good = [record for record in records if "error" not in record]
    assert [r["top"][0]["label"] for r in good] == [p.top[0][0] for p in direct]
    assert {r["abstained"] for r in good} == {True, False}
    for record in good:
        assert record["abstained"] == (record["label"] is None) == (record["confidence"] < least)
    assert f"1 could not be read, {sum(r['abstained'] for r in good)} abstained" in said
    assert main(["predict", str(digits_run), "--dataset", str(tmp_path / "data")]) == 2
    assert "--split must be given" in capsys.readouterr().err


def png(image):
    stream = io.BytesIO()
    image.save(stream, format="png")
    return stream.getvalue()


def test_csv_has_the_same_in_columns(digits_run, photos, capsys, tmp_path):
    arguments = [photos / "sub" / "page.png", photos / "a.png", photos / "b.GIF", "--top-k", 99]
    arguments += ["--min-confidence", 1]
    records, _ = told(capsys, digits_run, *arguments)
    out = tmp_path / "out.csv"
    assert told(capsys, digits_run, *arguments, "--format", "csv", "--output", out)[0] == []
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    tops = [name for rank in range(1, 11) for name in (f"label_{rank}", f"probability_{rank}")]
    assert list(rows[0]) == ["image", "label", "confidence", "abstained", "error", *tops]
    assert rows[0]["error"] == records[0]["error"]
    assert rows[0]["label_1"] == ""
    for row, record in zip(rows[1:], records[1:], strict=True):
        assert (row["image"], row["label"], row["abstained"]) == (record["image"], "", "True")
        assert float(row["confidence"]) == record["confidence"]
        assert [row[name] for name in tops] == [str(v) for entry in record["top"] for v in entry.values()]


def test_nothing_readable_is_an_error_and_leaves_no_file(digits_run, photos, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    arguments = [photos / "sub" / "page.png", tmp_path / "empty", "--output", tmp_path / "out.json"]
    _, said = told(capsys, digits_run, *arguments, code=2)
    assert f"cannot read {tmp_path}/empty: a folder without image files" in said
    assert "error: none of the images could be read" in said
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_ctrl_c_leaves_whole_lines(digits_run, photos, capsys, monkeypatch):
    whole = Predictor.predict

    def interrupted(self, *arguments):
        answers = whole(self, *arguments)
        interrupted.calls += 1
        if interrupted.calls == 2:
            raise KeyboardInterrupt
        return answers

    interrupted.calls = 0
    monkeypatch.setattr(Predictor, "predict", interrupted)
    records, said = told(capsys, digits_run, *[photos / "a.png"] * 6, "--batch-size", 2, code=130)
    assert len(records) == 2
    assert "stopped after 2 of 6 images; the lines on standard output are whole" in said


def test_a_reader_that_has_seen_enough_is_no_error(digits_run, photos, monkeypatch):
    """As in `predict ... | head -1`."""
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "stdout", os.fdopen(write, "w"))
    assert main(["predict", str(digits_run), str(photos), "--accelerator", "cpu"]) == 0
    sys.stdout.close()  # what is still buffered goes nowhere, and raises nothing


def test_from_python(digits_run, photos):
    options = PredictOptions(model=str(digits_run), paths=(str(photos / "a.png"),) * 3, batch_size=2, accelerator="cpu")
    batches = list(predict(options))
    assert [len(batch) for batch in batches] == [2, 1]
    assert batches[0][0] == batches[0][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN"], "PATHS must be given, or --dataset"),
        ([], "must be given; see python -m finetune predict --help"),
        (["RUN", "a.png", "--dataset", "digits"], "either PATHS or --dataset and --split, got both"),
        (["RUN", "a.png", "--revision", "x"], "--revision: only with --dataset"),
        (["RUN", "a.png", "--top-k", "0", "--workers", "-1"], "--top-k must be at least 1, got 0; --workers must be"),
        (["RUN", "a.png", "--min-confidence", "1.5"], "--min-confidence must be at least 0 and at most 1, got 1.5"),
        (["RUN", "a.png", "--output", "/nowhere/out.csv"], "there is no folder /nowhere"),
        (["RUN", "a.png", "--output", "FOLDER"], "is a folder: give a file's name"),
        (["RUN", "--split", "tset"], "--split of a run must be one of train, validation, test, got 'tset'"),
        (["RUN", "--dataset", "digits", "--split", "tran"], "no split 'tran'; did you mean train"),
        (["RUN", "--dataset", "digits", "--image-column", "label"], "no column 'label' of images"),
        (["/nowhere", "a.png"], "no such folder: /nowhere"),
    ],
)
def test_mistakes_are_explained(digits_run, tmp_path, capsys, arguments, message):
    known = {"RUN": str(digits_run), "FOLDER": str(tmp_path)}
    assert main(["predict", *[known.get(a, a) for a in arguments]]) == 2
    assert message in capsys.readouterr().err
