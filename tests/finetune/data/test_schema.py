"""What a dataset's features and values say there is to learn."""

import numpy as np
import pytest
from datasets import Array2D, ClassLabel, Dataset, Features, Image, LargeList, List, Value

from finetune.data.columns import UNLABELLED
from finetune.errors import SchemaError
from finetune.tasks.classification.reading import infer
from finetune.tasks.classification.schema import DatasetSchema

PETS = ClassLabel(names=["cat", "dog"])
BOXES = {"bbox": List(Value("float32"), length=4), "category": PETS}


def of_kind(kind, values=()):
    """A schema of a target column of `kind` whose classes are `values`."""
    return DatasetSchema(
        "image-classification", "image", "label", kind, tuple(str(value) for value in values), tuple(values)
    )


def seen(kind, *columns):
    """The classes and values that `columns` of a target of `kind` give."""
    schema = of_kind(kind).with_values(columns)
    return schema.classes, schema.values


@pytest.mark.parametrize(
    ("feature", "kind", "classes"),
    [
        (PETS, "class-label", ("cat", "dog")),
        (Value("bool"), "boolean", ()),
        (Value("string"), "string", ()),
        (Value("large_string"), "string", ()),
        *[(Value(f"{sign}int{bits}"), "integer", ()) for sign in ("", "u") for bits in (8, 16, 32, 64)],
    ],
)
def test_one_image_and_one_target_are_found(feature, kind, classes):
    schema = infer({"image": Image(), "kind of pet": feature})
    assert (schema.task, schema.image_column, schema.target_column) == ("image-classification", "image", "kind of pet")
    assert (schema.target_kind, schema.classes, schema.values) == (kind, classes, tuple(range(len(classes))))


@pytest.mark.parametrize("name", ["label", "labels", "class", "target", "category", "cls", "Label", "CLASS"])
def test_a_telling_name_wins_among_plain_columns(name):
    features = {"id": Value("int64"), "photo": Image(), name: Value("int64"), "caption": Value("string")}
    assert infer(features).target_column == name


def test_a_class_label_wins_over_a_telling_name():
    features = {"image": Image(), "label": Value("int64"), "breed": PETS, "target": Value("string")}
    assert infer(features).target_column == "breed"


@pytest.mark.parametrize(
    "feature", [{"bytes": Value("binary"), "path": Value("string")}, {"path": Value("null"), "bytes": Value("binary")}]
)
def test_a_struct_of_bytes_and_path_is_an_image(feature):
    assert infer({"picture": feature, "label": PETS}).image_column == "picture"


def test_webdataset_columns_are_not_classes():
    features = {"png": Image(), "cls": Value("int64"), "__key__": Value("string"), "__url__": Value("string")}
    assert infer(features).target_column == "cls"
    unnamed = {"png": Image(), "breed": Value("string"), "__key__": Value("string"), "__url__": Value("string")}
    assert infer(unnamed).target_column == "breed"


@pytest.mark.parametrize(
    ("features", "options", "expected"),
    [
        ({"img": Image(), "fine": PETS, "coarse": PETS}, {"target_column": "coarse"}, ("img", "coarse")),
        ({"a": Image(), "b": Image(), "label": PETS}, {"image_column": "b"}, ("b", "label")),
        ({"file": Value("string"), "label": PETS}, {"image_column": "file"}, ("file", "label")),
        ({"raw": Value("binary"), "label": PETS}, {"image_column": "raw"}, ("raw", "label")),
        ({"image": Image(), "objects": List(BOXES), "n": Value("int32")}, {"target_column": "n"}, ("image", "n")),
        (
            {"image": Image(), "mask": Image(), "scene": Value("string")},
            {"image_column": "image", "target_column": "scene"},
            ("image", "scene"),
        ),
        # The column of paths is no candidate for the classes any more.
        ({"file": Value("string"), "breed": Value("string")}, {"image_column": "file"}, ("file", "breed")),
    ],
)
def test_named_columns_win(features, options, expected):
    schema = infer(features, **options)
    assert (schema.image_column, schema.target_column) == expected


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (
            {"img": Image(), "fine_label": PETS, "coarse_label": PETS},
            {},
            r"2 columns could hold the classes \(fine_label, coarse_label\): pick one by --target-column",
        ),
        ({"img": Image(), "a": Value("string"), "b": Value("int64")}, {}, r"2 columns .*\(a, b\).*--target-column"),
        ({"img": Image(), "label": PETS, "labels": PETS}, {}, r"\(label, labels\).*--target-column"),
        ({"image": Image()}, {}, r"no column holds classes: columns are image \(Image\).*a folder of its own"),
        ({"image": Image(), "label": Value("float64")}, {}, r"no column holds classes: .*label \(float64\)"),
        ({"label": PETS, "id": Value("int64")}, {}, r"no image column among label, id: .*--image-column"),
        ({"left": Image(), "right": Image(), "label": PETS}, {}, r"2 image columns \(left, right\): .*--image-column"),
        (
            {"label": Image(), "mask": Image(), "kind": PETS},
            {},
            r"2 image columns \(label, mask\): pick one by --image-column",
        ),
    ],
)
def test_what_cannot_be_decided_is_asked_for_by_its_flag(features, options, message):
    with pytest.raises(SchemaError, match=message):
        infer(features, **options)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "binary", "null", "timestamp[s]"])
