"""Publishing to a stand-in of the Hub by the real client, in this process; the waits between its tries are left out."""

import json
import logging
import os
import re
import subprocess
import sys
import time

import huggingface_hub.constants
import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import close_session

import cards
from cards.__main__ import main
from cards.certificate import files
from cards.hub import patience, push, remote
from tests.hub_standin import TOKEN, Account, HubStandIn

# The client's LFS upload, of huggingface_hub 2.4, hands a file to its HTTP library in a way that goes out of use.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

LINE = 'timm.create_model("hf-hub:owner/tiny", pretrained=True)'


@pytest.fixture
def sleeps(monkeypatch):
    """Seconds that were asked to be slept, instead of sleeping."""
    asked = []
    monkeypatch.setattr(time, "sleep", asked.append)
    return asked


@pytest.fixture
def hub(monkeypatch, sleeps):
    """An empty Hub that this process's client talks to with a token that may write everywhere."""
    factory = logging.getLogRecordFactory()
    with HubStandIn() as standin:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", standin.endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield standin
        close_session()
    logging.setLogRecordFactory(factory)


@pytest.fixture
def model(tmp_path):
    """The model/ of a run, complete as far as publishing looks."""
    folder = tmp_path / "run/model"
    (folder / "figures").mkdir(parents=True)
    (folder / "config.json").write_text('{"architecture": "resnest14d"}')
    (folder / "model.safetensors").write_bytes(os.urandom(5000))
    (folder / "model.onnx").write_bytes(os.urandom(300))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    (folder / "figures/confusion.png").write_bytes(b"\x89PNG\0")
    (folder / "figures/per_class.csv").write_text("class,f1\n")
    certify(folder)
    return folder


def certify(folder):
    made = {"version": 1, "checks": {"timm": {"passed": True}}, "passed": True, **files.digests(folder)}
    (folder / "verify.json").write_text(json.dumps(made))


