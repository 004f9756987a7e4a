"""timm's names between commands: equal to timm's own, and made anew where the file is damaged, old or not writable."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import timm.optim
from huggingface_hub import constants

import resnest_timm  # noqa: F401  registers
from finetune.errors import ModelError
from finetune.networks import model_names, timm_names
from finetune.networks.timm_names import Names
from tests.examples import ROOT


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A cache of its own, a process that has not imported timm, and how often timm was asked."""
    times = []
    own = timm_names._ask()
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.delitem(sys.modules, "timm")
    monkeypatch.setattr(timm_names, "_ask", lambda: (times.append(1), own)[1])
    return times


def test_a_process_of_its_own_remembers_what_timm_says(tmp_path):
    code = "import sys; from finetune.networks import timm_names; found = timm_names.names(); "
    code += "print('timm' in sys.modules, len(found.models), 'resnest50_fast_2s1x64d' in found.models)"
    environment = os.environ | {"HF_ASSETS_CACHE": str(tmp_path)}
    said = [
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT, env=environment
        ).stdout.split()
        for _ in range(2)
    ]
    count = str(len(timm.list_models()))
    assert said == [["True", count, "True"], ["False", count, "True"]]
    (file,) = (tmp_path / "finetune").iterdir()
    names = json.loads(file.read_text())["names"]
    assert names["models"] == timm.list_models()
    assert names["weights"] == timm.list_pretrained()
    assert names["optimizers"] == timm.optim.list_optimizers()


def test_weights_of_an_architecture_are_those_that_timm_finds():
    found = timm_names.names()
    with_weights = {name.split(".")[0] for name in found.weights}
    assert len(with_weights) > 500
    for architecture in [*sorted(with_weights)[::25], "resnest50", "resnest50d", "resnet18", "resnest152"]:
        assert found.weights_of(architecture) == timm.list_pretrained(f"{architecture}.*"), architecture


def test_it_is_asked_once(asked):
    first, second = timm_names.names(), timm_names.names()
    assert first == second
    assert len(asked) == 1


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"state": 1, "names": {}}', "empty", "numbers", "other"])
def test_a_damaged_file_is_made_anew(asked, damage):
    whole = timm_names.names()
    path = timm_names.cache_file()
    content = json.loads(path.read_text())
    if damage == "empty":
        content["names"]["models"] = []
    elif damage == "numbers":
        content["names"]["optimizers"] = [1, 2]
    elif damage == "other":
        content["names"]["more"] = []
    path.write_text(json.dumps(content) if damage in ("empty", "numbers", "other") else damage)
    assert timm_names.names() == whole
    assert len(asked) == 2
    assert timm_names.names() == whole
    assert len(asked) == 2


def test_bytes_that_are_no_text_are_made_anew(asked):
    timm_names.names()
    timm_names.cache_file().write_bytes(b"\xff\xfe\x00")
    timm_names.names()
    timm_names.names()
    assert len(asked) == 2


def test_a_cache_that_cannot_be_written_costs_a_question_each_time(asked, tmp_path):
    (tmp_path / "assets").write_text("a file where the folder should be")
    assert timm_names.names() == timm_names.names()
    assert len(asked) == 2


def test_a_module_that_changes_or_comes_is_noticed(asked, tmp_path, monkeypatch):
    package = tmp_path / "site" / "timm"
    for folder in ("models", "optim"):
        (package / folder).mkdir(parents=True)
        (package / folder / "__init__.py").write_text("")
    monkeypatch.setattr(timm_names, "_root", lambda name: package)
    monkeypatch.setattr(timm_names, "_REGISTERING", timm_names._REGISTERING[:1])
    timm_names.names()
    (package / "models" / "new.py").write_text("")
    timm_names.names()
    (package / "models" / "new.py").write_text("more = 1")
    timm_names.names()
    timm_names.names()
    assert len(asked) == 3


def test_who_writes_at_the_same_time_replaces_whole_files(tmp_path):
    path = tmp_path / "cache" / "names.json"
    versions = [Names([f"model{n}"] * 5000, ["model.tag"], ["adamw"]) for n in range(4)]

    def work(number):
        seen = []
        for turn in range(10):
            timm_names._write(path, "state", versions[(number + turn) % 4])
            seen.append(timm_names._read(path, "state"))
        return seen

    with ThreadPoolExecutor(4) as pool:
        seen = [found for part in pool.map(work, range(4)) for found in part]
    assert len(seen) == 40
    assert all(found in versions for found in seen)
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        timm_names._write(tmp_path / "names.json", "state", Names(["a"], ["a.b"], ["c"]))
    assert list(tmp_path.iterdir()) == []


def test_names_that_this_process_registered_are_known(monkeypatch):
    model_names.check_name("resnest50")
    with pytest.raises(ModelError, match="unknown model 'plugin_net'"):
        model_names.check_name("plugin_net")
    registry = sys.modules["timm.models._registry"]
    monkeypatch.setitem(registry._model_entrypoints, "plugin_net", lambda **_: None)
    model_names.check_name("plugin_net")
