"""Signs of groups, whole groups held out, and lists of rows."""

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage

from finetune.data.checks import exclusion, grouping, groups
from finetune.data.dataset import prepare
from finetune.errors import DatasetError, SchemaError, SplitError
from finetune.tasks import registry

ROLES = np.array(["train"] * 40 + ["test"] * 20)


def test_a_column_of_patients_is_named_and_a_shared_one_is_serious():
    (found,) = grouping.in_columns({"patient_id": [n % 12 for n in range(60)], "width": [3] * 60}, ROLES)
    assert found.severity == "serious"
    assert "20 of 20 test images are of a group that is in training too" in found.title
    assert "--group-column patient_id" in found.lines[0]
    (found,) = grouping.in_columns({"scene": [n // 10 for n in range(60)]}, ROLES)
    assert found.severity == "note"
    assert list(grouping.in_columns({"patient_id": list(range(60))}, ROLES)) == []


def test_numbered_names_are_a_sign_and_a_class_and_its_number_is_none():
    targets = np.arange(60) % 3
    (found,) = grouping.in_names([f"s/patient{n % 10}_img{n}.png" for n in range(60)], targets, ROLES)
    assert found.severity == "warning"
    assert "10 groups" in found.title
    names = [f"{['cat', 'dog', 'cow'][n % 3]}_{n}.png" for n in range(60)]
    assert list(grouping.in_names(names, targets, ROLES)) == []
    assert list(grouping.in_names([f"{n:08d}.png" for n in range(60)], targets, ROLES)) == []
    assert list(grouping.in_names([""] * 60, targets, ROLES)) == []


def test_groups_are_drawn_whole_and_by_class():
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(50), rng.integers(4, 12, 50))
    strata = rng.integers(0, 2, 50)[of]
    drawn = groups.draw(of, strata, 0.2 * len(of), np.random.default_rng(1), 1)
    assert all(len(set(drawn[of == group])) == 1 for group in range(50))
    assert drawn.sum() == pytest.approx(0.2 * len(of), rel=0.1)
    assert strata[drawn].mean() == pytest.approx(strata.mean(), abs=0.05)


def test_too_few_groups_are_refused():
    with pytest.raises(SplitError, match="--group-column: 1 groups, and at least 2 are needed"):
        groups.draw(np.zeros(5, dtype=np.int64), np.zeros(5, dtype=np.int64), 1.0, np.random.default_rng(0), 1)


@pytest.fixture
def patients():
    rng = np.random.default_rng(0)
    pictures = [PILImage.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(90)]
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"]), "patient": Value("string")})
    rows = {"image": pictures, "label": [n % 2 for n in range(90)], "patient": [f"p{n // 3}" for n in range(90)]}
    return Dataset.from_dict(rows, features=features)


def test_no_patient_is_in_two_splits(patients):
    data = prepare(patients, registry.READING, group_column="patient")
    found = {role: set(part.rows // 3) for role, part in data.splits.parts.items()}
    assert not found["train"] & found["test"]
    assert not found["train"] & found["validation"]
    assert not found["validation"] & found["test"]
    assert sum(data.splits.counts().values()) == 90
    assert data.splits.counts()["test"] == pytest.approx(9, abs=1)
    with pytest.raises(SchemaError, match=r"--group-column: no column 'patients'.*did you mean patient"):
        prepare(patients, registry.READING, group_column="patients")


def test_listed_rows_are_left_out_and_said(patients, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(exclusion.to_text({"train": {3: "copy", 7: "copy"}}))
    assert exclusion.read(path) == {"train": [3, 7]}
    data = prepare(patients, registry.READING, exclude=path)
    rows = np.concatenate([part.rows for part in data.splits.parts.values()])
    assert set(range(90)) - set(rows.tolist()) == {3, 7}
    assert data.listed == {"train": 2}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1, 2]", "expected {.*}, or what doctor --fix writes, got list"),
        ("{", "is not JSON"),
        ('{"train": ["x"]}', "the rows of 'train' are no whole numbers"),
        ('{"train": [-1]}', "row -1 of 'train': rows count from 0"),
        ('{"tain": [1]}', "names split 'tain'; this dataset has train"),
        ('{"train": [90]}', "names row 90 of 'train', which has 90"),
    ],
)
def test_other_lists_are_refused(patients, tmp_path, content, said):
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(DatasetError, match=said):
        prepare(patients, registry.READING, exclude=path)
    with pytest.raises(DatasetError, match="No such file"):
        exclusion.read(Path("absent.json"))


def test_what_fix_writes_is_json_with_reasons():
    content = json.loads(exclusion.to_text({"train": {7: "b", 3: "a"}, "test": {}}))
    assert content == {"exclude": {"train": {"3": "a", "7": "b"}}}
