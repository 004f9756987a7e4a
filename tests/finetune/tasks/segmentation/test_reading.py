"""Masks in every layout and form give the same classes, pixels and splits, or an error that says what to do."""

import io
import json
import logging
import struct
import zlib

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, DatasetDict, Image, List, Value
from PIL import Image as PILImage

from finetune.data import dataset, images
from finetune.data.beside import counts, names
from finetune.data.checks.account import excluded
from finetune.errors import DatasetError, SchemaError, SeveralReadingsError, SplitError
from finetune.settings import of_tasks
from finetune.settings.config import RunConfig
from finetune.tasks.segmentation import masks
from finetune.tasks.segmentation.inputs import read
from finetune.tasks.segmentation.schema import READING, infer
from tests.finetune.tasks.segmentation import drawn

VOID = masks.VOID


@pytest.fixture(autouse=True)
def _quiet(tmp_path, monkeypatch, caplog):
    """A cache of our own, and the log where `caplog` sees it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(logging.getLogger("finetune"), "propagate", True)
    caplog.set_level(logging.INFO, "finetune")


class Told:
    """The reading with flags."""

    def __init__(self, **flags):
        self.settings = RunConfig(**flags)

    def recognise(self, *arguments):
        return infer(*arguments).flagged(of_tasks.reading(self.settings))


def prepare(data, flags=None, **options):
    return dataset.prepare(
        data if not hasattr(data, "joinpath") else str(data), Told(**flags) if flags else READING, **options
    )


def maps(ready, role):
    """Class indices of each mask of a role."""
    part = ready.splits.parts[role]
    rows = ready.source.splits[part.source]
    encoded = rows.cast_column("image", Image(decode=False)).cast_column(
        ready.schema.target_column, Image(decode=False)
    )
    found = []
    for row in part.rows.tolist():
        image = read(encoded[row]["image"])
        found.append(
            masks.decode(
                encoded[row][ready.schema.target_column], ready.schema.meaning, image.size, image.info.get("turn")
            )
        )
    return found


def same(ready, pairs):
    """Whether maps, targets and splits are those of the drawing."""
    for role, part in ready.splits.parts.items():
        for row, found, target in zip(part.rows.tolist(), maps(ready, role), part.targets, strict=True):
            expected = pairs[row][1]
            assert np.array_equal(found, expected)
            counts = np.bincount(expected[expected != VOID], minlength=len(ready.schema.classes))
            assert target.tolist() == counts.tolist()


def rows(ready):
    return {role: part.rows.tolist() for role, part in ready.splits.parts.items()}


@pytest.fixture(scope="module", params=[3, 20])
def drawing(request):
    """Images and masks of few and of many classes, their names, and how they split."""
    pairs, names = drawn.scenes(30, request.param), drawn.NAMES[request.param]
    ready = dataset.prepare(drawn.in_memory(pairs, names=names), READING)
    assert ready.schema.classes == names
    assert {role: len(part.rows) for role, part in ready.splits.parts.items()}["train"] <= 24
    return pairs, names, rows(ready)


@pytest.mark.parametrize("form", drawn.FORMS)
def test_an_index_is_an_index_however_it_is_stored(drawing, form):
    pairs, names, split = drawing
    ready = prepare(drawn.in_memory(pairs, drawn.FORMS[form], names=names))
    assert ready.schema.classes == names
    same(ready, pairs)
    assert rows(ready) == split


@pytest.mark.parametrize(
    "column", ["mask", "label", "labels", "annotation", "segmentation", "semantic_segmentation", "seg_map", "gt"]
)
def test_a_column_is_recognised_by_its_name(column):
    found = infer({"image": Image(), column: Image()})
    assert (found.image_column, found.target_column, found.sure) == ("image", column, True)


@pytest.mark.parametrize("layout", drawn.ONE_SPLIT)
def test_folders_of_one_split(drawing, layout, tmp_path):
    pairs, names, split = drawing
    root = drawn.folder(tmp_path / "data", pairs, *drawn.ONE_SPLIT[layout], names)
    ready = prepare(root)
    assert ready.schema.classes == names
    same(ready, pairs)
    assert rows(ready) == split


@pytest.mark.parametrize("layout", drawn.SPLITS)
def test_folders_of_several_splits(layout, tmp_path):
    pairs, names = drawn.scenes(12), drawn.NAMES[3]
    image, mask = drawn.SPLITS[layout]
    for split in ("train", "val", "test"):
        paths = (path.replace("{split}", split) for path in (image, mask))
        drawn.folder(tmp_path / "data", pairs, *paths, names)
    ready = prepare(tmp_path / "data")
    assert ready.schema.classes == names
    assert rows(ready) == {role: list(range(12)) for role in ("train", "validation", "test")}
    same(ready, pairs)


@pytest.mark.parametrize("separator", ["/", "\\"])
def test_a_table_of_paths(separator, tmp_path):
    pairs = drawn.scenes(12)
    root = drawn.folder(tmp_path / "data", pairs, "a/{}", "b/{}", drawn.NAMES[3])
    lines = [f"a{separator}{number:03}.jpg,b{separator}{number:03}.png" for number in range(12)]
    (root / "pairs.csv").write_text("\n".join(["image,mask", *lines]))
    ready = prepare(root / "pairs.csv")
    assert ready.schema.classes == drawn.NAMES[3]
    same(ready, pairs)


def test_parquet_and_save_to_disk(drawing, tmp_path):
    pairs, names, split = drawing
    table = drawn.in_memory(pairs, names=names)
    table.to_parquet(tmp_path / "parquet" / "train.parquet")
    table.save_to_disk(tmp_path / "disk")
    for place in ("parquet", "disk"):
        ready = prepare(tmp_path / place)
        assert ready.schema.classes == names
        same(ready, pairs)
        assert rows(ready) == split


# --- what values mean ------------------------------------------------------------------------------------------------


def test_without_names_a_class_is_called_by_its_value(caplog):
    pairs = drawn.scenes(20, void=True)
    ready = prepare(drawn.in_memory(pairs, lambda mask: np.where(mask == 2, 7, mask).astype(np.uint8)))
    assert ready.schema.classes == ("class 0", "class 1", "class 7")
    assert "masks: classes are indices, without names" in caplog.text
    assert "neither learnt nor counted: 255; --ignore-classes says otherwise" in caplog.text
    assert "pixels by class, % of train / validation / test: class 0 " in caplog.text
    same(ready, pairs)
    facts = ready.schema.facts({"train": ready.targets("train")})
    assert sum(facts["class_counts"]["train"]) < sum(pairs[row][1].size for row in rows(ready)["train"])


def test_black_and_white_is_background_and_foreground():
    pairs = [(image, (mask > 0).astype(np.uint8)) for image, mask in drawn.scenes(20)]
    for form in (lambda mask: mask * 255, lambda mask: np.stack([mask * 255] * 3, axis=-1)):
        ready = prepare(drawn.in_memory(pairs, form))
        assert ready.schema.classes == ("background", "foreground")
        same(ready, pairs)
    named = prepare(drawn.in_memory(pairs, lambda mask: mask * 255, names=("rest", "cell")))
    assert named.schema.classes == ("rest", "cell")
    same(named, pairs)
    bits = prepare(drawn.in_memory(pairs, lambda mask: PILImage.fromarray(mask * 255).convert("1")))
    assert bits.schema.classes == ("class 0", "class 1")
    same(bits, pairs)


def test_greys_of_few_bits_are_not_stretched(tmp_path):
    pairs = [(np.zeros((8, 8, 3), np.uint8), np.arange(64, dtype=np.uint8).reshape(8, 8) % 3) for _ in range(9)]

    def png(mask):
        """Two bits a pixel, which Pillow does not write."""
        raw = b"".join(
            b"\0" + bytes(sum(int(v) << (6 - 2 * n) for n, v in enumerate(row[i : i + 4])) for i in (0, 4))
            for row in mask
        )

        def chunk(kind, content):
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        head = struct.pack(">IIBBBBB", 8, 8, 2, 0, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")

    files = {f"images/{n}.png": drawn.encoded(image) for n, (image, _) in enumerate(pairs)}
    files |= {f"masks/{n}.png": png(mask) for n, (_, mask) in enumerate(pairs)}
    ready = prepare(drawn.place(tmp_path / "data", files))
    assert ready.schema.classes == ("class 0", "class 1", "class 2")
    same(ready, pairs)


def test_colours_are_classes_by_a_palette(drawing, tmp_path):
    pairs, names, _ = drawing
    data = drawn.in_memory(pairs, drawn.in_colours)
    with pytest.raises(
        SchemaError, match=r"coloured, and nothing says .* by pixels 0,0,0, .*--mask-colors 'NAME=0,0,0"
    ):
        prepare(data)
    given = ";".join(f"{name}={','.join(map(str, c))}" for name, c in zip(names, drawn.COLOURS, strict=False))
    (tmp_path / "colours.csv").write_bytes(drawn.class_dict(names))
    lines = "\n".join(f"{r} {g} {b}\t{name}" for name, (r, g, b) in zip(names, drawn.COLOURS, strict=False))
    (tmp_path / "colours.txt").write_text(lines)
    for flag in (given, str(tmp_path / "colours.csv"), str(tmp_path / "colours.txt")):
        ready = prepare(data, {"mask_colors": flag})
        assert set(ready.schema.classes) == set(names)
        order = [ready.schema.classes.index(name) for name in names]
        for role in rows(ready):
            for row, found in zip(rows(ready)[role], maps(ready, role), strict=True):
                assert np.array_equal(found, np.array(order, dtype=np.uint8)[pairs[row][1]])


def test_a_palette_beside_the_masks_is_found(tmp_path):
    pairs, names = drawn.scenes(12), drawn.NAMES[3]
    root = drawn.folder(tmp_path / "data", pairs, "images/{}", "masks/{}", form=drawn.in_colours)
    (root / "class_dict.csv").write_bytes(drawn.class_dict(names))
    assert set(prepare(root).schema.classes) == set(names)
    (root / "class_dict.csv").write_bytes(drawn.class_dict(names[:2]))
    with pytest.raises(DatasetError, match=r"cannot be used for what stands .* 0,128,0 in its mask has no name in"):
        prepare(root)


def test_a_class_in_the_red_channel_beside_instances():
    pairs, names = drawn.scenes(20), drawn.NAMES[3]

    def with_instances(mask):
        return np.stack([mask, (mask > 0) * np.arange(mask.shape[1], dtype=np.uint8), mask * 0], axis=-1)

    ready = prepare(drawn.in_memory(pairs, with_instances, column="annotation", names=names))
    assert ready.schema.classes == names
    same(ready, pairs)


def test_what_is_called_unlabelled_is_no_class_unless_the_flag_says_so(caplog):
    pairs = drawn.scenes(20)
    for name in ("unlabeled", "void", "Ignore", "N/A", "void-static"):
        data = drawn.in_memory(pairs, names=(name, "leaf", "stem"))
        ready = prepare(data)
        assert ready.schema.classes == ("leaf", "stem")
        assert f"neither learnt nor counted: 0 ({name})" in caplog.text
        for found, row in zip(maps(ready, "test"), rows(ready)["test"], strict=True):
            assert np.array_equal(found == VOID, pairs[row][1] == 0)
    assert prepare(data, {"ignore_classes": "none"}).schema.classes == ("void-static", "leaf", "stem")
    assert prepare(data, {"ignore_classes": "STEM"}).schema.classes == ("void-static", "leaf")
    assert prepare(data, {"ignore_classes": "2"}).schema.classes == ("void-static", "leaf")
    with pytest.raises(SchemaError, match=r"--ignore-classes: no class 'steam'; did you mean stem\?"):
        prepare(data, {"ignore_classes": "steam"})
    with pytest.raises(SchemaError, match=r"the masks have 1 class \(leaf\); expected at least 2"):
        prepare(data, {"ignore_classes": "void-static,stem"})


@pytest.mark.parametrize(("value", "kind"), [(-1, np.int32), (65535, np.uint16), (255, np.uint8)])
def test_what_stands_for_nothing_is_no_class(value, kind):
    pairs = drawn.scenes(12, void=True)

    def form(mask):
        return np.where(mask == VOID, np.array(value, dtype=kind), mask.astype(kind))

    ready = prepare(tiffs(pairs, form))
    assert ready.schema.classes == ("class 0", "class 1", "class 2")
    same(ready, pairs)


def tiffs(pairs, form):
    """Masks in a format that holds any integers."""
    data = drawn.in_memory(pairs)
    column = [{"bytes": drawn.encoded(form(mask), "TIFF"), "path": None} for _, mask in pairs]
    return data.remove_columns("mask").add_column("mask", column, feature=Image())


def test_background_is_a_class():
    assert prepare(drawn.in_memory(drawn.scenes(12), names=drawn.NAMES[3])).schema.classes[0] == "background"


def test_more_classes_than_fit_are_refused():
    rng = np.random.default_rng(0)
    mask = np.arange(300, dtype=np.uint16).reshape(15, 20)
    pairs = [(rng.integers(0, 255, (15, 20, 3), dtype=np.uint8), mask)] * 10
    with pytest.raises(SchemaError, match=r"have 299 classes, more than the 254 that fit into 8 bits: maps of int16"):
        prepare(drawn.in_memory(pairs))


def test_masks_that_were_compressed_or_smoothed_are_refused():
    rng = np.random.default_rng(0)
    pairs = drawn.scenes(12)

    def smooth(mask):
        grey = (mask > 0).astype(np.uint8) * 255
        grey[:4, :20] = rng.integers(0, 256, (4, 20))
        return grey

    with pytest.raises(SchemaError, match=r"mostly 0 and 255, with \d+ shades between: they were resized"):
        prepare(drawn.in_memory(pairs, smooth))
    data = drawn.in_memory(pairs)
    jpegs = [{"bytes": drawn.encoded(mask * 60, "JPEG"), "path": None} for _, mask in pairs]
    lossy = data.remove_columns("mask").add_column("mask", jpegs, feature=Image())
    with pytest.raises(SchemaError, match=r"the masks are JPEGs, whose compression changes values: \d+ occur"):
        prepare(lossy)


def test_photographs_are_no_masks():
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 255, (80, 80, 3), dtype=np.uint8),) * 2 for _ in range(10)]
    with pytest.raises(SchemaError, match=r"no mask in column 'mask' can be read: row 0: its mask: \d+ different"):
        prepare(drawn.in_memory(pairs))


# --- what cannot be used ---------------------------------------------------------------------------------------------


def spoiled(count, bad, change, names=drawn.NAMES[3]):
    """A dataset in which the masks of some rows are others."""
    pairs = drawn.scenes(count)
    return drawn.in_memory(
        [(image, change(mask) if n in bad else mask) for n, (image, mask) in enumerate(pairs)], names=names
    )


FAULTS = {
    "another size": (
        lambda mask: mask[:-2],
        r"its mask is \d+ x \d+ pixels and the image \d+ x \d+: expected one size",
    ),
    "a value without a name": (
        lambda mask: np.where(mask == 1, 77, mask).astype(np.uint8),
        r"77 in its mask has no name in column 'semantic_class_to_id': add it there, or .* --ignore-classes 77",
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_few_masks_that_cannot_be_used_are_left_out(kind, caplog):
    change, message = FAULTS[kind]
    ready = prepare(spoiled(30, {3, 17}, change))
    assert [entry["row"] for entry in excluded(ready)["undecodable"]["train"]] == [3, 17]
    assert not {3, 17} & {row for part in rows(ready).values() for row in part}
    assert "left out: 2 images of 'train' for what stands beside them, rows 3, 17" in caplog.text
    with pytest.raises(DatasetError, match=r"5 of 30 rows .* more than a tenth. Row 0: " + message):
        prepare(spoiled(30, {0, 1, 2, 3, 4}, change))


def test_masks_that_do_not_decode_or_are_missing_are_left_out():
    pairs = drawn.scenes(30)
    data = drawn.in_memory(pairs, names=drawn.NAMES[3])
    column = data.cast_column("mask", Image(decode=False))["mask"][:]
    column[4]["bytes"], column[9] = column[4]["bytes"][:60], None
    data = data.remove_columns("mask").add_column("mask", column, feature=Image())
    ready = prepare(data)
    (entry,) = excluded(ready)["undecodable"]["train"]
    assert entry["row"] == 4
    assert entry["reason"].startswith("its mask: ")
    assert excluded(ready)["unlabelled"] == {"train": 1}
    assert not {4, 9} & {row for part in rows(ready).values() for row in part}
    without = [(image, None if number < 5 else mask) for number, (image, mask) in enumerate(pairs)]
    with pytest.raises(DatasetError, match=r"5 of 30 rows of the 'train' split have nothing in column 'mask' \(rows 0"):
        prepare(drawn.in_memory(without))


def test_an_image_without_a_mask_in_a_folder(tmp_path):
    root = drawn.folder(tmp_path / "data", drawn.scenes(30), "images/{}", "masks/{}", drawn.NAMES[3])
    (root / "masks" / "007.png").unlink()
    ready = prepare(root)
    assert excluded(ready)["unlabelled"] == {"train": 1}
    for number in range(8, 14):
        (root / "masks" / f"{number:03}.png").unlink()
    with pytest.raises(DatasetError, match=r"7 of 30 rows of the 'train' split have nothing in column 'mask'"):
        prepare(root)


def test_a_split_of_nothing_but_void_does_not_count():
    train = drawn.in_memory(drawn.scenes(30), names=drawn.NAMES[3])
    hidden = drawn.in_memory(
        [(image, np.full_like(mask, 255)) for image, mask in drawn.scenes(6)], names=drawn.NAMES[3]
    )
    ready = prepare(DatasetDict(train=train, test=hidden))
    assert ready.splits.parts["test"].source == "train"
    assert ready.splits.ignored == ("test",)


def test_mixed_indices_and_colours_are_refused():
    pairs = drawn.scenes(12)
    forms = iter([drawn.in_colours] * 2 + [lambda mask: mask] * 10)
    with pytest.raises(SchemaError, match=r"some masks hold indices \(row 2\) and some colours \(row 0\)"):
        prepare(drawn.in_memory(pairs, lambda mask: next(forms)(mask)))


# --- EXIF ------------------------------------------------------------------------------------------------------------


def turned(pairs, orientation, stored):
    """Photographs that EXIF turns, with masks as the images are stored or as they are looked at."""
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    rows = {"image": [], "mask": []}
    upright = []
    for image, mask in pairs:
        content = drawn.encoded(image, "JPEG", exif=exif.tobytes(), quality=95)
        with PILImage.open(io.BytesIO(content)) as opened:
            turn = images.turn_of(opened)
        looked_at = np.array(PILImage.fromarray(mask).transpose(turn))
        upright.append((image, looked_at))
        rows["image"].append({"bytes": content, "path": None})
        rows["mask"].append({"bytes": drawn.encoded(mask if stored else looked_at), "path": None})
    features = datasets.Features({"image": Image(), "mask": Image()})
    return datasets.Dataset.from_dict(rows, features=features), upright


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_may_lie_as_its_image_is_stored_or_as_it_is_looked_at(orientation, stored, caplog):
    data, upright = turned(drawn.scenes(12), orientation, stored)
    ready = prepare(data)
    same(ready, upright)
    assert "masks of 12 images that EXIF turns: by their sizes" in caplog.text


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_where_the_size_does_not_tell_the_other_images_do(orientation, stored, caplog):
    unclear, upright = turned(drawn.scenes(12), orientation, stored)
    clear, others = turned(drawn.scenes(12, seed=1), 6, stored)
    both = datasets.concatenate_datasets([unclear, clear])
    ready = prepare(both)
    same(ready, [*upright, *others])
    way = "as their images are stored" if stored else "as their images are looked at"
    assert f"masks of 24 images that EXIF turns: 12 by size either way, taken {way}" in caplog.text


# --- which columns ---------------------------------------------------------------------------------------------------


def test_which_columns_are_meant():
    assert infer({"pixel_values": Image(), "label": Image()}).columns == ("label",)
    food = infer({"image": Image(), "label": Image(), "classes_on_image": List(Value("int64")), "id": Value("int64")})
    assert food.explains == ("label", "classes_on_image")
    assert infer({"a": Image(), "b": Image()}, target_column="b").columns == ("b",)
    with pytest.raises(SeveralReadingsError, match=r"2 columns could hold the masks \(mask, annotation\): pick one by"):
        infer({"image": Image(), "mask": Image(), "annotation": Image()})
    with pytest.raises(SchemaError, match="no column of masks: image columns are image"):
        infer({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    with pytest.raises(SchemaError, match=r"column 'label' has type ClassLabel; expected masks"):
        infer({"image": Image(), "label": ClassLabel(names=["a", "b"])}, target_column="label")


def test_names_that_a_list_of_classes_declares():
    pairs = drawn.scenes(12)
    listed = (List(ClassLabel(names=list(drawn.NAMES[3]))), [[0, 1]] * 12)
    assert prepare(drawn.in_memory(pairs, classes_on_image=listed)).schema.classes == drawn.NAMES[3]


CARDS = {
    "id2label": "id2label: {0: background, 1: leaf, 2: stem}",
    "label2id": "label2id: {background: 0, leaf: 1, stem: 2}",
    "a list of classes": """dataset_info:
