"""Names and colours of classes, in every form that people write them in."""

import json

import pytest
from datasets import Dataset

from finetune.data import hub, source
from finetune.data.beside import names, palettes
from finetune.data.beside.pixels import packed
from finetune.data.source import Source
from finetune.errors import SchemaError

ROAD, SKY = packed(128, 64, 128), packed(70, 130, 180)


@pytest.mark.parametrize(
    "given",
    [
        "road=128,64,128;sky=70,130,180",
        "road = 128, 64, 128; sky = 70, 130, 180",
        "road=#804080;sky=#4682B4",
    ],
)
def test_colours_on_the_command_line(given):
    assert palettes.read(given) == {ROAD: "road", SKY: "sky"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("class_dict.csv", "name,r,g,b\nroad,128,64,128\nsky,70,130,180\n"),
        ("label_colors.txt", "128 64 128\troad\n70 130 180\t\tsky\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nroad:128,64,128::\nsky:70,130,180:a,b:\n"),
        ("palette.json", json.dumps({"road": [128, 64, 128], "sky": "#4682b4"})),
        ("colors.json", json.dumps([{"name": "road", "color": [128, 64, 128]}, {"name": "sky", "color": "#4682b4"}])),
    ],
)
def test_files_of_colours(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    assert palettes.read(str(tmp_path / name)) == {ROAD: "road", SKY: "sky"}
    assert name in palettes.FILES


def test_names_that_end_in_a_number_stay_whole(tmp_path):
    (tmp_path / "c.csv").write_text("name,r,g,b\nthing 12,1,2,3\n")
    assert palettes.read(str(tmp_path / "c.csv")) == {packed(1, 2, 3): "thing 12"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nothing.csv", r"--mask-colors nothing.csv: no such file, and no colours; expected name=r,g,b"),
        ("road=1,2", r"no colour in 'road=1,2'"),
        ("road=1,2,300", r"no colour in 'road=1,2,300'"),
        ("a=1,2,3;b=1,2,3", r"'a' and 'b' have one colour"),
    ],
)
def test_what_is_no_palette_is_refused(given, message):
    with pytest.raises(SchemaError, match=message):
        palettes.read(given)


def test_files_without_colours_are_refused(tmp_path):
    for name, text in (("a.json", "{"), ("b.json", "3"), ("c.csv", "name,r,g,b\n"), ("d.txt", "\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(SchemaError, match="expected name=r,g,b"):
            palettes.read(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("id2label.json", '{"0": "road", "2": "sky"}'),
        ("id2label.json", '{"0": {"name": "road"}, "2": {"name": "sky"}}'),
        ("label2id.json", '{"road": 0, "sky": "2"}'),
    ],
)
def test_files_of_names(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    assert names.of_file(tmp_path / name) == names.Names({0: "road", 2: "sky"}, name)


def test_a_line_for_each_value(tmp_path):
    (tmp_path / "classes.txt").write_text("road\r\nsky\r\n")
    assert dict(names.of_file(tmp_path / "classes.txt").of) == {0: "road", 1: "sky"}


def test_what_names_nothing_is_refused(tmp_path):
    for text in ("{", "{}", "3", '{"a": "b"}'):
        (tmp_path / "id2label.json").write_text(text)
        with pytest.raises(SchemaError, match=r"id2label.json.*; "):
            names.of_file(tmp_path / "id2label.json")


def test_rows_that_contradict_each_other_are_refused():
    assert dict(names.of_rows(Dataset.from_dict({"n": [{"a": 0, "b": 1}, {"a": 0, "b": None}]}), "n").of) == {
        0: "a",
        1: "b",
    }
    with pytest.raises(SchemaError, match=r"column 'n' calls 0 both 'a' and 'b'"):
        names.of_rows(Dataset.from_dict({"n": [{"a": 0, "b": None}, {"a": None, "b": 0}]}), "n")


def test_a_file_beside_the_data_is_found_and_a_link_out_of_it_is_not(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    opened = Source(None, "data", folder=data, roots=(str(data),))
    assert source.beside(opened, names.FILES) is None
    (tmp_path / "secret").write_text("a\nb\n")
    (data / "classes.txt").symlink_to(tmp_path / "secret")
    assert source.beside(opened, names.FILES) is None
    (data / "label2id.json").write_text("{}")
    assert source.beside(opened, names.FILES) == data / "label2id.json"


def test_a_file_of_a_repository_is_asked_for_once(monkeypatch, tmp_path):
    asked = []

    class Api:
        def list_repo_files(self, repo, repo_type, revision):
            asked.append((repo, repo_type, revision))
            return ["data/train.parquet", "id2label.json"]

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "hf_hub_download", lambda repo, name, **_: str(tmp_path / name))
    opened = Source(None, "owner/name", hub=True, revision="abc")
    assert source.beside(opened, names.FILES) == tmp_path / "id2label.json"
    assert source.beside(opened, palettes.FILES) is None
    assert asked == [("owner/name", "dataset", "abc")] * 2
