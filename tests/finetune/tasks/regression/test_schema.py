"""Which column is a number, and what becomes of its values."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PILImage

from finetune.data.dataset import prepare
from finetune.errors import SchemaError, SeveralReadingsError, SplitError
from finetune.tasks import registry
from finetune.tasks.regression.schema import NumberSchema, infer, quantiles

FLOAT, INT, TEXT = Value("float64"), Value("int64"), Value("string")
PETS = ClassLabel(names=["cat", "dog"])
NAN = float("nan")


def recognise(image=None, target=None, task=None, **columns):
    return registry.reader(task).recognise({"image": Image(), **columns}, image, target)


def numbers(values, feature=FLOAT, **others):
    """A dataset in memory of grey squares."""
    square = PILImage.new("RGB", (8, 8))
    rows = {"image": [square] * len(values), "value": values, **{name: v for name, (v, _) in others.items()}}
    features = {"image": Image(), "value": feature, **{name: f for name, (_, f) in others.items()}}
    return Dataset.from_dict(rows, features=Features(features))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", ["value", "label", "age"])
def test_a_float_alone_is_a_number(name, dtype):
    found = recognise(**{name: Value(dtype)})
    assert (found.task, found.target_column, found.kind) == ("image-regression", name, "float")
    assert found.described() == f"images in column 'image', numbers in column '{name}' (floats are numbers)"


def test_bookkeeping_is_never_the_number():
    found = recognise(height=FLOAT, width=FLOAT, patient_id=FLOAT, date=TEXT, url=TEXT, score=FLOAT)
    assert found.target_column == "score"
    with pytest.raises(SchemaError, match="no column holds"):
        recognise(height=FLOAT, width=FLOAT)
    assert recognise(target="height", height=FLOAT).target_column == "height"


@pytest.mark.parametrize("other", [{"pet": PETS}, {"label": TEXT}, {"category": INT}])
def test_a_float_beside_classes_is_asked_about(other):
    with pytest.raises(
        SeveralReadingsError,
        match=rf"read as image-classification \(.*--task image-classification --target-column {next(iter(other))}\) or "
        r"as image-regression \(.*--task image-regression --target-column score\)",
    ):
        recognise(score=FLOAT, **other)
    assert recognise(task="image-regression", score=FLOAT, **other).target_column == "score"
    assert recognise(task="image-classification", score=FLOAT, **other).target_column == next(iter(other))
    assert recognise(target="score", score=FLOAT, **other).task == "image-regression"


def test_two_floats_are_asked_about():
    with pytest.raises(SeveralReadingsError, match=r"2 columns could .*mos, target.*--target-column mos"):
        registry.READING.recognise({"image": Image(), "mos": FLOAT, "target": FLOAT})
    features = {"image": Image(), "mos": FLOAT, "target": FLOAT}
    assert registry.READING.recognise(features, None, "target").target_column == "target"


def test_the_form_of_a_dataset_of_ratings():
    """One of the Hub's has these columns."""
    features = {"image": Image(), "image_name": TEXT, "views": INT, "quality_mos": FLOAT, "target": FLOAT}
    with pytest.raises(SeveralReadingsError, match=r"2 columns could hold the numbers \(quality_mos, target\)"):
        registry.READING.recognise(features)


def test_an_integer_is_a_number_only_by_the_task():
    assert recognise(age=INT).task == "image-classification"
    found = recognise(task="image-regression", age=INT)
    assert (found.task, found.kind) == ("image-regression", "integer")
    with pytest.raises(SeveralReadingsError, match="age, weight"):
        recognise(task="image-regression", age=INT, weight=INT)
    assert recognise(task="image-regression", target="weight", age=INT, weight=INT).target_column == "weight"
    assert recognise(task="image-regression", age=INT, weight=FLOAT).target_column == "weight"


def test_boxes_are_not_passed_over_for_a_float():
    found = recognise(bbox=List(List(Value("float32"))), category=List(PETS), confidence=FLOAT)
    assert found.task == "object-detection"


def test_few_whole_numbers_in_floats_are_asked_about():
    data = numbers([0.0, 1.0, NAN, 2.0] * 5)
    with pytest.raises(SeveralReadingsError, match=r"only 3 whole numbers \(0, 1, 2\).*--task image-regression.*Int64"):
        prepare(data, registry.READING)
    assert prepare(data, registry.reader("image-regression")).schema.task == "image-regression"
    read = prepare(data, registry.reader("image-classification"))
    assert read.schema.classes == ("0", "1", "2")
    assert read.splits.counts() == {"train": 9, "validation": 3, "test": 3}
    many = numbers([float(n) for n in range(40)])
    assert prepare(many, registry.READING).schema.task == "image-regression"


def test_floats_with_fractions_are_no_classes():
    with pytest.raises(SchemaError, match=r"floats such as .*which floats are only as whole numbers.*image-regression"):
        prepare(numbers([0.5, 1.0, 1.5] * 5), registry.reader("image-classification"))


