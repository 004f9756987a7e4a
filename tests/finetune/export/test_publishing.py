"""`--publish`: refused early where it cannot work, and never at the cost of a finished run."""

import logging
import shlex

import huggingface_hub.constants
import pytest
from huggingface_hub.utils import close_session

from finetune import console
from finetune.cli import main as cli_main
from finetune.errors import ConfigError
from finetune.export import publishing
from finetune.runs import runfolder
from finetune.settings.config import RunConfig
from tests.hub_standin import STRANGER_TOKEN, TOKEN, HubStandIn

ARGUMENTS = ["--model", "resnest14d", "--dataset", "nowhere/nothing"]


@pytest.fixture
def hub(monkeypatch):
    with HubStandIn() as standin:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", standin.endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.delenv("FINETUNE_VERIFY")
        yield standin
        close_session()


@pytest.fixture
def said(monkeypatch):
    """What the run logs."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    monkeypatch.setattr(publishing.log, "handlers", [handler])
    monkeypatch.setattr(publishing.log, "level", logging.INFO)
    return lines


def config(**values):
    return RunConfig(model="resnest14d", dataset="digits", **{"publish": "owner/tiny", **values}).resolved()


def test_what_cannot_be_published_is_refused_before_anything_is_read(hub, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)

    def refusal(*flags):
        assert cli_main([*ARGUMENTS, "--publish", *flags]) == 2
        return capsys.readouterr().err

    assert "--publish: expected a repository as OWNER/NAME, got 'tiny'" in refusal("tiny")
    assert "--publish: the token is that of owner, which cannot publish to bob/" in refusal("bob/tiny")
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    assert "the token of HF_TOKEN is not valid (401)" in (text := refusal("owner/tiny"))
    assert "hf_unknown" not in text
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("FINETUNE_VERIFY", "0")
    assert "unset FINETUNE_VERIFY, or leave out --publish" in refusal("owner/tiny")
    assert cli_main([*ARGUMENTS, "--private"]) == 2
    assert "--private needs --publish OWNER/NAME" in capsys.readouterr().err
    assert {request.path for request in hub.requests} == {"/api/whoami-v2"}
    assert not list(tmp_path.iterdir())


def test_only_the_first_process_asks(hub, monkeypatch, said, tmp_path):
    monkeypatch.setenv("RANK", "1")
    publishing.check(config(publish="no name"))
    publishing.publish(config(), tmp_path)
    assert not said
    assert not hub.requests


def test_a_failed_push_is_a_warning_with_the_command(hub, monkeypatch, said, tmp_path):
    run = tmp_path / "my run"
    (run / "model").mkdir(parents=True)
    publishing.publish(config(private=True), run)
    assert said[0].startswith("warning: the run is complete, but not published: ")
    assert "is not ready to be published" in said[0]
    command = said[1].removeprefix("publish it by `").removesuffix("`")
    words = ["python", "-m", "cards", "publish", str(run), "--repo-id", "owner/tiny", "--private"]
    assert shlex.split(command) == words
    for error, reason in [(KeyboardInterrupt(), "it was stopped"), (RuntimeError("a bug"), "a bug")]:
        said.clear()

        def fail(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(publishing.cards, "publish", fail)
        publishing.publish(config(), run)
        assert said[0].endswith(f"not published: {reason}")


def test_a_stranger_is_told_by_the_hub_itself(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", STRANGER_TOKEN)
    with pytest.raises(ConfigError, match="the token is that of stranger, which cannot publish to owner/"):
        publishing.check(config())


def test_where_a_run_goes_is_not_in_its_settings(tmp_path):
    settings = runfolder.settings_of(config(private=True, output=tmp_path))
    assert {"publish", "private", "output", "resume"}.isdisjoint(settings)


def test_errors_and_tracebacks_of_the_command_line_hold_no_token(hub, monkeypatch, capsys):
    word = "hf_" + "Ab1" * 11
    assert cli_main(["--model", word, "--dataset", "digits"]) == 2
    assert cli_main(["--model", "resnest14d", "--dataset", f"/x?{TOKEN}"]) == 2
    said = capsys.readouterr().err
    assert said.count("***") == 2
    assert word not in said
    assert TOKEN not in said
    assert console.without_tokens("http://me:pass@host/x") == "http://***@host/x"
    assert console.without_tokens(f"no {'api_org_' + 'Ab1' * 9}") == "no ***"
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "another-token")
    assert console.without_tokens("no another-token") == "no ***"
