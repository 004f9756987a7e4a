"""The benchmark of startup times: its table, on commands that take no time, and that a wrong answer is none."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def startup():
    spec = importlib.util.spec_from_file_location("startup", ROOT / "benchmarks" / "startup.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["startup"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["startup"]


def test_every_command_gives_the_answer_that_is_waited_for(startup, digits_run, tmp_path):
    startup.photographs(tmp_path / "photographs", 4)
    found = startup.commands(digits_run, tmp_path / "photographs")
    assert len({command.name for command in found}) == len(found) >= 11
    assert {command.beside for command in found} - {None} <= {command.name for command in found}
    for command in found:
        if command.ours:  # the others are imports alone
            used = startup.answer(command, ROOT, tmp_path)
            assert used.wall > 0.01
            assert used.cpu > 0.01


def test_measures_in_turn_and_prints_medians_and_differences(startup, tmp_path):
    found = [
        startup.Command("nothing", ("-c", "pass"), ours=False),
        startup.Command("sleep", ("-c", "import time; time.sleep(0.3)"), "nothing"),
        startup.Command("line", ("-c", "import time; print('line', flush=True); time.sleep(60)"), "nothing", True),
    ]
    times = startup.measure(found, [ROOT, tmp_path], 3, tmp_path)
    assert {name: len(several) for (name, checkout), several in times.items() if checkout == ROOT} == {
        "nothing": 3,
        "sleep": 3,
        "line": 3,
    }
    assert ("nothing", tmp_path) not in times
    assert ("sleep", tmp_path) in times
    header, _, nothing, sleep, line = startup.table(found, [ROOT, tmp_path], times).splitlines()
    assert header.endswith("| before: s | CPU s |")
    assert all(row.count("|") == header.count("|") for row in (nothing, sleep, line))
    cells = [cell.strip() for cell in sleep.split("|")[1:-1]]
    assert cells[0] == "sleep"
    assert re.fullmatch(r"\d+\.\d\d ±\d+\.\d\d", cells[1])
    assert float(cells[1].split()[0]) >= 0.3
    base = float(nothing.split("|")[2].split()[0])
    assert float(cells[4]) == pytest.approx(float(cells[1].split()[0]) - base, abs=0.011)


@pytest.mark.parametrize(
    ("words", "first_line"), [(("-c", "raise SystemExit(3)"), False), (("-c", "raise SystemExit(0)"), True)]
)
def test_another_end_than_the_expected_is_an_error(startup, tmp_path, words, first_line):
    command = startup.Command("wrong", words, None, first_line)
    with pytest.raises(RuntimeError, match=r"wrong in .*: exit code"):
        startup.answer(command, ROOT, tmp_path)
