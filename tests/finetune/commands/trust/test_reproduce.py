"""`python -m finetune reproduce`: drift is named, and a run comes out the same."""

import json
import shutil

import pytest

from finetune.cli import main
from finetune.commands.trust import reproduce

pytestmark = pytest.mark.slow(seconds=60)


def test_a_run_is_reproduced_bitwise(runs, capsys, tmp_path):
    words = ["reproduce", str(runs / "one"), "--output", str(tmp_path / "again"), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["drift"] == []
    assert found["verdict"] == "bitwise"
    assert all(pair["run"] == pair["again"] for pair in found["scores"].values())


@pytest.fixture
def changed(runs, tmp_path):
    """A copy of a run whose lock was made by other versions, with other images and weights, and a file that changed."""
    run = tmp_path / "run"
    shutil.copytree(runs / "one", run)
    lock = json.loads((run / "lock.json").read_text())
    lock["packages"]["torch"] = "1.0.0"
    lock["data"]["train split"] = "95 images, 0123456789abcdef"
    lock["weights"]["begin_sha256"] = "0" * 64
    (run / "lock.json").write_text(json.dumps(lock))
    (run / "mistakes.csv").unlink()
    return run


def test_what_has_drifted_is_named_and_nothing_is_trained(changed, capsys):
    assert main(["reproduce", str(changed), "--check", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    drift = "\n".join(found["drift"])
    assert "torch: 1.0.0, now " in drift
    assert "train split: 95 images, 0123456789abcdef, now 96 images" in drift
    assert "weights at the beginning: SHA-256 000000000000, now " in drift
    assert "file mistakes.csv: missing" in drift
    assert "file lock.json: not as the run wrote it" in drift
    assert "verdict" not in found
    assert len(found["drift"]) == 5


def test_another_outcome_is_not_reproduced_and_a_near_one_is_within(runs, capsys, monkeypatch, tmp_path):
    """The second run is another one that is there already."""
    from finetune.runs.result import RunResult

    for name, verdict, code in (("other", "not reproduced", 3), ("two", None, None)):
        again = RunResult.load(runs / name / "result.json")
        monkeypatch.setattr(reproduce.train, "run", lambda config, again=again: again)
        done = main(["reproduce", str(runs / "one"), "--output", str(tmp_path / name), "--json"])
        found = json.loads(capsys.readouterr().out)
        if verdict is not None and found["difference"]["verdict"] != "tie":
            assert (found["verdict"], done) == (verdict, code)
        else:
            tie = found["difference"]["verdict"] == "tie"
            assert (found["verdict"], done) == (("within the interval", 0) if tie else ("not reproduced", 3))


def test_check_takes_no_output(runs, capsys, tmp_path):
    assert main(["reproduce", str(runs / "one"), "--check", "--output", str(tmp_path / "x")]) == 2
    assert "--check makes no run" in capsys.readouterr().err