- config_name: default
  features:
  - {name: image, dtype: image}
  - {name: scene, dtype: {class_label: {names: {'0': indoors, '1': outdoors}}}}
  - {name: shown, sequence: {class_label: {names: {'0': background, '1': leaf, '2': stem}}}}""",
}


@pytest.mark.parametrize("head", CARDS.values(), ids=CARDS)
def test_names_in_the_head_of_the_card(head, tmp_path, caplog):
    files = {"README.md": f"---\nlicense: mit\n{head}\n---\nLeaves.\n".encode()}
    root = drawn.place(drawn.folder(tmp_path / "data", drawn.scenes(12), "images/{}", "masks/{}"), files)
    assert prepare(root).schema.classes == drawn.NAMES[3]
    assert "masks: classes are indices, named by the head of README.md" in caplog.text
    (root / "id2label.json").write_text(json.dumps({"0": "none", "1": "one", "2": "two"}))
    assert prepare(root).schema.classes == ("none", "one", "two")


@pytest.mark.parametrize("head", ["license: mit", "id2label: [", "id2label: {a: b}", "dataset_info: {features: x}"])
def test_a_card_that_names_nothing_is_no_error(head, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"---\n{head}\n---\n")
    assert names.of_card(path) is None


def test_streams_of_masks_are_refused():
    with pytest.raises(SchemaError, match=r"masks are looked at before the training.*leave out --streaming"):
        infer({"image": Image(), "mask": Image()}).declared(None)


# --- splits ----------------------------------------------------------------------------------------------------------


def test_a_rare_class_is_in_every_split_where_three_images_have_it():
    pairs = drawn.scenes(60)
    for number in (5, 20, 41):
        pairs[number][1][10:14, 10:14] = 9
    for seed in range(5):
        ready = prepare(drawn.in_memory(pairs), seed=seed)
        assert ready.schema.classes[-1] == "class 9"
        assert all((part.targets[:, -1] > 0).sum() == 1 for part in ready.splits.parts.values())
    first, again = (rows(prepare(drawn.in_memory(pairs), seed=3)) for _ in range(2))
    assert first == again
    assert first != rows(prepare(drawn.in_memory(pairs), seed=4))


def test_fewer_images_are_drawn_and_only_those_are_looked_at(caplog):
    ready = prepare(drawn.in_memory(drawn.scenes(60), names=drawn.NAMES[3]), max_samples=30)
    assert sum(ready.splits.counts().values()) == 30
    assert "without a label" not in caplog.text
    with pytest.raises(SplitError, match="too few images to hold out test and validation: 2 with a mask, 3 are needed"):
        prepare(drawn.in_memory(drawn.scenes(2), names=drawn.NAMES[3]))


def test_the_scan_is_remembered(monkeypatch, tmp_path):
    root = drawn.folder(tmp_path / "data", drawn.scenes(12), "images/{}", "masks/{}", drawn.NAMES[3])
    before = prepare(root)
    looked = []
    real = counts._count
    monkeypatch.setattr(counts, "_count", lambda row, *rest: looked.append(row) or real(row, *rest))
    again = prepare(root)
    assert looked == []
    assert np.array_equal(before.targets("train"), again.targets("train"))
    mask = root / "masks" / "003.png"
    mask.write_bytes(drawn.encoded(np.zeros((40, 36), dtype=np.uint8)))
    prepare(root)
    assert sorted(looked) == list(range(12))


def test_real_masks(shared_data):
    ready = dataset.prepare(str(shared_data / "nuclei"), READING, max_samples=40)
    assert ready.schema.classes == ("class 0", "class 1")
    shares = ready.targets("train").sum(axis=0)
    assert shares[0] > 3 * shares[1] > 0


# --- again -----------------------------------------------------------------------------------------------------------


def test_a_whole_split_is_looked_at_alone():
    both = DatasetDict(
        train=drawn.in_memory(drawn.scenes(12), names=drawn.NAMES[3]),
        test=drawn.in_memory(drawn.scenes(9, seed=1), names=drawn.NAMES[3]),
    )
    ready = dataset.whole_split(both, READING)
    assert ready.schema.classes == drawn.NAMES[3]
    assert rows(ready) == {"test": list(range(9))}
    same(ready, drawn.scenes(9, seed=1))
    nothing = drawn.in_memory([(image, mask * 0 + 255) for image, mask in drawn.scenes(4)], names=drawn.NAMES[3])
    with pytest.raises(SplitError, match=r"split 'test' has no usable row: nothing in column 'mask' counts"):
        dataset.whole_split(DatasetDict(train=both["train"], test=nothing), READING, split="test")


def test_a_run_s_facts_are_enough_to_read_its_masks_again():
    pairs = drawn.scenes(20)
    ready = prepare(drawn.in_memory(pairs, drawn.in_colours), {"mask_colors": "leaf=128,0,0;stem=0,128,0;void=0,0,0"})
    facts = json.loads(json.dumps(ready.schema.facts({"train": ready.targets("train")})))
    again = infer(ready.source.splits["train"].features).remembered(facts | {"classes": list(ready.schema.classes)})
    assert (again.classes, again.meaning) == (ready.schema.classes, ready.schema.meaning)
    assert set(again.classes) == {"leaf", "stem"}