def local(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def publish(model, *flags, repo="owner/tiny"):
    return main(["publish", str(model.parent), "--repo-id", repo, *flags])


def writes(hub):
    return [request for request in hub.requests if request.method not in ("GET", "HEAD")]


def test_a_space_is_made_beside_the_model(hub, model, capsys):
    (model / "config.json").write_text('{"architecture": "resnest14d", "num_classes": 3}')
    certify(model)
    folder = model.parent / "space"
    assert publish(model, "--space", "--dry-run") == 0
    assert f"dry run: a Space would be in {folder}" in capsys.readouterr().out
    assert not folder.exists()
    assert publish(model, "--space") == 0
    said = capsys.readouterr().out
    assert f"hf upload owner/tiny {folder} . --type space" in said
    assert {path.name for path in folder.iterdir()} == {"app.py", "requirements.txt", "README.md"}
    assert "3 classes" in (folder / "README.md").read_text()
    assert [request.path for request in writes(hub) if "space" in request.path] == []


def test_a_run_becomes_one_commit_and_then_nothing(hub, model, capsys):
    (model / "config.json.part").write_text("half")
    assert publish(model) == 0
    said = capsys.readouterr().out
    assert f"published: {hub.endpoint}/owner/tiny at commit {hub.head('owner/tiny').sha[:12]}" in said
    assert LINE in said
    assert re.search(r"new +5.0 kB  model.safetensors", said)
    del (expected := local(model))["config.json.part"]
    assert hub.files("owner/tiny") == expected | {".gitattributes": b""}
    assert len(hub.repositories()["owner/tiny"].commits) == 2  # the Hub's own first one, and ours
    assert hub.head("owner/tiny").files["model.safetensors"].large
    assert not hub.repositories()["owner/tiny"].private
    hub.requests.clear()
    assert publish(model) == 0
    assert "already published" in capsys.readouterr().out
    assert not writes(hub)


def test_what_an_earlier_publication_made_goes_and_the_rest_stays(hub, model, capsys):
    theirs = {"LICENSE": b"MIT", "model.onnx": b"\0theirs", "notes/figures/a.png": b"\0"}
    hub.add_model("owner/tiny", theirs)
    (model / "model.onnx").unlink()
    certify(model)
    publish(model)
    assert re.search(r"kept +model.onnx \(not of this run\)", capsys.readouterr().out)
    assert hub.files("owner/tiny") == theirs | local(model)
    exported = ("model.xml", "model.bin")
    for name in exported:
        (model / name).write_bytes(os.urandom(30))
    certify(model)
    publish(model)
    assert hub.files("owner/tiny").keys() >= set(exported)
    for path in ("figures/confusion.png", *exported):
        (model / path).unlink()
    certify(model)
    (model / "figures/curves.png").write_bytes(b"\x89PNG\0 2")
    publish(model)
    assert re.search(r"deleted +figures/confusion.png \(of an earlier publication\)", capsys.readouterr().out)
    assert hub.files("owner/tiny") == {"LICENSE": b"MIT", "notes/figures/a.png": b"\0"} | local(model)


def test_a_dry_run_says_all_and_writes_nothing(hub, model, capsys):
    assert publish(model, "--dry-run", "--private", "--revision", "dev") == 0
    said = capsys.readouterr().out
    assert "owner/tiny/tree/dev (private, new; branch dev, new)" in said
    assert all(f"  {path}\n" in said for path in local(model))
    assert "nothing was written" in said
    assert not writes(hub)
    assert not hub.repositories()


def test_a_dry_run_needs_no_token_and_asks_as_nobody(hub, model, monkeypatch, capsys):
    hub.add_model("owner/tiny", {"config.json": b"{}", "a.txt": b"a"})
    before = hub.head("owner/tiny").sha
    monkeypatch.delenv("HF_TOKEN")
    assert publish(model, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "no token: a private repository looks as if there were none" in said
    assert re.search(r"changed +\S+ \S+  config.json", said)
    assert re.search(r"kept +a.txt", said)
    assert "dry run: nothing was written" in said
    assert [request.method for request in hub.requests] == ["GET"] * len(hub.requests) != []
    assert not [request for request in hub.requests if "whoami" in request.path]
    assert hub.head("owner/tiny").sha == before
    assert publish(model) == 2  # what writes still wants one
    assert "no token: publishing to owner/tiny needs one" in capsys.readouterr().err


def test_a_branch_is_made_and_takes_the_commit(hub, model, capsys):
    hub.add_model("owner/tiny", {"a.txt": b"a"})
    assert publish(model, "--revision", "v2") == 0
    assert 'hf-hub:owner/tiny@v2"' in capsys.readouterr().out
    assert hub.files("owner/tiny") == {"a.txt": b"a"}
    assert hub.files("owner/tiny", revision="v2") == local(model) | {"a.txt": b"a"}
    assert publish(model, "--revision", "v2") == 0
    assert "already published" in capsys.readouterr().out
    hub.add_model("owner/full", model)
    assert publish(model, "--revision", "v3", repo="owner/full") == 0
    assert hub.head("owner/full", revision="v3") == hub.head("owner/full")


def test_private_is_for_new_repositories(hub, model, capsys):
    publish(model, "--private", repo="owner/secret")
    assert hub.repositories()["owner/secret"].private
    hub.add_model("owner/tiny", {})
    publish(model, "--private")
    assert "this one exists and stays public" in capsys.readouterr().out
    assert not hub.repositories()["owner/tiny"].private


WRITER = {"role": "write"}
SCOPED = {"entity": {"type": "user", "name": "ann"}, "permissions": ["repo.content.read", "repo.write"]}
READS = {"entity": {"type": "user", "name": "ann"}, "permissions": ["repo.content.read"]}
OTHER = {"entity": {"type": "model", "name": "ann/other"}, "permissions": ["repo.write"]}


def fine_grained(*scopes):
    return {"role": "fineGrained", "fineGrained": {"global": [], "scoped": list(scopes)}}


@pytest.mark.parametrize(
    ("repo", "orgs", "token", "message"),
    [
        ("ann/m", {}, {"role": "read"}, "the token of ann may only read: make one that may write at http"),
        ("bob/m", {"lab": "write"}, WRITER, "the token is that of ann and of lab, which cannot publish to bob/: give"),
        ("lab/m", {"lab": "read"}, WRITER, "ann has the role 'read' in lab"),
        ("ann/m", {}, fine_grained(READS, OTHER), "the fine-grained token of ann may not write to ann/m"),
        ("ann/m", {}, fine_grained(SCOPED), None),
        ("ann/other", {}, fine_grained(OTHER), None),
        ("ann/m", {}, {"role": "fineGrained", "fineGrained": {"global": ["repo.write"], "scoped": []}}, None),
        ("lab/m", {"lab": "contributor"}, WRITER, None),
        ("ann/m", {}, {"role": "something new"}, None),
    ],
)
def test_permission_is_checked_before_anything_is_written(hub, monkeypatch, repo, orgs, token, message):
    hub.add_account("hf_ann", Account("ann", orgs, token))
    monkeypatch.setenv("HF_TOKEN", "hf_ann")
    if message is None:
        cards.check_publishing(repo)
    else:
        with pytest.raises(cards.PublishError, match=re.escape(message)):
            cards.check_publishing(repo)
    assert [request.path for request in hub.requests] == ["/api/whoami-v2"]


@pytest.mark.parametrize("repo", ["tiny", "a/b/c", "/x", "owner/", "owner/a--b", "owner/.x", "owner/ti ny"])
def test_a_name_is_checked_before_anything_is_asked(hub, model, capsys, repo):
    assert publish(model, repo=repo) == 2
    assert repo in capsys.readouterr().err
    assert not hub.requests


def test_a_commit_is_no_branch(hub, model, capsys):
    assert publish(model, "--revision", "0" * 40) == 2
    assert "--revision must be a branch" in capsys.readouterr().err


def test_tokens_that_are_missing_or_wrong(hub, model, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_forgotten")
    assert publish(model) == 2
    assert "the token of HF_TOKEN is not valid (401)" in (said := capsys.readouterr().err)
    assert "hf_forgotten" not in said
    monkeypatch.delenv("HF_TOKEN")
    assert publish(model) == 2
    assert re.search("no token: .* HF_TOKEN", capsys.readouterr().err)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert publish(model) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err


STAGES = ["whoami", "models/owner/tiny$", "repos/create", "preupload", "objects/batch", "lfs-storage", "lfs-verify"]
STAGES += ["/commit/"]


def stage_of_new_repository(stage):
    return stage not in ("models/owner/tiny$",)


@pytest.mark.parametrize("status", [401, 403, 429, 503])
@pytest.mark.parametrize("stage", STAGES)
def test_a_lasting_failure_leaves_the_hub_as_it_was(hub, model, sleeps, capsys, stage, status):
    fault = hub.fault(stage, status=status, times=99)
    assert publish(model) == 2
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, err
    assert str(status) in errors[0]
    assert TOKEN not in out + err
    assert not hub.repositories()
    assert 99 - fault.left <= 30
    assert sum(sleeps) < 300
    fault.left = 0
    assert publish(model) == 0
    assert hub.files("owner/tiny") == local(model) | {".gitattributes": b""}


@pytest.mark.parametrize("stage", STAGES)
def test_a_busy_hub_is_asked_again(hub, model, sleeps, stage):
    hub.add_model("owner/tiny", {})
    if stage == "repos/create":
        stage = "/branch/"
    fault = hub.fault(stage, status=429, times=2, headers={"Retry-After": "7"})
    assert publish(model, "--revision", "dev") == 0
    assert fault.left == 0
    assert sleeps == [8, 8]
    assert len(hub.repositories()["owner/tiny"].commits) == 2


def test_a_hub_that_asks_for_an_hour_is_left_alone(hub, model, sleeps, capsys):
    hub.fault("whoami", status=429, headers={"Retry-After": "3600"}, times=9)
    assert publish(model) == 2
    assert "too many requests (429): try again in 3600 s" in capsys.readouterr().err
    assert not sleeps


@pytest.mark.parametrize("fault", [{"status": 504, "after": True}, {"cut_after": 0}])
def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub, model, sleeps, fault, capsys):
    hub.fault("/commit/", method="POST", **fault)
    assert publish(model) == 0
    assert "published" in capsys.readouterr().out
    assert len(hub.repositories()["owner/tiny"].commits) == 2
    assert sum("/commit/" in request.path for request in hub.requests) == 1
    assert not sleeps


def test_two_at_once_conflict(hub, model, monkeypatch):
    hub.add_model("owner/tiny", {"a.txt": b"a"})
    api, target = cards.check_publishing("owner/tiny"), remote.Target("owner/tiny")
    wanted = remote.plan(api, target, {"README.md": model / "README.md"})
    hub.add_model("owner/tiny", {"README.md": b"theirs"})
    with pytest.raises(cards.PublishError, match="somebody has committed to owner/tiny in the meantime"):
        push.push(api, target, wanted, "Publish")
    assert hub.files("owner/tiny") == {"README.md": b"theirs"}
    # After our last look only the Hub can tell, by the parent that the commit names.
    monkeypatch.setattr(remote, "head", lambda api, target: wanted.parent)
    with pytest.raises(cards.PublishError, match="somebody has committed"):
        push.push(api, target, wanted, "Publish")
    assert hub.files("owner/tiny") == {"README.md": b"theirs"}


def test_a_repository_that_somebody_else_made_meanwhile_is_not_touched(hub, model):
    api, target = cards.check_publishing("owner/tiny"), remote.Target("owner/tiny")
    wanted = remote.plan(api, target, {"README.md": model / "README.md"})
    hub.add_model("owner/tiny", {"README.md": b"theirs"})
    with pytest.raises(cards.PublishError, match="in the meantime"):
        push.push(api, target, wanted, "Publish")
    assert hub.files("owner/tiny") == {"README.md": b"theirs"}


def test_a_branch_made_in_vain_goes_again(hub, model):
    hub.add_model("owner/tiny", {"a.txt": b"a"})
    hub.fault("/commit/", status=403, times=9)
    assert publish(model, "--revision", "dev") == 2
    assert list(hub.repositories()["owner/tiny"].branches) == ["main"]


def test_a_connection_that_breaks_while_taking_back_is_tried_again(hub, model, monkeypatch, sleeps):
    """The commit's refusal, which is being handled then, is not what broke it."""
    delete, broken = HfApi.delete_repo, [patience.TransportError("cut")]

    def breaking(*args, **kwargs):
        if broken:
            raise broken.pop()
        return delete(*args, **kwargs)

    monkeypatch.setattr(HfApi, "delete_repo", breaking)
    hub.fault("/commit/", status=403, times=9)
    assert publish(model) == 2
    assert sleeps == [1]
    assert "owner/tiny" not in hub.repositories()


def test_what_cannot_be_taken_back_is_said(hub, model, capsys):
    hub.fault("/commit/", status=500, times=99)
    hub.fault("repos/delete", status=403, times=99)
    assert publish(model) == 2
    said = capsys.readouterr().err
    assert f"The repository that was made for it is left without the model: {hub.endpoint}/owner/tiny" in said


def test_a_commit_without_the_weights_is_noticed(hub, model, capsys):
    hub.add_model("owner/tiny", {".gitignore": b"model.safetensors\n"})
    assert publish(model) == 2
    assert re.search("does not hold all files .* .gitignore", capsys.readouterr().err)


def test_a_space_goes_the_same_way(hub, tmp_path):
    (tmp_path / "app.py").write_text("print()")
    api, target = cards.check_publishing("owner/app"), remote.Target("owner/app", "space", space_sdk="gradio")
    push.push(api, target, remote.plan(api, target, {"app.py": tmp_path / "app.py"}), "Publish")
    assert hub.files("owner/app", kind="space")["app.py"] == b"print()"
    assert target.url == f"{hub.endpoint}/spaces/owner/app"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: (m / "README.md").unlink(), "has no README.md; `python -m cards build"),
        (lambda m: (m / "model.safetensors").unlink(), "has no model.safetensors; give a finished run"),
        (lambda m: (m / "verify.json").unlink(), "has no certificate"),
        (lambda m: (m / "model.safetensors").write_bytes(b"other"), "is not the file that was verified"),
        (lambda m: (m / "figures/a.csv").write_text(f"x,{TOKEN}"), "figures/a.csv has a token in it"),
        (lambda m: (m / "README.md").write_text("hf_" + "aB3" * 10), "README.md has a token in it"),
    ],
)
def test_only_a_complete_and_verified_folder_is_published(hub, model, capsys, spoil, message):
    spoil(model)
    assert publish(model) == 2
    said = capsys.readouterr().err
    assert message in said
    assert TOKEN not in said
    assert not hub.requests