def test_what_is_missing_is_left_out_and_counted(caplog):
    caplog.set_level("INFO")
    data = prepare(numbers([None, NAN, *(0.1 * n for n in range(30))]), registry.READING)
    assert data.unlabelled == {"train": 2}
    assert "left out: 2 images of 'train' without a label" in caplog.text
    assert data.splits.counts() == {"train": 24, "validation": 3, "test": 3}


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 1e39])
def test_what_is_infinite_is_an_error_with_its_row(value):
    with pytest.raises(SchemaError, match="column 'value', row 3: expected a finite number that float32 can hold"):
        prepare(numbers([1.5, 2.5, 3.5, value, 4.5] * 4), registry.READING)


def test_a_constant_is_an_error():
    with pytest.raises(SchemaError, match=r"'value' is constant: all 20 images have the number 3\.5"):
        prepare(numbers([3.5] * 20), registry.READING)


def test_too_few_images_are_an_error():
    with pytest.raises(SplitError, match="expected at least 4 with a number, got 3"):
        prepare(numbers([0.5, 1.5, 2.5]), registry.READING)


def test_text_is_a_number_by_the_task_alone(caplog):
    caplog.set_level("INFO")
    data = numbers([f"{0.5 * n}" for n in range(30)], TEXT)
    with pytest.raises(SeveralReadingsError, match=r"holds 30 different numbers as text.*--task image-regression"):
        prepare(data, registry.READING)
    read = prepare(data, registry.reader("image-regression"), target_column="value")
    assert read.splits.parts["train"].targets.dtype == np.float32
    bad = numbers(["1.5", "2.5", "much", "4.5"] * 5, TEXT)
    with pytest.raises(SchemaError, match="row 2: expected a number, got 'much'"):
        prepare(bad, registry.reader("image-regression"), target_column="value")


def test_splits_have_small_and_large_numbers_in_their_share():
    values = np.random.default_rng(0).gamma(1, 10, 400)
    made = [prepare(numbers(values.tolist()), registry.READING, seed=seed).splits for seed in (0, 0, 1)]
    for role in ("validation", "test"):
        targets = made[0].parts[role].targets
        assert len(targets) == 40
        edges = np.quantile(values, np.arange(1, 10) / 10)
        assert np.bincount(np.digitize(targets, edges), minlength=10).tolist() == [4] * 10
    assert (made[0].parts["test"].rows == made[1].parts["test"].rows).all()
    assert (made[0].parts["test"].rows != made[2].parts["test"].rows).any()
    rows = [row for part in made[0].parts.values() for row in part.rows.tolist()]
    assert sorted(rows) == list(range(400))


def test_small_datasets_are_split_by_fewer_parts():
    splits = prepare(numbers([0.5 * n for n in range(20)]), registry.READING).splits
    assert splits.counts() == {"train": 16, "validation": 2, "test": 2}
    for role in ("validation", "test"):
        low, high = sorted(splits.parts[role].targets)
        assert low < high


def test_quantiles_are_as_large_as_can_be_whatever_is_equal():
    assert quantiles(np.array([5, 5, 5, 5, 5, 5], np.float32), 3).tolist() == [0, 0, 1, 1, 2, 2]
    assert quantiles(np.array([3, np.nan, 1, 2], np.float32), 10).tolist() == [2, -1, 0, 1]
    assert quantiles(np.array([], np.float32), 10).tolist() == []


def test_a_sample_has_small_and_large_numbers():
    values = np.arange(200, dtype=np.float32)
    rows = NumberSchema("image-regression", "image", "value", "float").draw(values, 20, np.random.default_rng(0))
    assert np.bincount(rows // 20, minlength=10).tolist() == [2] * 10


def test_splits_must_all_hold_numbers():
    data = DatasetDict(train=numbers([0.5 * n for n in range(20)]), test=numbers([1, 2, 3], INT))
    assert prepare(data, registry.READING).splits.counts()["test"] == 3
    wrong = DatasetDict(train=data["train"], test=numbers([True, False], Value("bool")))
    with pytest.raises(SchemaError, match="of split 'test' has type bool; expected numbers"):
        prepare(wrong, registry.READING)


def test_columns_that_are_named_must_exist_and_hold_numbers():
    features = {"image": Image(), "value": FLOAT, "pet": PETS}
    with pytest.raises(SchemaError, match="no column 'valu'; did you mean value"):
        infer(features, target_column="valu")
    with pytest.raises(SchemaError, match="column 'pet' has type ClassLabel; expected a column of floats"):
        infer(features, target_column="pet")


def test_far_numbers_are_pointed_out():
    schema = NumberSchema("image-regression", "image", "value", "float")
    lines = list(schema.remarks(np.array([*np.linspace(1, 2, 50), -999], np.float32)))
    assert lines[1].startswith("warning: 1 training images have numbers far from all others (for instance -999)")
    assert len(list(schema.remarks(np.linspace(1, 2, 50).astype(np.float32)))) == 1


def test_a_table_of_numbers_beside_images_is_read(tmp_path):
    for number in range(20):
        PILImage.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    rows = "\n".join(f"{number}.png,{number + 0.5}" for number in range(20))
    (tmp_path / "labels.csv").write_text(f"file_name,value\n{rows}\n")
    data = prepare(str(tmp_path), registry.READING)
    assert data.schema.task == "image-regression"
    assert sorted(t for part in data.splits.parts.values() for t in part.targets) == [n + 0.5 for n in range(20)]
