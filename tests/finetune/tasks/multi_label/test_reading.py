"""Several classes an image are read in whatever form they stand; one class an image is what it was."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from finetune.data.dataset import inspect
from finetune.errors import SchemaError, SeveralReadingsError
from finetune.tasks import registry
from finetune.tasks.multi_label import values

PETS = ClassLabel(names=["ant", "bee", "cat"])
TEXT, INT, FLOAT, BOOL = Value("string"), Value("int64"), Value("float32"), Value("bool")
SETS = [["ant", "bee"], ["bee"], [], ["ant", "bee", "cat"], ["cat"], ["ant"], ["bee", "cat"], ["ant", "cat"]]
ROWS = np.array([[int(name in of) for name in PETS.names] for of in SETS], dtype=np.int8)
MULTI, SINGLE = "multi-label-classification", "image-classification"


def read(features, columns, task=None, target_column=None, splits=("train",)):
    """The schema of a dataset without pictures, and the targets of its splits."""
    count = len(next(iter(columns.values())))
    known = Features({"image": Image()} | features)
    rows = Dataset.from_dict({"image": [None] * count} | columns, features=known)
    found, held = inspect(DatasetDict({name: rows for name in splits}), registry.reader(task), None, target_column)
    return found, found.encode(held[splits[0]])


def columns_of(kind):
    """SETS in each form: features and values."""
    numbers = [[PETS.names.index(name) for name in of] for of in SETS]
    return {
        "ClassLabels": ({"tags": List(PETS)}, {"tags": numbers}),
        "integers": ({"label": List(INT)}, {"label": numbers}),
        "names": ({"labels": List(TEXT)}, {"labels": SETS}),
        "multi-hot": ({"label": List(INT)}, {"label": ROWS.tolist()}),
        "multi-hot of fractions": ({"label": List(FLOAT)}, {"label": ROWS.tolist()}),
        "columns of yes or no": (dict.fromkeys(PETS.names, BOOL), dict(zip(PETS.names, ROWS.T.tolist(), strict=True))),
        "columns of 0 and 1": (dict.fromkeys(PETS.names, INT), dict(zip(PETS.names, ROWS.T.tolist(), strict=True))),
        "struct": (
            {"attributes": dict.fromkeys(PETS.names, BOOL)},
            {"attributes": [dict(zip(PETS.names, map(bool, row), strict=True)) for row in ROWS.tolist()]},
        ),
        "boxes as a dict of lists": (
            {"objects": {"bbox": List(List(FLOAT, length=4)), "category": List(PETS)}},
            {"objects": [{"bbox": [[0, 0, 1, 1]] * len(of), "category": of} for of in numbers]},
        ),
        "boxes as a list of dicts": (
            {"objects": List({"bbox": List(FLOAT, length=4), "category_id": INT, "category_name": TEXT})},
            {
                "objects": [
                    [{"bbox": [0, 0, 1, 1], "category_id": 7, "category_name": name} for name in of] for of in SETS
                ]
            },
        ),
        "boxes at the top": (
            {"bbox": List(List(FLOAT, length=4)), "label": List(TEXT)},
            {"bbox": [[[0, 0, 1, 1]] * len(of) for of in SETS], "label": SETS},
        ),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "ClassLabels",
        "integers",
        "names",
        "multi-hot",
        "multi-hot of fractions",
        "columns of yes or no",
        "columns of 0 and 1",
        "struct",
        "boxes as a dict of lists",
        "boxes as a list of dicts",
        "boxes at the top",
    ],
)
def test_every_form_gives_the_same_targets(kind):
    features, columns = columns_of(kind)
    found, targets = read(features, columns, MULTI if "boxes" in kind else None)
    assert found.task == MULTI
    assert len(found.classes) == 3
    assert targets.dtype == np.int8
    assert np.array_equal(targets, ROWS)
    again, same = read(features, columns, MULTI, found.target_column)  # as config.yaml has it
    assert again.classes == found.classes
    assert np.array_equal(same, ROWS)


def test_text_with_a_delimiter_names_several_where_the_parts_recur():
    texts = ["ant|bee", "bee", None, "cat|ant|bee", "cat", "ant", "bee|cat", "ant|cat"]
    found, targets = read({"label": TEXT}, {"label": texts})
    assert found.task == MULTI
    assert found.classes == ("ant", "bee", "cat")
    assert found.labelled(targets).tolist() == [text is not None for text in texts]
    assert targets[3].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "texts",
    [
        ["tench, Tinca tinca", "goldfish, Carassius auratus", "great white shark, white shark"],
        ["tomato/healthy", "tomato/blight", "potato/healthy", "potato/blight"],
        ["light red", "dark red", "light blue", "dark blue", "red"],
        ["a", "b", "c"],
    ],
)
def test_other_text_is_one_class_an_image_as_before(texts):
    found, targets = read({"label": TEXT}, {"label": texts})
    assert found.task == SINGLE
    assert found.classes == tuple(sorted(texts))
    assert targets.ndim == 1


def test_the_user_may_say_that_such_text_is_one_class():
    texts = ["ant|bee", "bee", "cat|ant|bee", "cat", "ant", "bee|cat"]
    assert read({"label": TEXT}, {"label": texts}, SINGLE)[0].classes == tuple(sorted(texts))


@pytest.mark.parametrize("form", ["list", "columns"])
def test_one_hot_is_one_class_an_image(form):
    rows = np.eye(3, dtype=int)[[2, 0, 1, 1, 0, 2]].tolist()
    features, columns = {"label": List(INT)}, {"label": rows}
    if form == "columns":
        features = dict.fromkeys(PETS.names, INT)
        columns = dict(zip(PETS.names, np.array(rows).T.tolist(), strict=True))
    found, targets = read(features, columns)
    assert found.task == SINGLE
    assert targets.tolist() == [2, 0, 1, 1, 0, 2]
    assert found.classes == (tuple(PETS.names) if form == "columns" else ("0", "1", "2"))
    again, same = read(features, columns, SINGLE, found.target_column)
    assert again.classes == found.classes
    assert same.tolist() == targets.tolist()


def test_an_empty_list_is_no_class_and_null_no_label():
    found, targets = read({"label": List(PETS)}, {"label": [[], None, [1], [0, 2]]})
    assert targets.tolist() == [[0, 0, 0], [-1, -1, -1], [0, 1, 0], [1, 0, 1]]
    assert found.labelled(targets).tolist() == [True, False, True, True]
    assert not found.labelled(found.encode([[], [], None])).any()  # a split in which nobody has named the classes


def test_what_is_unknown_of_a_row_is_minus_one():
    rows = [[1, None, 0], [0, -1, 1], [1, 1, 0], [None, None, None]]
    found, targets = read({"label": List(INT)}, {"label": rows})
    assert targets.tolist() == [[1, -1, 0], [0, -1, 1], [1, 1, 0], [-1, -1, -1]]
    assert found.labelled(targets).tolist() == [True, True, True, False]
    with pytest.raises(SchemaError, match="holds 1 and -1, and no 0"):
        read({"label": List(INT)}, {"label": [[1, -1, -1], [-1, 1, 1]]})


def test_bookkeeping_is_no_target():
    features = {"height": INT, "width": INT, "photo_id": INT, "license": INT, "split": TEXT}
    with pytest.raises(SchemaError, match="no column holds classes"):
        read(features, {name: ["a"] if name == "split" else [1] for name in features})
    mixed = features | {"tags": List(PETS)}
    found, _ = read(mixed, {name: ["a"] if name == "split" else [1] for name in features} | {"tags": [[0, 1]]})
    assert found.columns == ("tags",)


def test_two_readings_are_named_with_their_flags():
    features = {"scene": ClassLabel(names=["sea", "city"]), "labels": List(PETS)}
    columns = {"scene": [0, 1], "labels": [[0, 1], [2]]}
    with pytest.raises(SeveralReadingsError) as raised:
        read(features, columns)
    text = str(raised.value)
    assert "--task image-classification --target-column scene" in text
    assert "--task multi-label-classification --target-column labels" in text
    assert read(features, columns, MULTI)[0].task == MULTI
    assert read(features, columns, target_column="scene")[0].task == SINGLE


def test_a_class_label_beside_attributes_is_learnt_as_before():
    features = {"label": PETS, "male": BOOL, "young": BOOL, "smiling": BOOL}
    columns = {"label": [0, 1, 2], "male": [True] * 3, "young": [False] * 3, "smiling": [True] * 3}
    assert read(features, columns)[0].task == SINGLE
    found, targets = read(features, columns, MULTI)
    assert found.classes == ("male", "young", "smiling")
    assert targets.tolist() == [[1, 0, 1]] * 3


def test_columns_of_other_numbers_are_asked_for():
    features = dict.fromkeys("abc", INT)
    with pytest.raises(SeveralReadingsError, match=r"3 columns could hold the classes \(a, b, c\): pick one by"):
        read(features, {"a": [1, 2], "b": [0, 1], "c": [0, 1]})
    found, _ = read(features, {"a": [1, 2], "b": [0, 1], "c": [1, 1]}, target_column="b,c")
    assert found.classes == ("b", "c")


def test_boxes_are_objects_unless_the_task_is_named():
    features, _ = columns_of("boxes as a dict of lists")
    assert registry.READING.recognise({"image": Image()} | features).task == "object-detection"


def test_what_is_odd_is_counted():
    found, targets = read({"labels": List(TEXT)}, {"labels": [["a", "a"], ["b", None], ["a", "b"], ["a"]]})
    lines = list(found.remarks(targets))
    assert "1 images name a class twice: it counts once" in lines
    assert any("null or empty name" in line for line in lines)
    found, targets = read({"labels": List(PETS)}, {"labels": [[0], [0, 2], [0]]})
    lines = list(found.remarks(targets))
    assert any(line.startswith("warning: no training image of bee") for line in lines)
    assert any(line.startswith("warning: every training image is of ant") for line in lines)


def test_a_class_that_is_not_declared_is_an_error():
    found, _ = read({"labels": List(PETS)}, {"labels": [[0], [1]]})
    with pytest.raises(SchemaError, match=r"names the class 7 in row 1, which is not declared"):
        found.encode([[0], [7]])
    with pytest.raises(SchemaError, match=r"'label' holds 2; expected 0 or 1"):
        read({"label": List(INT)}, {"label": [[0, 2, 1], [1, 1, 0]]}, target_column="label") and values.yes_or_no(
            2, "'label'"
        )


def test_splits_must_declare_the_same_classes():
    found, _ = read({"labels": List(PETS)}, {"labels": [[0], [1]]})
    with pytest.raises(SchemaError, match=r"of split 'test' has classes x, y"):
        found.check_split("test", {"labels": List(ClassLabel(names=["x", "y"]))})


def test_the_line_says_why():
    found, _ = read({"labels": List(PETS)}, {"labels": [[0], [1]]})
    where = "images in column 'image', 3 classes, several an image, in column 'labels' (a list of ClassLabel)"
    assert found.described() == f"{where}: ant, bee, cat"
