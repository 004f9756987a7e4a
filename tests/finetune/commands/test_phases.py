"""How long each part of a run took, and that the end of a run says so."""

import re
import time

import pytest

from finetune.commands.phases import Phases, spoken


def test_a_part_within_another_stops_the_clock_of_the_outer_one():
    now = [0.0]
    phases = Phases(lambda: now[0])
    with phases.of("reading"):
        now[0] = 1.0
    now[0] = 5.0  # of no part
    with phases.of("training"):
        now[0] = 8.0
        with phases.of("evaluation"):
            now[0] = 10.0
        now[0] = 14.0

    def stopped():
        with phases.of("evaluation"):
            now[0] = 15.0
            raise KeyError("on the way")

    with pytest.raises(KeyError, match="on the way"):
        stopped()
    assert phases.seconds == {"reading": 1.0, "training": 7.0, "evaluation": 3.0}
    assert phases.line() == "time: 1.0 s reading, 7.0 s training, 3.0 s evaluation"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (119.4, "119 s"),
        (121, "2 min"),
        (7100, "118 min"),
        (7200, "2.0 h"),
        (360000, "100.0 h"),
    ],
)
def test_durations_as_they_are_spoken(seconds, text):
    assert spoken(seconds) == text


@pytest.mark.slow(seconds=30)
def test_the_end_of_a_run_says_what_each_part_took(cli, tmp_path):
    words = "--model resnest14d --no-pretrained --image-size 32 --max-samples 60 --epochs 1 --batch-size 20 --workers 0"
    began = time.monotonic()
    done = cli("finetune", "--dataset", "digits", *words.split(), "--accelerator", "cpu", "--output", tmp_path / "run")
    wall = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    (line,) = re.findall(r"^time: .*$", done.stdout + done.stderr, re.MULTILINE)
    parts = re.findall(r"([\d.]+) (s|min) ([a-z ]+)", line)
    assert [name for _, _, name in parts] == [
        "reading", "training", "evaluation", "export", "pictures", "certificate and card",
    ]  # fmt: skip
    assert 0.5 < sum(float(number) * (60 if unit == "min" else 1) for number, unit, _ in parts) < wall + 1