def test_a_token_in_the_address_is_refused_and_not_shown(hub, model, monkeypatch, capsys):
    address = hub.endpoint.replace("http://", "http://me:s3cret-token@")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    assert publish(model) == 2
    said = capsys.readouterr().err
    assert "which the client sends instead of your token" in said
    assert "s3cret" not in said


def test_tokens_are_masked_wherever_they_come_from(hub, monkeypatch, tmp_path, capsys):
    stored = tmp_path / "token"
    stored.write_text("hf_storedToken\n")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(stored))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://me:p%40ssword@hub.example")
    text = f"{TOKEN} hf_storedToken https://me:p%40ssword@hub.example/x p@ssword hf_{'Q1w' * 11} hf_hub_download"
    assert cards.redact(text) == "*** *** https://***@hub.example/x *** *** hf_hub_download"
    cards.guard()
    log = logging.getLogger("somebody.else")
    with_handler = logging.StreamHandler(sys.stderr)
    log.addHandler(with_handler)
    log.warning("GET %s", f"https://hub.example/?t={TOKEN}")
    log.removeHandler(with_handler)
    try:
        raise RuntimeError(f"Bearer {TOKEN}")
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    said = capsys.readouterr().err
    assert "GET https://hub.example/?t=***" in said
    assert "RuntimeError: Bearer ***" in said
    assert TOKEN not in said


