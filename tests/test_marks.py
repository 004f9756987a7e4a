"""What tests/conftest.py makes of the mark `slow`: the longest files first, and no test that does not say how slow."""

import re
import subprocess
import sys

import pytest

TESTS = {
    "test_a.py": "def test_a(): pass",
    "test_b.py": "@pytest.mark.slow(seconds=50)\ndef test_b(): pass\ndef test_quick(): pass",
    "test_c.py": "def test_c(): pass",
    "test_d.py": "pytestmark = pytest.mark.slow(seconds=30)\ndef test_d(): pass\ndef test_again(): pass",
}
BARE = {
    f"test_{number}.py": form
    for number, form in enumerate(
        f"{form}\ndef test_bare(): pass"
        for mark in ("slow", "slow(20)", "slow(second=20)")
        for form in (f"@pytest.mark.{mark}", f"pytestmark = pytest.mark.{mark}")
    )
}
HOOKS = "from tests.conftest import pytest_collection_modifyitems, pytest_pycollect_makeitem  # noqa: F401\n"


@pytest.fixture
def collect(tmp_path):
    """What pytest makes of some files, with our two hooks."""

    def call(files):
        for name, text in {"conftest.py": HOOKS, **files}.items():
            (tmp_path / name).write_text(f"import pytest\n{text}")
        (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
        command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:xdist", "-p", "no:cacheprovider"]
        return subprocess.run([*command, tmp_path], cwd=tmp_path, capture_output=True, text=True, check=False)

    return call


def test_the_longest_files_come_first_and_the_others_as_they_were(collect):
    found = re.findall(r"::(test_\w+)", collect(TESTS).stdout)
    assert found == ["test_d", "test_again", "test_b", "test_quick", "test_a", "test_c"]


def test_a_slow_test_that_does_not_say_how_slow_is_refused(collect):
    done = collect(BARE)
    assert done.returncode == 2
    refused = re.findall(r"(test_\d.py)::test_bare: expected @pytest.mark.slow\(seconds=...\), with", done.stdout)
    assert set(refused) == set(BARE)