def test_a_named_target_of_another_type_is_refused(kind):
    with pytest.raises(SchemaError, match=rf"'label' has type {kind.replace('[', '.')[:9]}.*an integer, a boolean or"):
        infer({"image": Image(), "label": Value(kind)}, target_column="label")


def test_a_named_target_that_is_an_image_or_a_list_is_refused():
    features = {"image": Image(), "mask": Image(), "tags": List(PETS), "label": PETS}
    for name, kind in (("mask", "Image"), ("tags", "List")):
        with pytest.raises(SchemaError, match=rf"'{name}' has type {kind}; expected one class per image"):
            infer(features, image_column="image", target_column=name)


@pytest.mark.parametrize("feature", [PETS, Value("int64"), Value("float32"), Value("bool"), Value("null")])
def test_a_named_image_column_that_cannot_hold_images_is_refused(feature):
    with pytest.raises(SchemaError, match=r"--image-column: column 'pet' has type .*expected images.*: photo, pet"):
        infer({"photo": Image(), "pet": feature, "label": PETS}, image_column="pet")


@pytest.mark.parametrize(
    "objects",
    [
        List(BOXES),
        LargeList(BOXES),
        [BOXES],
        {"bbox": List(List(Value("float32"))), "category": List(PETS)},
        List({"boxes": List(Value("int64")), "id": Value("int64")}),
    ],
    ids=["list", "large list", "python list", "struct of lists", "boxes"],
)
def test_object_detection_is_named_and_refused(objects):
    features = {"image_id": Value("int64"), "image": Image(), "width": Value("int32"), "objects": objects}
    with pytest.raises(SchemaError, match=r"object detection dataset \(boxes in column 'objects'\).*--target-column"):
        infer(features)


def test_a_class_of_the_whole_image_beside_boxes_can_be_meant():
    found = infer({"image": Image(), "objects": List(BOXES), "label": PETS})
    assert (found.target_column, found.sure) == ("label", True)


@pytest.mark.parametrize("mask", ["mask", "segmentation_mask", "annotation", "label", "Masks"])
def test_masks_are_no_images_to_classify(mask):
    assert infer({"image": Image(), mask: Image(), "kind": PETS}).image_column == "image"
    with pytest.raises(SchemaError, match="no column holds classes"):
        infer({"image": Image(), mask: Image()})


@pytest.mark.parametrize("feature", [List(PETS), LargeList(PETS), [PETS]], ids=["list", "large list", "python list"])
def test_a_list_of_classes_is_not_one_class_an_image(feature):
    with pytest.raises(SchemaError, match="no column holds classes"):
        infer({"image": Image(), "tags": feature})
    with pytest.raises(SchemaError, match="column 'tags' has type"):
        infer({"image": Image(), "tags": feature}, target_column="tags")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "imge"}, r"--image-column: no column 'imge'; did you mean image.*Columns: image, fine_label"),
        ({"target_column": "fine_lable"}, r"--target-column: no column 'fine_lable'; did you mean fine_label"),
        ({"target_column": "zzz"}, r"--target-column: no column 'zzz'\W+Columns: image, fine_label"),
    ],
)
def test_a_column_that_does_not_exist_suggests_the_nearest(options, message):
    with pytest.raises(SchemaError, match=message) as error:
        infer({"image": Image(), "fine_label": PETS, "coarse_label": PETS}, **options)
    assert "did you mean zzz" not in str(error.value)


def test_integers_sort_as_numbers_and_strings_as_text():
    assert seen("integer", [10, 9], [2, 10]) == (("2", "9", "10"), (2, 9, 10))
    assert seen("string", ["10", "9"], ["b", "B", "é"]) == (("10", "9", "B", "b", "é"),) * 2
    assert seen("boolean", [True, False, True]) == (("False", "True"), (False, True))


def test_classes_are_those_of_all_splits_together():
    assert seen("string", ["cat"], ["dog"], ["ant", "cat"])[0] == ("ant", "cat", "dog")