def test_help_holds_no_token(hub, capsys):
    with pytest.raises(SystemExit):
        main(["publish", "--help"])
    said = capsys.readouterr().out
    assert "--repo-id OWNER/NAME" in said
    assert TOKEN not in said


# --- what goes, and what does not ------------------------------------------------------------------------------------


def test_only_the_files_of_a_model_go_and_the_others_are_named(hub, model, tmp_path, capsys):
    (tmp_path / "elsewhere.txt").write_text("private")
    for name in ("train.log", "id_rsa", "notes.md", "figures/extra.svg"):
        (model / name).write_text("private")
    (model / "figures/link.png").symlink_to(tmp_path / "elsewhere.txt")
    (model / "more").symlink_to(tmp_path)
    assert publish(model) == 0
    said = capsys.readouterr().out
    names = "figures/extra.svg, figures/link.png, id_rsa, more, notes.md, train.log"
    assert f"left out: {names}: no files of a model, or links; --add NAME publishes a file all the same" in said
    assert b"private" not in b"".join(hub.files("owner/tiny").values())
    assert publish(model, "--add", "notes.md") == 0
    assert hub.files("owner/tiny")["notes.md"] == b"private"


@pytest.mark.parametrize("name", ["model.safetensors", "README.md"])
def test_a_link_in_the_place_of_a_file_is_refused(hub, model, tmp_path, capsys, name):
    (model / name).rename(tmp_path / "elsewhere")
    (model / name).symlink_to(tmp_path / "elsewhere")
    assert publish(model) == 2
    assert f"{model / name} is a link, or no file of the model's folder" in capsys.readouterr().err
    assert publish(model, "--add", "none.txt") == 2
    assert writes(hub) == []


