"""What strangers pick a project up by: files that say how, and that still say what is true."""

import re
import sys
import tomllib
from importlib.metadata import version

import pytest
import yaml

import resnest_timm
from tests.examples import ROOT
from tests.test_structure import WINGS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


# --- the version -----------------------------------------------------------------------------------------------------


def test_the_version_stands_in_one_place():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert "version" not in PROJECT["project"]
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", resnest_timm.__version__)
    assert version("resnest-timm") == resnest_timm.__version__, "installed before the version was changed: make clean"


def test_the_changelog_goes_by_release():
    found = re.findall(r"^## (.+)$", text("CHANGELOG.md"), re.MULTILINE)
    assert found[0] == "Unreleased"
    releases = [re.fullmatch(r"(\d+)\.(\d+)\.(\d+)( \(\d{4}-\d\d-\d\d\))?", heading) for heading in found[1:]]
    assert all(releases), found
    numbers = [tuple(int(part) for part in match.groups()[:3]) for match in releases]
    assert numbers == sorted(set(numbers), reverse=True)
    assert found[1].split()[0] == resnest_timm.__version__


def test_the_citation_is_that_of_this_version_and_of_the_paper():
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)  # what the format requires
    assert citation["version"] == resnest_timm.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert (paper["title"], paper["year"]) == ("ResNeSt: Split-Attention Networks", 2022)
    assert paper["url"] in text("resnest_timm/resnest.py")


def test_classifiers_name_this_python_and_the_oldest_supported_one():
    supported = [
        match[1]
        for line in PROJECT["project"]["classifiers"]
        if (match := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line))
    ]
    assert supported[0] == PROJECT["project"]["requires-python"].removeprefix(">=")
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in supported


# --- how to take part ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "examples/README.md", "CHANGELOG.md"])
def test_links_and_paths_lead_somewhere(name):
    folder = (ROOT / name).parent
    for target in re.findall(r"\]\(([^)#:]+)\)", text(name)):
        assert (folder / target).exists(), target
    for path in re.findall(r"`((?:finetune|cards|resnest_timm|tests|docs|examples|\.ci)/[\w./]*)`", text(name)):
        assert (ROOT / path).exists(), path


def test_contributing_has_the_wings_in_their_order():
    section = text("CONTRIBUTING.md").split("## The wings")[1].split("\n## ")[0]
    found = re.findall(r"^\| `(\w+)(?:/|\.py)`", section, re.MULTILINE)
    assert [name if name != "errors" else "" for name in found] == list(WINGS)


def test_contributing_names_targets_that_exist():
    targets = {
        word for line in re.findall(r"\bmake\s+([a-z][a-z -]*)", text("CONTRIBUTING.md")) for word in line.split()
    }
    known = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    assert {"test", "check", "help", "test-slow", "test-pythons", "clean"} <= targets & known


def test_commits_are_checked_by_what_make_check_runs():
    """By the tools in .venv: another place with their versions would drift."""
    config = yaml.safe_load(text(".pre-commit-config.yaml"))
    (repo,) = config["repos"]
    assert repo["repo"] == "local"
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}
    entries = [hook["entry"].replace(" --force-exclude", "") for hook in repo["hooks"]]
    recipe = text("Makefile").split("\ncheck:")[1].split("\n\n")[0]
    assert entries == [line.removesuffix(" .") for line in re.findall(r"^\t@(\.venv/bin/.*)$", recipe, re.MULTILINE)]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_are_forms(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(form)
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in fields}) == len(fields) > 2
    for part in fields:
        assert part["type"] in ("input", "textarea", "dropdown", "checkboxes")
        assert part["attributes"]["label"]
    assert any(part.get("validations", {}).get("required") for part in fields)


def test_a_bug_report_has_what_is_needed_to_repeat_it():
    asked = text(".github/ISSUE_TEMPLATE/bug.yml")
    for word in ("Versions", "Command", "config.yaml", "result.json"):
        assert re.search(rf"label: .*{re.escape(word)}", asked), word


def test_security_says_what_the_code_does():
    """Words of the code that its promises rest on."""
    for path in ("finetune/training/checkpoint_io.py", "resnest_timm/convert/checkpoint_file.py"):
        assert "weights_only=True" in text(path)
    code = "".join(
        path.read_text(encoding="utf-8") for name in ("finetune", "cards") for path in (ROOT / name).rglob("*.py")
    )
    assert not re.search(r"trust_remote_code|weights_only=False|yaml\.(unsafe_)?load\(|allow_pickle=True", code)
    (datasets,) = (line for line in PROJECT["project"]["dependencies"] if line.startswith("datasets"))
    assert datasets == "datasets>=4.0"