def test_class_labels_keep_their_order_and_their_absent_names():
    schema = infer({"image": Image(), "label": ClassLabel(names=["zebra", "ant", "cow"])}).with_values([[0, 0], [-1]])
    assert schema.classes == ("zebra", "ant", "cow")
    assert schema.encode([2, 0, 1]).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("kind", "column", "classes", "codes"),
    [
        ("string", ["cat", None, "dog", "", "  ", "cat"], ("cat", "dog"), [0, -1, 1, -1, -1, 0]),
        ("string", [" cat", "cat ", "tom cat", "\tcat\n"], ("cat", "tom cat"), [0, 0, 1, 0]),
        ("string", ["-1", "1", "nan", "None"], ("-1", "1", "None", "nan"), [0, 1, 3, 2]),
        ("integer", [7, None, 3, 7], ("3", "7"), [1, -1, 0, 1]),
        ("integer", [3, float("nan"), 7], ("3", "7"), [0, -1, 1]),
        ("integer", [-1, 1, None], ("-1", "1"), [0, 1, -1]),  # beside other values it is a class, as in {-1, 1}
        ("integer", [1, 0, 1], ("0", "1"), [1, 0, 1]),
        ("boolean", [True, None, False], ("False", "True"), [1, -1, 0]),
    ],
)
def test_missing_values_are_no_class_and_have_no_label(kind, column, classes, codes):
    schema = of_kind(kind).with_values([column])
    assert schema.classes == classes
    encoded = schema.encode(column)
    assert encoded.dtype == np.int64
    assert encoded.tolist() == codes


def test_a_split_of_minus_ones_has_no_labels_and_adds_no_class():
    """As the Hub's imagenet-1k test has it, but in a column of plain integers."""
    train, test = [4, 5, 4], [-1, -1, None]
    schema = of_kind("integer").with_values([train, test])
    assert schema.classes == ("4", "5")
    assert schema.encode(train).tolist() == [0, 1, 0]
    assert schema.encode(test).tolist() == [UNLABELLED] * 3


def test_minus_one_and_null_of_a_class_label_have_no_label():
    schema = infer({"image": Image(), "label": PETS}).with_values([[1, None, -1, 0]])
    assert schema.encode([1, None, -1, 0]).tolist() == [1, UNLABELLED, UNLABELLED, 0]


@pytest.mark.parametrize(
    ("kind", "column", "message"),
    [
        ("string", ["cat", "cat ", None], r"column 'label' has 1 class \(cat\); expected at least 2.*--target-column"),
        ("integer", [], r"has 0 classes \(\); expected at least 2"),
        ("integer", [-1, -1, None], r"has 0 classes"),
        ("boolean", [True, True, None], r"has 1 class \(True\)"),
        ("string", [None, "", " "], r"has 0 classes"),
    ],
)
def test_fewer_than_two_classes_are_refused(kind, column, message):
    with pytest.raises(SchemaError, match=message):
        of_kind(kind).with_values([column])
    with pytest.raises(SchemaError, match=r"has 1 class \(only\)"):
        infer({"image": Image(), "label": ClassLabel(names=["only"])}).with_values([[0]])


@pytest.mark.parametrize(
    ("kind", "feature", "column"),
    [
        ("boolean", Value("bool"), [True, False, None, True]),
        ("integer", Value("int8"), [1, 0, None, 1, 5]),
        ("integer", Value("uint64"), [2**62 + 1, 0, 2**62]),
        ("string", Value("string"), ["a b", "a  b", "A b", None, "größe", "日本"]),
        ("string", Value("large_string"), ["x" * 70_000, "y", "x" * 70_000]),
        ("class-label", PETS, [0, 1, None, -1]),
    ],
)
def test_values_survive_the_way_through_a_dataset(kind, feature, column):
    """Encoding and looking the class up again gives what stood in the column, for the types of a real Arrow table."""
    table = Dataset.from_dict({"label": column}, features=Features(label=feature))
    schema = infer({"image": Image(), "label": feature})
    assert schema.target_kind == kind
    schema = schema.with_values([table["label"][:]])
    for value, code in zip(column, schema.encode(table["label"][:]), strict=True):
        if value in (None, -1):
            assert code == UNLABELLED
        else:
            assert schema.values[code] == value
            assert type(schema.values[code]) is type(value)
    assert len(set(schema.classes)) == len(schema.classes) == len(schema.values)


TEXT, INT, FLOAT = Value("string"), Value("int64"), Value("float32")
BOX = List(FLOAT)
LICENCES = ClassLabel(names=["by", "by-nc", "by-sa"])