@pytest.mark.parametrize(
    "secret",
    [
        "ghp_" + "a1" * 18,
        "github_pat_" + "a1" * 32,
        "AKIA" + "A1" * 8,
        "AIza" + "a" * 35,
        "sk-proj-" + "a1" * 20,
        "xoxb-" + "1" * 12,
        "eyJ" + "a" * 12 + ".eyJ" + "b" * 12 + "." + "c" * 12,
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ],
)
def test_secrets_of_known_shapes_are_not_published(hub, model, capsys, secret):
    (model / "figures/per_class.csv").write_text(f"class,f1\n{secret},1\n")
    assert publish(model) == 2
    err = capsys.readouterr().err
    assert "per_class.csv has a token in it (or a word that looks like one)" in err
    assert secret not in err
    assert writes(hub) == []


@pytest.mark.slow(seconds=20)
@pytest.mark.parametrize("write", range(1, 6))
def test_a_kill_in_the_middle_is_mended_by_the_same_command(hub, model, tmp_path, write):
    """Whatever had been sent, the repository then holds the model once, in one commit on the one it began with."""
    command = [sys.executable, "-m", "cards", "publish", str(model.parent), "--repo-id", "owner/tiny"]
    environment = hub.environment(tmp_path / "home") | {"HF_TOKEN": TOKEN}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while child.poll() is None and len(writes(hub)) < write:
            pass
        child.kill()
    stopped = len(writes(hub))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert stopped >= write
    there = hub.files("owner/tiny")
    wanted = local(model)
    assert set(there) - {".gitattributes"} == set(wanted)
    assert all(there[name] == wanted[name] for name in wanted if name != "README.md")
    assert "published" in done.stdout
    commits = [r for r in writes(hub) if "/commit/" in r.path]
    assert len(commits) <= 2
