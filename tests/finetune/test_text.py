"""Text of strangers shows, and does nothing."""

import csv
import io
import logging

import pytest

from finetune import console
from finetune.errors import listing
from finetune.evaluation.assessment import write_table
from finetune.text import cell, counted, unquoted, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe 日本 👩‍🚀", "größe 日本 👩‍🚀"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("two\nlines", "two\\nlines"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("bell\a\r", "bell\\x07\\r"),
        ("\x9b31m", "\\x9b31m"),
    ],
)
def test_what_nobody_sees_is_shown_as_its_code(text, shown):
    assert visible(text) == shown


def test_the_log_has_lines_and_names_have_none(monkeypatch):
    stream = io.StringIO()
    kept = console.log.handlers[:], console.log.propagate
    monkeypatch.setattr(console.log, "handlers", [])
    console.set_up(stream)
    names = listing(["a\nerror: b", "c\u202e"])
    logging.getLogger("finetune").info(f"first\nsecond \x1b]0;title\a {names}")
    console.log.propagate = kept[1]
    assert stream.getvalue() == "first\nsecond \\x1b]0;title\\x07 a\\nerror: b, c\\u202e\n"


@pytest.mark.parametrize("text", ["=cmd()", "@SUM(A1)", "-2+3", "+1", "\t=1", " =1"])
def test_no_cell_is_a_formula(tmp_path, text):
    assert cell(text) == f"'{text}"
    write_table(tmp_path / "t.csv", [{"class": text, "f1": -0.5, "n": None}])
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["class", "f1", "n"], [f"'{text}", "-0.5", ""]]


def test_no_cell_ends_a_row(tmp_path):
    write_table(tmp_path / "t.csv", [{"class": "a\r=1", "f1": 1}, {"class": 'b\n"=1', "f1": 1}])
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file))[1:] == [["a\\r=1", "1"], ['b\n"=1', "1"]]


@pytest.mark.parametrize("value", [-2, 0.5, None, "cat", "a=b", "", "1"])
def test_other_cells_stay(value):
    assert cell(value) == value


def test_bytes_are_taken_out_of_an_errors_words():
    assert unquoted("""broken (chunk b'ro\\'ot') or b"x" of 'name'""") == "broken (chunk ...) or ... of 'name'"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1 pairs of copies", "1 pair of copies"),
        ("1 boxes", "1 box"),
        ("2 pairs of copies", "2 pairs of copies"),
        ("1 do not decode", "1 do not decode"),
        ("11 images", "11 images"),
        ("pairs", "pairs"),
    ],
)
def test_one_of_what_is_counted_is_one(line, expected):
    assert counted(line) == expected
