"""What a user sees when the Hub fails while data and weights are fetched, and what is left in the cache."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow(seconds=1)

ROWS = {"train": 60, "validation": 21}
WORDS = {
    "401": ["asks for a valid token (401)", "hf auth login"],
    "403": ["the token may not read it (403)", "ask for access at http"],
    "404": ["a file is missing on the Hub (404)"],
    "429": ["too many requests (429): try again in 5 s"],
    "503": ["is out of order for now (503): try again later"],
    "cut": ["broke again and again (RemoteProtocolError): try again"],
    "damaged": ["does not have the hash that the Hub names, twice, so that it was not kept"],
}
PASSING = ["429 at first", "503 for a while", "cut once", "damaged once", "429 of a question"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    home = tmp_path_factory.mktemp("faults")
    command = [sys.executable, "-m", "tests.finetune.hub_faults", home]
    child = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=500, check=False)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout.splitlines()[-1])


@pytest.mark.parametrize("target", ["dataset", "model"])
@pytest.mark.parametrize("fault", WORDS)
def test_a_lasting_failure_is_said_and_leaves_nothing_broken(seen, fault, target):
    found = seen[fault][target]
    kind, what = {"dataset": ("DatasetError", "org/data"), "model": ("ModelError", "the weights of hf-hub:")}[target]
    assert found["first"].startswith(f"{kind}: cannot fetch {what}")
    for words in WORDS[fault]:
        assert words in found["first"]
    assert len(found["first"].splitlines()) == 1
    assert len(found["first"]) < 400
    assert not found["broken"]
    assert found["requests"] < 40
    assert sum(found["sleeps"]) < 60
    assert found["second"] == (ROWS if target == "dataset" else "bn1.bias")


@pytest.mark.parametrize("target", ["dataset", "model"])
@pytest.mark.parametrize("fault", PASSING)
def test_a_failure_that_passes_is_waited_for(seen, fault, target):
    found = seen[fault][target]
    assert found["first"] == found["second"] == (ROWS if target == "dataset" else "bn1.bias")
    assert not found["broken"]
    if "429" in fault and found["sleeps"]:
        assert set(found["sleeps"]) == {6}
    if (fault, target) != ("429 of a question", "model"):  # weights need no question
        assert found["left"] == 0


def test_a_hub_that_answers_no_question_is_not_asked_for_ever(seen):
    found = seen["503 of a question"]["dataset"]
    assert "is out of order for now (503)" in found["first"]
    assert sum(found["sleeps"]) < 30
    assert found["second"] == ROWS
