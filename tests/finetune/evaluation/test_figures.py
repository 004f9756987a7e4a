"""The figures: what is in them, that it can be read, and that no class name breaks them."""

import errno
import itertools
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from finetune.evaluation.calibration import calibration_error
from finetune.evaluation.figures import confusion, curves, drawing, mistakes, reliability, style
from finetune.evaluation.predictions import Predictions

AWKWARD = [
    "$x_1$ < $\\nothing{$",  # raises as mathematics
    "a" * 90,
    "日本語",
    "größe & <b>",
    "line\nbreak\ttab",
    "عربى",
    "turned\u202egnp",
    "",
    "$",
    "\N{OK HAND SIGN}",
]


@pytest.fixture(autouse=True)
def _style():
    with style.style():
        yield


def predictions(classes, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), targets] += 2.0
    return Predictions(logits, targets)


def texts(made):
    return [text.get_text() for text in made.findobj(matplotlib.text.Text)]


def overlaps(labels, renderer):
    boxes = [label.get_window_extent(renderer) for label in labels if label.get_text()]
    return [(a, b) for a, b in itertools.pairwise(boxes) if a.overlaps(b)]


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (["no", "yes"], 50),
        ([f"class {i}" for i in range(10)], 300),
        (AWKWARD, 300),
        ([f"a rather long class name, number {i}" for i in range(20)], 600),
        ([f"class {i}" for i in range(100)], 800),
        ([f"n{i:08d}" for i in range(1000)], 3000),
    ],
    ids=["2", "10", "awkward", "20", "100", "1000"],
)
def test_confusion_can_be_read(names, count, tmp_path):
    made = confusion.draw(predictions(len(names), count).pairs(), names)
    style.save(made, tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size < 300_000
    with Image.open(tmp_path / "confusion.png") as image:
        assert image.width >= 800
    renderer = style.renderer(made)
    axes = made.axes[0]
    for axis in (axes.xaxis, axes.yaxis):
        labels = axis.get_ticklabels()
        assert len(labels) >= min(len(names), 30)
        assert not overlaps(labels, renderer)
    apart = [axes.xaxis.label, axes.yaxis.label, *made.texts]
    apart += [text for text in made.axes[-1].get_children() if getattr(text, "get_text", str)() == "Largest confusions"]
    apart += [*made.axes[-1].texts, *axes.get_xticklabels()[:1], *axes.get_yticklabels()[:1]]
    boxes = [text.get_window_extent(renderer) for text in apart if text.get_text()]
    assert len(boxes) >= 6 + (len(names) > 20)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    boxes += [label.get_window_extent(renderer) for label in axes.get_xticklabels() + axes.get_yticklabels()]
    assert all(-2 <= box.x0 < box.x1 <= made.bbox.x1 + 2 for box in boxes)
    assert all(-2 <= box.y0 < box.y1 <= made.bbox.y1 + 2 for box in boxes)
    assert ("largest of 8 x 8" in axes.get_ylabel()) is (len(names) == 1000)
    if len(names) <= 20:
        shown = texts(made)
        assert all(name in shown for name in style.readable(names) if len(name) < 15)


def test_confusion_says_its_counts_and_recalls():
    targets, labels = torch.tensor([0, 0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    found = Predictions(torch.nn.functional.one_hot(labels, 3).float(), targets)
    shown = texts(confusion.draw(found.pairs(), ["a", "b", "no image"]))
    assert [text for text in shown if text in ("3", "1")] == ["3", "1", "3"]
    assert {"75 %", "100 %", "no image", "Test images by class: 6 of 7 right"} <= set(shown)


def test_largest_confusions_are_listed():
    targets = torch.cat([torch.arange(30), torch.full((7,), 4), torch.full((2,), 9)])
    labels = torch.cat([torch.arange(30), torch.full((7,), 11), torch.full((2,), 3)])
    found = Predictions(torch.nn.functional.one_hot(labels, 30).float(), targets)
    shown = texts(confusion.draw(found.pairs(), [f"class {i}" for i in range(30)]))
    start = shown.index("7 of 8")
    assert shown[start - 1 : start + 2] == ["class 4", "7 of 8", "\N{RIGHTWARDS ARROW} class 11"]
    assert shown.index("2 of 3") > start


def test_shares_are_rows_of_the_confusion_matrix():
    found = predictions(7, 200)
    matrix = np.zeros((7, 7))
    np.add.at(matrix, (found.targets.numpy(), found.labels.numpy()), 1)
    assert confusion.shares(found.pairs(), 7) == pytest.approx(matrix / matrix.sum(axis=1, keepdims=True))
    empty = Predictions(torch.eye(3)[:1], torch.tensor([0]))
    assert np.isnan(confusion.shares(empty.pairs(), 3)[1:]).all()


def test_blocks_of_many_classes_keep_their_largest_confusion():
    targets, labels = torch.arange(1000).repeat(2), torch.arange(1000).repeat(2)
    labels[1500] = 0  # class 500, one of its two images
    labels[17] = 16  # within a block
    found = Predictions(torch.nn.functional.one_hot(labels, 1000).float(), targets)
    cells = confusion.shares(found.pairs(), 1000)
    assert cells.shape == (125, 125)
    assert cells[500 // 8, 0] == 0.5
    assert (np.diag(cells) == 1).all()
    assert np.count_nonzero(cells) == 126


def test_reliability_bins_have_torchmetrics_error():
    found = predictions(10, 500)
    confidences = found.confidences(0.7).numpy()
    bins = reliability.bin_confidences(confidences, found.correct.numpy())
    assert bins.error == pytest.approx(calibration_error(found, 0.7), abs=1e-6)
    assert bins.count.sum() == 500
    assert reliability.bin_confidences(np.array([1.0]), np.array([True])).count.tolist() == [*[0] * 14, 1]
    panels = [("Before", confidences), ("After", found.confidences().numpy())]
    shown = texts(reliability.draw(panels, found.correct.numpy()))
    assert f"Before: calibration error {bins.error:.4f}" in shown


def write_metrics(path, epochs):
    rows = [f"{e},{2 / e},{1.8 / e},{1 - 0.9 / e},0.1,{1 - 0.95 / e},{0.001 / e},1.5" for e in range(1, epochs + 1)]
    header = "epoch,train_loss,val_loss,val_accuracy,val_macro_f1,val_balanced_accuracy,lr,seconds"
    path.write_text("\n".join([header, *rows, ""]))


@pytest.mark.parametrize(("epochs", "best"), [(1, 1), (8, 3), (300, 299), (4, None)])
def test_curves_are_those_of_the_file(tmp_path, epochs, best):
    write_metrics(tmp_path / "metrics.csv", epochs)
    made = curves.draw(curves.read(tmp_path / "metrics.csv"), best, curves.SCORES)
    lines = {line.get_label(): line.get_ydata() for axes in made.axes for line in axes.get_lines()}
    epoch = np.arange(1, epochs + 1)
    assert lines["training"] == pytest.approx(2 / epoch)
    assert lines["validation"] == pytest.approx(1.8 / epoch)
    assert lines["accuracy"] == pytest.approx(1 - 0.9 / epoch)
    kept = [text for text in texts(made) if text.startswith("kept")]
    assert kept == ([] if best is None else [f"kept: epoch {best}, {1 - 0.9 / best:.4f}"])
    style.save(made, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size < 300_000


@pytest.mark.parametrize(("best", "label"), [(2, "linear probe"), (0, "linear probe, kept")])
def test_the_probe_is_a_level_beside_the_curves(tmp_path, best, label):
    write_metrics(tmp_path / "metrics.csv", 3)
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    (tmp_path / "metrics.csv").write_text("\n".join([header, "0,,0.7,0.61,0.1,0.5,,", *rows, ""]))
    made = curves.draw(curves.read(tmp_path / "metrics.csv"), best, curves.SCORES)
    lines = [line for axes in made.axes for line in axes.get_lines()]
    levels = [list(line.get_ydata()) for line in lines if line.get_label() == label]
    assert levels == [[0.7, 0.7], [0.61, 0.61]]
    assert [list(line.get_xdata()) for line in lines if line.get_label() == "accuracy"] == [[1, 2, 3]]
    assert any(text.startswith("kept") for text in texts(made)) is (best > 0)


def test_curves_pass_over_what_is_missing(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,train_loss,lr,val_loss\n1,2.0,0.1,\n2,1.5,0.1,nan\n")
    shown = texts(curves.draw(curves.read(tmp_path / "metrics.csv"), 2, curves.SCORES))
    assert "training" in shown
    assert "validation" not in shown


@pytest.mark.parametrize("count", [1, 7, 24])
def test_mistakes_show_images_names_and_confidence(tmp_path, count):
    """Noise, which no format makes small, in every shape."""
    rng = np.random.default_rng(0)
    sizes = [(300, 40), (40, 300), (200, 200), (8, 8), (1, 1), (500, 400)]
    noise = [Image.fromarray(rng.integers(0, 256, (*sizes[i % 6], 3), dtype=np.uint8)) for i in range(count)]
    made = mistakes.draw(
        [mistakes.Mistake(image, i % 10, (i + 3) % 10, 1 - i / 100 - 1e-4) for i, image in enumerate(noise)],
        AWKWARD,
        99,
    )
    style.save(made, tmp_path / "mistakes.png", limit=600_000)
    assert (tmp_path / "mistakes.png").stat().st_size < 600_000
    assert len(made.axes) == count
    shown = texts(made)
    assert f"{count} most confident of 99 mistakes on test images" in shown
    assert ">99 %" in shown
    names = style.readable(AWKWARD)
    pieces = [text.get_text() for text in made.texts[2:]]
    said = [pieces[i : i + 4] for i in range(0, len(pieces), 4)]  # class, arrow, predicted class, confidence
    for i, (target, _, label, sure) in enumerate(said):
        assert target.split("\N{HORIZONTAL ELLIPSIS}")[0] in names[i % 10]
        assert label.split("\N{HORIZONTAL ELLIPSIS}")[0] in names[(i + 3) % 10]
        assert sure == style.percent(1 - i / 100 - 1e-4)
    assert len(said) == count
    boxes = [axes.get_position() for axes in made.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)


@pytest.mark.parametrize(("limit", "width"), [(10**9, 1600), (1000, 800)])
def test_what_is_too_large_is_drawn_with_fewer_pixels(tmp_path, limit, width):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (250, 250, 3), dtype=np.uint8))
    style.save(mistakes.draw([mistakes.Mistake(noise, 0, 1, 0.5)], AWKWARD, 1), tmp_path / "mistakes.png", limit=limit)
    with Image.open(tmp_path / "mistakes.png") as image:
        assert image.width == width
    assert [path.name for path in tmp_path.iterdir()] == ["mistakes.png"]


def test_names_are_shown_as_they_are_or_numbered(monkeypatch):
    monkeypatch.setattr(style, "_glyphs", lambda: frozenset(range(32, 127)))
    assert style.readable(["plain $x$", "日本", "a\n b", "\u202egnp", " ", "naïve"]) == [
        "plain $x$",
        "1: \N{WHITE SQUARE}\N{WHITE SQUARE}",
        "a b",
        "gnp",
        "4",
        "5: na\N{WHITE SQUARE}ve",
    ]


def test_long_names_are_cut_in_the_middle():
    made = style.figure(1)
    short = style.shorten(made, "american staffordshire terrier", 8, 1.0)
    assert short.startswith("american")
    assert short.endswith("ier")
    assert "\N{HORIZONTAL ELLIPSIS}" in short
    assert style.width_of(made, short, 8) <= 1.0 < style.width_of(made, "american staffordshire terrier", 8)
    assert style.shorten(made, "dog", 8, 1.0) == "dog"


@pytest.mark.parametrize(
    ("share", "said"), [(0.5, "50 %"), (0.999, ">99 %"), (1.0, "100 %"), (0.001, "<1 %"), (0.0, "0 %"), (0.994, "99 %")]
)
def test_percent_never_says_all_of_what_is_not(share, said):
    assert style.percent(share) == said


def test_the_users_own_style_is_left_alone():
    matplotlib.rcParams["font.size"] = 23
    with style.style():
        assert matplotlib.rcParams["font.size"] == 9
    assert matplotlib.rcParams["font.size"] == 23


def subject(tmp_path):
    write_metrics(tmp_path / "metrics.csv", 3)
    data = SimpleNamespace(schema=SimpleNamespace(classes=("a", "b", "c"), image_column="image"))
    return drawing.Subject(predictions(3, 30), data, tmp_path / "metrics.csv", 2, 0.8)


def test_a_figure_that_fails_is_reported_and_the_others_are_there(tmp_path, caplog):
    """The stand-in has no images."""
    with caplog.at_level("INFO", logger="finetune"):
        made = drawing.draw_all(subject(tmp_path), tmp_path / "model/figures")
    assert made == {name: f"figures/{name}.png" for name in ("confusion", "curves", "reliability")}
    assert sorted(path.name for path in (tmp_path / "model/figures").iterdir()) == [
        "confusion.png",
        "curves.png",
        "reliability.png",
    ]
    assert "warning: figure mistakes could not be made (AttributeError" in caplog.text


def test_a_full_disk_is_not_hidden(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(style, "save", full)
    with pytest.raises(OSError, match="No space left"):
        drawing.draw_all(subject(tmp_path), tmp_path / "figures")
