"""The benchmark of transfer: its carving, its intervals, its table, its file of results, and a run at its smallest."""

import dataclasses
import importlib
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import timm
from PIL import Image
from scipy import stats
from timm.models import save_for_hf
from torch.nn.functional import cross_entropy

from tests.finetune.classes import prepare

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"model": "resnet10t", "image_size": 32, "score": "test", "subsets": 2, "threads": 1}


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    """Scripts find each other in their own folder, as where one of them is run."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def script(name):
    return importlib.import_module(name)


# --- carving ---------------------------------------------------------------------------------------------------------


def test_subsets_are_stratified_disjoint_and_seeded():
    labels = np.random.default_rng(3).permutation(np.repeat([0, 1, 2], [700, 200, 100]))
    drawn, rest = script("transfer_data").draw(labels, 200, 3)
    for subset in drawn:
        assert (len(subset.train), len(subset.validation)) == (180, 20)
        both = np.concatenate([subset.train, subset.validation])
        assert len(np.unique(both)) == 200
        assert np.abs(np.bincount(labels[both]) - [140, 40, 20]).max() <= 1
        assert np.abs(np.bincount(labels[subset.validation]) - [14, 4, 2]).max() <= 1
        assert not np.isin(rest, both).any()
    used = np.unique(np.concatenate([places for subset in drawn for places in (subset.train, subset.validation)]))
    assert len(used) + len(rest) == 1000  # every image is somewhere
    assert not np.array_equal(drawn[0].train, drawn[1].train)
    again, _ = script("transfer_data").draw(labels, 200, 1)
    np.testing.assert_array_equal(again[0].train, drawn[0].train)
    np.testing.assert_array_equal(again[0].validation, drawn[0].validation)


def test_a_pool_that_is_too_small_is_said():
    with pytest.raises(ValueError, match="50 training images asked for, there are 40"):
        script("transfer_data").draw(np.repeat([0, 1], 20), 50, 1)


def test_a_case_is_a_dataset_and_a_number(tmp_path):
    parse = script("transfer_data").Case.parse
    assert parse("digits:200") == script("transfer_data").Case("digits", 200)
    assert parse("owner/name:config") == script("transfer_data").Case("owner/name:config", None)
    case = parse(f"{tmp_path}:50")
    assert (case.dataset, case.images, case.name) == (str(tmp_path.resolve()), 50, f"{tmp_path.name}:50")


def pixels(path):
    """The encoded images of a parquet file."""
    return [row["bytes"] for row in datasets.Dataset.from_parquet(str(path)).cast_column("image", ENCODED)["image"]]


ENCODED = datasets.Image(decode=False)


def test_a_dataset_with_train_alone_is_scored_on_what_the_command_would_hold_out(tmp_path):
    data = script("transfer_data")
    case = data.Case.parse("digits:100")
    files = data.write(case, 2, "test", tmp_path / "test")
    splits = prepare("digits", seed=0).splits.parts
    encoded = prepare("digits", seed=0).source.splits["train"].cast_column("image", ENCODED)
    expected = [row["bytes"] for row in encoded.select(splits["test"].rows)["image"]]
    for number, file in enumerate(files):
        assert file.folder.name == str(number)
        assert pixels(file.score) == expected
        roles = [pixels(file.folder / f"{role}.parquet") for role in ("train", "validation")] + [pixels(file.sweep)]
        assert [len(images) for images in roles] == [90, 10, 1000]
        assert len({*roles[0], *roles[1]}) == 100
        for images in roles:
            assert not set(images) & set(expected)
        assert not set(roles[2]) & {*roles[0], *roles[1]}
    developed = data.write(case, 2, "validation-pool", tmp_path / "pool")
    assert pixels(developed[1].score) == pixels(files[1].sweep)
    assert pixels(developed[1].folder / "train.parquet") == pixels(files[1].folder / "train.parquet")


def test_all_images_leave_none_to_develop_on(tmp_path):
    data = script("transfer_data")
    (files,) = data.write(data.Case.parse("digits"), 3, "test", tmp_path / "test")
    assert files.sweep == files.folder / "validation.parquet"
    counts = [len(pixels(files.folder / f"{role}.parquet")) for role in ("train", "validation", "test")]
    assert counts == list(prepare("digits", seed=0).splits.counts().values())
    with pytest.raises(ValueError, match=r"digits:all leaves no image of the pool; give fewer, DATASET:IMAGES"):
        data.write(data.Case.parse("digits"), 1, "validation-pool", tmp_path / "pool")


# --- intervals -------------------------------------------------------------------------------------------------------


def test_the_interval_over_runs_is_that_of_a_paired_t_test():
    rng = np.random.default_rng(0)
    ours, peer = rng.normal(0.8, 0.02, 9), rng.normal(0.78, 0.02, 9)
    expected = stats.ttest_rel(ours, peer).confidence_interval(0.95)
    assert script("transfer_table").over_runs((ours - peer).tolist()) == pytest.approx(tuple(expected))


def test_the_interval_over_images_holds_the_truth_as_often_as_it_says(monkeypatch):
    """Differences of pairs of classifiers of which one is right in 10 % more of the images."""
    table = script("transfer_table")
    monkeypatch.setattr(table, "RESAMPLES", 300)
    rng = np.random.default_rng(0)
    held = 0
    for number in range(300):
        differences = rng.choice([1.0, 0.0, -1.0], size=200, p=[0.2, 0.7, 0.1])
        low, high = table.over_images(differences, seed=number)
        held += low <= 0.1 <= high
    # 0.95 of 300 are 285; a binomial count stays within three deviations, 3.8 each, nearly always.
    assert 270 <= held <= 297


# --- table -----------------------------------------------------------------------------------------------------------


def measured(row, subset, seed, correct, seconds=10.0, **more):
    results = script("transfer_results")
    facts = more.pop("facts", {})
    return results.Run(results.Request("digits:100", subset, seed, row, **more), SETTINGS, correct, seconds, 0.5, facts)


@pytest.fixture
def rows():
    """Four images, two subsets, two seeds; the probe has one run a subset."""
    ours = ["1110", "1111", "1100", "1110"]
    theirs = ["1100", "1110", "1000", "1100"]
    cells = [(0, 0), (0, 1), (1, 0), (1, 1)]
    return {
        "ours": [
            measured("ours", *cell, right, 30.0, facts={"probe": 0.5, "epochs": 9, "batch_size": 32})
            for cell, right in zip(cells, ours, strict=True)
        ],
        "ours, --epochs 1": [
            measured("ours, --epochs 1", k, 0, right, 12.0) for k, right in ((0, "1100"), (1, "1000"))
        ],
        "probe": [measured("probe", 0, None, "1000"), measured("probe", 1, None, "0000")],
        "Trainer": [measured("Trainer", *cell, r, 60.0, lr=5e-5) for cell, r in zip(cells, theirs, strict=True)],
    }


def cells_of(text):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


def test_the_table_pairs_runs_and_says_when_ours_was_as_good(rows):
    found = cells_of(script("transfer_table").table(rows, {"Trainer": " (5e-05)"}))
    assert list(found) == ["ours", "ours: probe (epoch 0)", "ours, --epochs 1", "probe", "Trainer (5e-05)"]
    trainer = found["Trainer (5e-05)"]
    assert (found["ours"]["accuracy"], trainer["accuracy"]) == ("0.750", "0.500")
    assert (trainer["ours - row, points"], trainer["of each run"]) == ("+25.0", "0.500, 0.750, 0.250, 0.500")
    assert trainer["95 %, runs"] == "+25.0 to +25.0"  # each pair differs by one image of four
    # On subset and seed of both, ours of one epoch is as good: 12 s of 60.
    assert (trainer["ours as good in"], trainer["of its time"]) == ("12.0 (ours, --epochs 1)", "0.20")
    probe = found["probe"]
    assert probe["ours - row, points"] == "+62.5"  # each of the four with the probe of its subset
    low, high = stats.t.interval(0.95, 3, 62.5, stats.sem([50, 75, 50, 75]))
    assert probe["95 %, runs"] == f"{low:+.1f} to {high:+.1f}"
    assert found["ours: probe (epoch 0)"]["ours - row, points"] == "+25.0"


def test_no_row_of_ours_is_as_good_as_a_perfect_peer(rows):
    rows["Trainer"] = [measured("Trainer", subset, 0, "1111") for subset in (0, 1)]
    found = cells_of(script("transfer_table").table(rows, {}))["Trainer"]
    assert (found["ours as good in"], found["of its time"]) == ("", "")


def test_the_best_rate_at_an_end_of_its_grid_is_named():
    name = "Trainer, sweep {}"
    runs = {name.format(r): [measured(name.format(r), 0, 0, c, lr=r)] for r, c in ((1e-3, "1100"), (1e-4, "1000"))}
    (_, line) = script("transfer").tried(runs)
    assert line == (
        "Trainer, rates tried on other images: 0.0001: 0.250, 0.001: 0.500. The best, 0.001, is at an end of the grid."
    )


# --- results ---------------------------------------------------------------------------------------------------------


def test_a_benchmark_goes_on_after_an_interruption(tmp_path):
    results = script("transfer_results")
    path = tmp_path / "out" / "runs.jsonl"
    first, second = measured("ours", 0, 0, "10"), measured("ours", 0, 1, "11")
    results.Results(path, SETTINGS).add(first)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:30])  # a line that was being written
    again = results.Results(path, SETTINGS)
    assert again.runs == [first]
    assert (again.find(first.request), again.find(second.request)) == (first, None)
    again.add(second)
    again.add(first)
    assert results.Results(path, SETTINGS).runs == [first, second, first]


def test_the_last_way_of_a_row_counts(tmp_path):
    results = script("transfer_results").Results(tmp_path / "runs.jsonl", SETTINGS)
    runs = [measured("Trainer", 0, seed, "10", epochs=30, lr=5e-5) for seed in (1, 0)]
    runs += [measured("Trainer", 0, seed, "11", epochs=10, lr=5e-5) for seed in (1, 0)]
    for run in runs:
        results.add(run)
    assert results.rows("digits:100") == {"Trainer": [runs[3], runs[2]]}
    assert results.rows("digits:200") == {}


def test_a_file_of_other_settings_is_refused(tmp_path):
    results = script("transfer_results")
    path = tmp_path / "runs.jsonl"
    results.Results(path, SETTINGS).add(measured("ours", 0, 0, "10"))
    with pytest.raises(ValueError, match=r"measured with score 'test', this is 'validation-pool': give another"):
        results.Results(path, SETTINGS | {"score": "validation-pool"})
    path.write_text("{}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 1: expected a run of transfer.py, got \{\}"):
        results.Results(path, SETTINGS)


def test_an_answer_is_what_was_right_and_the_loss(tmp_path):
    jobs = script("transfer_job")
    job = jobs.Job("m", 32, "", "", "", str(tmp_path / "answer.json"))
    logits = np.random.default_rng(0).normal(0, 3, (7, 4))
    labels = [0, 1, 2, 3, 0, 1, 2]
    jobs.answer(job, logits, labels, strength=2.0)
    said = json.loads((tmp_path / "answer.json").read_text())
    torch = pytest.importorskip("torch")
    assert said["loss"] == pytest.approx(float(cross_entropy(torch.tensor(logits), torch.tensor(labels))))
    assert said["correct"] == "".join(str(int(a == b)) for a, b in zip(logits.argmax(1), labels, strict=True))
    assert said["strength"] == 2.0
    with pytest.raises(ValueError, match="expected 6 images to be scored, got 7"):
        jobs.answer(job, logits, labels[:6])
    assert jobs.Job(**json.loads(job.to_words()[0])) == dataclasses.replace(job)


# --- the whole -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A folder of images whose class is their colour, and a small network with weights of its own."""
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for label, colour in {"red": (200, 40, 40), "green": (40, 200, 40)}.items():
        (folder / "images" / label).mkdir(parents=True)
        for number in range(60):
            noisy = np.clip(np.array(colour) + rng.normal(0, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / "images" / label / f"{number}.png")
    save_for_hf(timm.create_model("resnet10t", num_classes=7), folder / "model")
    return folder


@pytest.fixture
def given(colours, tmp_path):
    """Arguments; the file of the results is the last one."""
    words = ["--dataset", f"{colours / 'images'}:40", "--model", f"local-dir:{colours / 'model'}"]
    words += ["--image-size", "32", "--threads", "1", "--subsets", "1", "--results", str(tmp_path / "runs.jsonl")]
    return words


@pytest.mark.slow(seconds=20)
def test_the_row_of_the_probe_from_end_to_end(given, capsys):
    main, path = script("transfer").main, Path(given[-1])
    assert main(["--rows", "probe", *given]) == 0
    runs = [json.loads(line) for line in path.read_text().splitlines()]
    assert [run["request"]["row"] for run in runs] == ["probe, train and validation", "probe, train alone"]
    found = cells_of(capsys.readouterr().out)
    assert list(found) == [run["request"]["row"] for run in runs]
    for run in runs:
        share = run["correct"].count("1") / 12  # what the command holds out of 120
        assert float(found[run["request"]["row"]]["accuracy"]) == pytest.approx(share, abs=6e-4)
        assert share > 0.9  # red is not green
    assert main(["--rows", "probe", *given]) == 0
    assert cells_of(capsys.readouterr().out) == found
    assert len(path.read_text().splitlines()) == len(runs)  # nothing was run twice
    assert main([*given, "--table"]) == 0
    assert cells_of(capsys.readouterr().out) == found


def test_a_peer_waits_for_our_epochs(given, capsys, monkeypatch):
    monkeypatch.setattr(script("transfer").importlib.util, "find_spec", lambda name: name)
    assert script("transfer").main(["--rows", "trainer", *given]) == 2
    assert "images:40: expected runs of ours in" in capsys.readouterr().err


def test_what_is_not_installed_is_said_first(given, capsys, monkeypatch):
    monkeypatch.setattr(script("transfer").importlib.util, "find_spec", lambda name: None)
    assert script("transfer").main(given) == 2
    expected = "error: no sklearn and no scipy and no accelerate and no transformers and no fastai: pip install "
    assert capsys.readouterr().err.startswith(expected)
    assert script("transfer").main(["--rows", "fastai", "--fastai-python", "python", *given]) == 2
    assert "expected runs of ours" in capsys.readouterr().err
