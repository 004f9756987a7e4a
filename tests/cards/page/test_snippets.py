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
from cards.hub.addressed import addressed
from finetune.serving.predictor import Predictor
from tests.cards.hub.test_publish import certify
from tests.cards.page.test_card_text import EVIL
from tests.cards.results import RESULT, changed, code_of, named
from tests.conftest import need
from tests.hub_standin import TOKEN, HubStandIn

STRANGER = """
import sys
for path in sys.argv[1:]:
    print("==")
    exec(compile(open(path).read(), path, "exec"), {})
print("==")
print(sorted({"resnest_timm", "finetune", "cards"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def exported(digits_run, tmp_path_factory):
    """A run whose model is there for all four libraries."""
    pytest.importorskip("transformers", reason="needs the extra `verify`")
    pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    need("openvino", "openvino")
    from finetune.commands.export import export
    from finetune.settings.verbs import ExportOptions

    run = tmp_path_factory.mktemp("exported") / "run"
    shutil.copytree(digits_run, run)
    export(ExportOptions(model=str(run)))
    export(ExportOptions(model=str(run), format="openvino"))
    return run


@pytest.fixture(scope="module")
def photo(exported, tmp_path_factory):
    """No square, and it lies on its side, as telephones write it."""
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.open(exported / "verify/images/000.png").resize((57, 41)).save(path, exif=exif)
    return path


def check_answers(run, card, photo, folder, cwd, environment=os.environ):
    """Each of a card's four code blocks says of a photograph in `cwd` what `predict` says."""
    blocks = [code for _, code in code_of(card)]
    libraries = [re.search(r"(?:import|from) (timm|transformers|onnxruntime|openvino)\b", code) for code in blocks]
    assert [found and found[1] for found in libraries] == ["timm", "transformers", "onnxruntime", "openvino"]
    for number, block in enumerate(blocks):
        (folder / f"{number}.py").write_text(block)
    shutil.copy(photo, cwd / "photo.jpg")
    before = sorted(path.name for path in cwd.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, *(folder / f"{number}.py" for number in range(4))],
        cwd=cwd,
        env={
            **environment,
            "PYTHONPATH": str(Path(os.environ["PYTHONPATH"].split(os.pathsep)[0])),  # the guard against the network
            "TRANSFORMERS_VERBOSITY": "error",
            "CI": "true",  # where OpenVINO does not tell its makers that it was imported
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _, *answers, ours = done.stdout.split("==\n")
    assert ours == "[]\n"
    assert sorted(path.name for path in cwd.iterdir()) == before
    (expected,) = Predictor(run)([photo], top_k=5)
    for answer in answers:
        lines = [line.split() for line in answer.splitlines()]
        assert [name for _, name in lines] == [name for name, _ in expected.top]
        assert [float(p) for p, _ in lines] == pytest.approx([p for _, p in expected.top], abs=2e-4)
    temperature = json.loads((run / "result.json").read_text())["evaluation"]["calibration"]["temperature"]
    assert abs(temperature - 1) > 0.1  # else the test would not see whether it is used


@pytest.mark.slow(seconds=40)
def test_the_code_runs_as_it_stands(exported, photo, tmp_path):
    """In a copy of the folder, beside the photograph."""
    card = (exported / "model/README.md").read_text(encoding="utf-8")
    assert card == render(exported)  # renewed: the exports are there
    shutil.copytree(exported / "model", tmp_path / "model")
    check_answers(exported, card, photo, tmp_path, tmp_path / "model")


@pytest.mark.slow(seconds=30)
def test_the_published_code_runs_anywhere(exported, photo, cli, tmp_path):
    """With the repository on a Hub, on a branch, and nothing but the photograph here."""
    (elsewhere := tmp_path / "elsewhere").mkdir()
    shutil.copytree(exported / "model", tmp_path / "model")
    certify(tmp_path / "model")  # what is in it is another test's
    with HubStandIn() as hub:
        environment = hub.environment(tmp_path / "home")
        words = ["publish", tmp_path / "model", "--repo-id", "owner/digits", "--revision", "v1"]
        done = cli("cards", *words, env=environment | {"HF_TOKEN": TOKEN})
        assert done.returncode == 0, done.stderr
        card = hub.files("owner/digits", revision="v1")["README.md"].decode()
        assert "OWNER/NAME" not in card
        check_answers(exported, card, photo, tmp_path, elsewhere, environment)


def test_what_somebody_wrote_on_a_card_stays(run_of):
    card = render(run_of(RESULT))
    edited = card.replace("## Limitations", "## Limitations\n\nAsk me: OWNER/NAME, `local-dir:.`.")
    for onnx in (False, True):
        changes = [
            (before, after)
            for before, after in zip(
                edited.splitlines(), addressed(edited, "me/model", onnx=onnx).splitlines(), strict=not onnx
            )
            if before != after
        ]
        assert not any("Ask me" in before for before, _ in changes)
        assert changes
    plain = addressed(edited, "me/model")
    assert plain.count("OWNER/NAME") == 1
    assert plain.count("me/model") == 3
    assert 'InferenceSession("model.onnx")' in plain  # it is not there: it must be made first
    assert addressed(edited, "me/model", 'a"b').count(r"a\"b") == 3


def test_the_code_is_the_same_on_every_card_but_for_the_temperature(run_of, digits_run):
    def code(card):
        return [re.sub(r"temperature = \d[\d.e-]*\n", "temperature = T\n", text) for _, text in code_of(card)]

    first = code(render(run_of(RESULT)))
    assert "".join(first).count("temperature = T\n") == 2
    assert code(render(run_of(named(EVIL)))) == code(render(digits_run)) == first
    plain = code(render(run_of(changed(evaluation={}))))
    assert "temperature" not in plain[0] + plain[1]
    assert "logits.softmax(dim=1)" in plain[0]
