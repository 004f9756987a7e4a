"""Schemas: what is wrong is said with its place, and never with the bytes of the file."""

import pytest

from finetune.errors import ModelError, RunFolderError
from finetune.runs import reading
from finetune.runs.reading import Each, problem


@pytest.mark.parametrize(
    ("value", "schema", "said"),
    [
        (1, int, None),
        (True, int, "it must be a whole number, got bool"),
        (1.5, (int, float), None),
        (None, (str, type(None)), None),
        ({"a": {"b": [1, "x"]}}, {"a": {"b": [int]}}, "'a.b[1]' must be a whole number, got text"),
        ({}, {"a": int, "b?": int}, "it has no 'a'"),
        ({"a": 1, "b": None}, {"a": int, "b?": int}, "'b' must be a whole number, got null"),
        ({"x": 1, "y": []}, Each(int), "'y' must be a whole number, got a list"),
        ([], {"a": int}, "it must be an object, got a list"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(value, schema, said):
    assert problem(value, schema) == said


def test_a_file_of_anything_is_not_quoted(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("root:x:0:0:secret")
    with pytest.raises(RunFolderError) as raised:
        reading.read(path, {})
    assert "secret" not in str(raised.value)
    assert "expected JSON, got 17 bytes that end or change within it (line 1)" in str(raised.value)


def test_nesting_without_an_end_is_damage(tmp_path):
    (tmp_path / "x.json").write_text("[" * 200_000)
    with pytest.raises(ModelError, match="is damaged: expected JSON"):
        reading.read(tmp_path / "x.json", {}, error=ModelError)


def test_a_missing_file_and_a_folder_are_said(tmp_path):
    with pytest.raises(RunFolderError, match=r"x.json is missing: put back a copy"):
        reading.read(tmp_path / "x.json", {})
    with pytest.raises(RunFolderError, match=r"cannot read .*: Is a directory"):
        reading.read(tmp_path, {})
