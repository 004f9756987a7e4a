"""The code on a card runs as it stands, by somebody who has the libraries and nothing of ours."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from cards import render
from finetune.predictor import Predictor
from tests.cards.results import RESULT, changed, code_of, named
from tests.cards.test_card_text import EVIL

STRANGER = """
import sys
for path in sys.argv[1:]:
    print("==")
    exec(compile(open(path).read(), path, "exec"), {})
print("==")
print(sorted({"resnest_timm", "finetune", "cards"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_the_code_runs_as_it_stands(digits_run, tmp_path):
    """In a copy of the folder beside a photograph; the same labels and calibrated probabilities as `predict` says."""
    pytest.importorskip("transformers", reason="needs the extra `verify`")
    pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    from finetune.onnx_export import export
    from finetune.verbs import ExportOptions

    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    export(ExportOptions(model=str(run)))
    assert (run / "model/README.md").read_text(encoding="utf-8") == render(run)  # renewed: the file is there
    blocks = [code for _, code in code_of(render(run))]
    assert [re.search("import (timm|transformers|onnxruntime)|from transformers", code) is not None for code in blocks]
    assert len(blocks) == 3
    for number, block in enumerate(blocks):
        (tmp_path / f"{number}.py").write_text(block)
    picture = Image.open(digits_run / "verify/images/000.png").resize((57, 41))  # no square
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # lies on its side, as telephones write it
    picture.save(run / "model/photo.jpg", exif=exif)
    before = sorted(path.name for path in (run / "model").iterdir())
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, *(tmp_path / f"{number}.py" for number in range(3))],
        cwd=run / "model",
        env={
            **os.environ,
            "PYTHONPATH": str(Path(os.environ["PYTHONPATH"].split(os.pathsep)[0])),  # the guard against the network
            "TRANSFORMERS_VERBOSITY": "error",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _, *answers, ours = done.stdout.split("==\n")
    assert ours == "[]\n"
    assert sorted(path.name for path in (run / "model").iterdir()) == before
    (expected,) = Predictor(run)([run / "model/photo.jpg"], top_k=5)
    for answer in answers:
        lines = [line.split() for line in answer.splitlines()]
        assert [name for _, name in lines] == [name for name, _ in expected.top]
        assert [float(p) for p, _ in lines] == pytest.approx([p for _, p in expected.top], abs=2e-4)
    temperature = json.loads((run / "result.json").read_text())["evaluation"]["calibration"]["temperature"]
    assert abs(temperature - 1) > 0.1  # else the test would not see whether it is used


def test_the_code_is_the_same_on_every_card_but_for_the_temperature(run_of, digits_run):
    def code(card):
        return [re.sub(r"temperature = \d[\d.e-]*\n", "temperature = T\n", text) for _, text in code_of(card)]

    first = code(render(run_of(RESULT)))
    assert "".join(first).count("temperature = T\n") == 2
    assert code(render(run_of(named(EVIL)))) == code(render(digits_run)) == first
    plain = code(render(run_of(changed(evaluation={}))))
    assert "temperature" not in plain[0] + plain[1]
    assert "logits.softmax(dim=1)" in plain[0]