# Forms of the Hub, and what they are.
REAL = {
    "cppe-5": (
        {
            "image_id": INT,
            "image": Image(),
            "width": INT,
            "height": INT,
            "objects": {"id": List(INT), "area": List(INT), "bbox": List(BOX), "category": List(PETS)},
        },
        r"object detection dataset \(boxes in column 'objects'\): give --task object-detection, which reads it",
    ),
    "minato-ryan/coco-car-instance": (
        {
            "image": Image(),
            "objects": {"bbox": List(BOX), "categories": List(INT), "area": List(FLOAT), "iscrowd": List(INT)},
            "height": INT,
            "width": INT,
            "date_captured": TEXT,
            "license": LICENCES,
        },
        r"boxes in column 'objects'\): give --task object-detection",
    ),
    "a licence alone": (
        {"image": Image(), "license": LICENCES, "height": INT, "coco_url": TEXT, "image_id": INT},
        r"no column holds classes: .*license, height, coco_url, image_id are taken only when named.*--target-column",
    ),
    "rsod_object_detection_data": (
        {"image": Image(), "bbox": List(BOX), "area": List(FLOAT), "category": TEXT},
        r"boxes in column 'bbox'\): give --task object-detection",
    ),
    "tiny-object-detection-aquarium-dataset": (
        {
            "image": Image(),
            "height": INT,
            "width": INT,
            "bbox": List(BOX),
            "label": List(INT),
            "category": List(TEXT),
            "annotations": {
                "annotations": List({"area": FLOAT, "bbox": BOX, "category_id": INT}),
                "image_id": INT,
            },
        },
        r"boxes in column 'annotations'\): give --task object-detection",
    ),
    "ClownRat/COCO2017": (
        {
            "image": TEXT,
            "objects": {
                "areas": List(FLOAT),
                "bboxes": List(BOX),
                "classes": List(TEXT),
                "ids": List(INT),
                "iscrowds": List(INT),
                "masks": List({"counts": TEXT, "size": List(INT)}),
            },
        },
        r"instance segmentation dataset \(masks in column 'objects'\): give --task instance-segmentation",
    ),
    "whyen-wang/coco_detection": (
        {
            "image": Image(),
            "bboxes": List(BOX),
            "categories": List(INT),
            "inst.rles": {"size": List(List(INT)), "counts": List(TEXT)},
        },
        r"masks in column 'inst.rles'\): give --task instance-segmentation",
    ),
    "BrandonLSX/coco-2017": (
        {
            "image": Image(),
            "annotations": {"id": List(INT), "category_id": List(INT), "category_name": List(TEXT), "bbox": List(BOX)},
        },
        r"boxes in column 'annotations'\): give --task object-detection",
    ),
    "KIRANKALLA/weaponds3": (
        {
            "image": Image(),
            "annotations": List({"id": INT, "category_id": INT, "bbox": BOX, "segmentation": List(BOX)}),
        },
        r"masks in column 'annotations'\): give --task instance-segmentation",
    ),
    "segmented-imagenet1k-subset": (
        {"image": Image(), "boxes": List(BOX), "labels": List(TEXT), "masks": List(Image())},
        r"masks in column 'masks'\): give --task instance-segmentation",
    ),
    "boxes as an array": (
        {"image": Image(), "boxes": Array2D((None, 4), "float32"), "names": List(TEXT)},
        r"boxes in column 'boxes'\)",
    ),
    "AID_MultiLabel": (
        {"label": List(ClassLabel(names=["a", "b"])), "image": Image()},
        "no column holds classes",
    ),
    "names in a list": ({"image": Image(), "tags": List(TEXT)}, "no column holds classes"),
    "celeba": (
        {"image": Image(), "celeb_id": INT} | {name: Value("bool") for name in ("Bald", "Bangs", "Smiling")},
        r"3 columns of yes or no: Bald, Bangs, Smiling\): read it by --task multi-label-classification",
    ),
    "a struct of yes and no": (
        {"image": Image(), "attributes": {"Bald": Value("bool"), "Bangs": Value("bool")}},
        "no column holds classes",
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_forms_of_the_hub_are_what_they_are(name):
    features, message = REAL[name]
    with pytest.raises(SchemaError, match=message):
        infer(features)


@pytest.mark.parametrize(
    "name",
    "license licence height width id image_id patient-id ids date date_captured url coco_url file_name filename "
    "image_path split imageId".split(),
)
def test_what_describes_an_image_is_a_target_only_when_named(name):
    assert infer({"image": Image(), name: PETS, "breed": TEXT}).target_column == "breed"
    assert infer({"image": Image(), name: PETS, "breed": TEXT}, target_column=name).target_column == name


@pytest.mark.parametrize("name", ["hybrid", "kids", "curl", "grid", "species", "valid", "heights", "pathology"])
def test_names_that_only_look_like_those_are_classes(name):
    assert infer({"image": Image(), name: TEXT}).target_column == name


def test_a_few_booleans_beside_a_class_are_no_classes():
    features = {"image": Image(), "label": TEXT, "checked": Value("bool"), "public": Value("bool")}
    assert infer(features).target_column == "label"
