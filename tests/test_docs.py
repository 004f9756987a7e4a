"""README and docs/: each block is run or says why not, links and paths lead somewhere, flags and keys are there."""

import ast
import contextlib
import dataclasses
import importlib.util
import io
import os
import re
import shlex
import signal
from pathlib import Path

import pytest

from cards.__main__ import _parser as cards_parser
from docs import pages, wings
from finetune import cli as command_line
from finetune import errors
from finetune.runs.runfolder import RunFolder
from finetune.settings.options import flag
from resnest_timm.__main__ import _parser as zoo_parser
from tests.cards.results import RESULT
from tests.examples import DOCUMENTS, ROOT, blocks
from tests.test_structure import PACKAGES, WINGS

BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
LINKED = [*DOCUMENTS, "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md", "examples/README.md"]

RUN_ELSEWHERE = {
    "docs/how-to/devices.md": "tests/test_clusters.py",
    "docs/how-to/compare.md": "tests/finetune/commands/trust/test_compare.py",
    "docs/how-to/reproduce.md": "tests/finetune/commands/trust/test_reproduce.py",
    "docs/how-to/robustness.md": "tests/finetune/commands/trust/test_weaknesses.py",
    "docs/how-to/sweep.md": "tests/finetune/commands/trust/test_sweep.py",
    "docs/how-to/streaming.md": "tests/test_clusters.py",
    "docs/how-to/downstream.md": "tests/downstream/test_document.py",
    "docs/how-to/segmentation.md: segmentation": "tests/finetune/tasks/segmentation/test_run.py",
    "docs/how-to/doctor.md": "tests/finetune/commands/trust/test_data_verbs.py",
    "docs/how-to/labels.md": "tests/finetune/commands/trust/test_data_verbs.py",
    "docs/how-to/probe.md": "tests/finetune/commands/trust/test_data_verbs.py",
    "docs/how-to/probe.md: training curve": "tests/finetune/commands/test_shares.py",
    "docs/how-to/resume.md: resume": "tests/finetune/commands/test_resume.py",
    "docs/how-to/resume.md: torchrun": "tests/finetune/training/test_launch.py",
    "docs/how-to/resume.md: slurm": "tests/test_clusters.py",
    "docs/how-to/python.md": "tests/test_docs_examples.py",
    "docs/reference/zoo.md: zoo": "tests/resnest_timm/zoo/test_zoo.py",
    "docs/reference/zoo.md: convert": "tests/resnest_timm/convert/test_convert.py",
    "docs/reference/zoo.md: torch.hub": "tests/resnest_timm/test_hubconf.py",
    "README.md: demo": "tests/finetune/commands/test_demo.py",
    "docs/tutorial.md: demo": "tests/finetune/commands/test_demo.py",
    "docs/how-to/predict.md: demo": "tests/finetune/commands/test_demo.py",
}
"""Examples that other tests run, one by one or a whole page; all others are run by tests/test_docs_examples.py."""
NOT_RUN = {
    "README.md: make": "CI runs `make test`, of which this is, and a whole `make demo` takes minutes",
    "docs/tutorial.md: install": "needs a package index",
    "docs/how-to/evaluate.md: evaluate a model": "needs ImageNet and weights of the Hub",
    "docs/how-to/predict.md: predict a dataset": "needs a dataset of the Hub",
    "docs/how-to/publish.md: train and publish": "needs a dataset of the Hub; test_hub.py does it against a stand-in",
    "docs/how-to/detection.md: train": "takes long at its defaults; tests/finetune/tasks/detection has small ones",
    "README.md: verbs": "data and weights that are not in the project; tests/finetune/commands/trust has small ones",
    "docs/how-to/segmentation.md: nuclei": "a dataset and weights that are not in the project",
    "docs/how-to/detection.md: cells": "a dataset and weights that are not in the project",
    "docs/how-to/detection.md: nuclei": "a dataset and weights that are not in the project",
    "docs/how-to/detection.md: coco": "needs COCO and days; tests/finetune/settings/test_recipe.py has its settings",
    "docs/how-to/detection.md: use": "needs the run above; tests/finetune/tasks/detection has small ones",
    "docs/how-to/detection.md: onnx": "needs the run above; tests/finetune/tasks/detection/test_run.py has small ones",
    "docs/how-to/imagenet.md: recipe": "needs ImageNet and weeks; test_recipe.py takes two steps per family",
    "docs/how-to/imagenet.md: prepare": "needs the original tars; tests/finetune/imagenet has small ones like them",
}
"""Examples that cannot run here, with the reason; their flags are parsed all the same."""


def key(block):
    return f"{block.document}: {block.name}"


def run_here():
    elsewhere = RUN_ELSEWHERE.keys() | NOT_RUN.keys()
    code = [block for block in BLOCKS if block.language != "text"]
    return [block for block in code if not {block.document, key(block)} & elsewhere]


def test_every_block_is_run_or_says_why_not():
    for block in BLOCKS:
        if block.language == "text":  # a drawing or an output
            assert not re.search(r"^(python|pip|make|torchrun) ", block.code, re.MULTILINE), key(block)
        else:
            assert block.language in ("sh", "python", "yaml"), key(block)
            assert block.name, f"{block.document}: a block without `<!-- example: name -->`:\n{block.code}"
    keys = [key(block) for block in BLOCKS if block.name]
    assert len(keys) == len(set(keys))
    known = {*keys, *DOCUMENTS}
    assert RUN_ELSEWHERE.keys() | NOT_RUN.keys() <= known, "a table names what is not there"
    assert not RUN_ELSEWHERE.keys() & NOT_RUN.keys()
    assert all((ROOT / path).is_file() for path in RUN_ELSEWHERE.values())
    assert len(run_here()) > 20


def commands():
    for block in BLOCKS:
        if block.language == "sh":
            for line in block.code.replace("\\\n", " ").splitlines():
                yield block, line


def parsed(module, words):
    """What a command's parser makes of its words; raises or exits where that does not understand them."""
    if module == "finetune":
        verb, arguments = command_line._split_verb(words)
        if verb == "train":
            return command_line.parse_train(arguments)
        return command_line.parse(pages.options_of(verb), arguments, prog=verb)
    return {"cards": cards_parser, "resnest_timm": zoo_parser}[module]().parse_args(words)


def test_every_command_is_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("RUN").mkdir()
    Path("RUN/config.yaml").write_text("model: resnest50\ndataset: digits\n")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    seen = 0
    for block, line in commands():
        words = shlex.split(line, comments=True)
        if words[:2] == ["python", "-m"]:
            parsed(words[2], words[3:])
            seen += 1
        elif words[:1] == ["make"]:
            assert f"\n{words[1]}:" in makefile, key(block)
    assert seen > 30


def test_extras_and_targets_that_are_named_exist():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for document in LINKED:
        text = (ROOT / document).read_text(encoding="utf-8")
        for extras in re.findall(r"resnest-timm\[([a-z,-]+)\]|'\.\[([a-z,-]+)\]'", text):
            for extra in ",".join(filter(None, extras)).split(","):
                assert re.search(rf"^{extra} = \[", project, re.MULTILINE), f"{document}: {extra}"
        for target in re.findall(r"`make ([a-z-]+)`", text):
            assert f"\n{target}:" in makefile, f"{document}: {target}"


def test_flags_that_are_named_exist():
    known = {"--help"}
    for verb in command_line.VERBS:
        known |= set(re.findall(r"--[a-z][a-z0-9-]+", help_of(verb)))
    for parser in (cards_parser(), zoo_parser()):
        verbs = next(action for action in parser._actions if action.choices)
        for verb in verbs.choices.values():
            known |= {option for action in verb._actions for option in action.option_strings}
    for document in DOCUMENTS:
        text = re.sub(r"```.*?```", "", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL)
        prose = [
            code for code in re.findall(r"`([^`]+)`", text) if not re.match(r"(srun|SLURM|python benchmarks)", code)
        ]
        named = {name for code in prose for name in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", code.replace("_", "-"))}
        foreign = {"--x", "--no-x", "--cpus-per-task", "--clock"}  # of nobody, of srun, of a benchmark
        assert named - known - foreign == set(), document


# --- the README -------------------------------------------------------------------------------------------------------


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert text.count("![") == 1


def test_measured_numbers_have_their_command():
    """A table of results without the command that makes it would be a claim."""
    text = (ROOT / "docs/explanation/measured.md").read_text(encoding="utf-8")
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        assert "python -m finetune" in section, section
    for document in DOCUMENTS:
        for picture in re.findall(r"images/([\w-]+\.png)", (ROOT / document).read_text(encoding="utf-8")):
            assert picture in text, f"{picture}: its command stands in measured.md"


# --- links and paths --------------------------------------------------------------------------------------------------


def anchors(text):
    """Of each heading, as GitHub and the site make it."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", LINKED)
def test_relative_links_lead_somewhere(document):
    text = re.sub(r"```.*?```", "", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text)):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        assert not path.startswith("/"), target
        place = (ROOT / document).parent / path if path else ROOT / document
        assert place.is_file(), f"{document}: {target}"
        if anchor:
            assert anchor in anchors(place.read_text(encoding="utf-8")), f"{document}: {target}"


@pytest.mark.parametrize("document", [name for name in LINKED if name != "CHANGELOG.md"])  # which tells of what was
def test_paths_and_modules_that_are_named_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for path in re.findall(
        r"\b((?:finetune|cards|resnest_timm|tests|benchmarks|docs|examples)/[\w./-]*\w(?:\.\w+)?/?)", text
    ):
        assert (ROOT / path).exists(), f"{document}: {path}"
    for name in re.findall(rf"\b((?:{'|'.join(PACKAGES)})(?:\.[a-z_]\w*)+(?:\.\w+)*)", text):
        assert name.endswith((".md", ".py", ".yaml", ".json")) or exists(name), f"{document}: {name}"


def exists(name):
    """Whether there is such a module, or such a name in it; nothing is imported."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:count])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if file.is_file():
            deeper = len(parts) > count + 1  # a method's class, not a function that has the name of an old module
            return count == len(parts) or (parts[count] in names_in(file) and (not deeper or parts[count][0].isupper()))
    return False


def names_in(file):
    """What a module defines, assigns or imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


def test_the_finder_of_names_finds_and_does_not():
    there = ["finetune", "finetune.run", "finetune.serving.predictor.Predictor", "cards.page", "resnest_timm.optimize"]
    assert [name for name in there if not exists(name)] == []
    gone = ["finetune.flow", "finetune.serving.predictor.Nobody", "cards.render.build", "resnest_timm.nothing"]
    assert [name for name in gone if exists(name)] == []


@pytest.mark.parametrize("suffix", [".py", ".yaml", ".toml"])
def test_pages_that_the_code_names_exist(suffix):
    places = [path for name in (*PACKAGES, "tests", "benchmarks") for path in (ROOT / name).rglob(f"*{suffix}")]
    for path in {*places, *ROOT.glob(f"*{suffix}")} - {Path(__file__)}:
        for page in re.findall(r"\bdocs/[\w/-]+\.md", path.read_text(encoding="utf-8")):
            assert (ROOT / page).is_file(), f"{path.relative_to(ROOT)}: {page}"


# --- architecture -----------------------------------------------------------------------------------------------------


def test_the_wings_are_those_of_the_code_and_the_picture_is_drawn_from_them():
    rows = wings.wings(wings.PAGE.read_text(encoding="utf-8"))
    assert [name for name, _ in rows] == [name or "the floor" for name in WINGS]
    assert wings.PICTURE.read_text(encoding="utf-8") == wings.draw(rows), "draw it again: python docs/wings.py"


@pytest.mark.parametrize("package", ["resnest_timm", "cards"])
def test_the_rooms_of_the_other_packages_are_named(package):
    text = wings.PAGE.read_text(encoding="utf-8").split(f"\n## {package}\n")[1].split("\n## ")[0]
    named = {
        name for row in re.findall(r"^\| (`.+?) \|", text, re.MULTILINE) for name in re.findall(r"`([\w./]+)`", row)
    }
    assert all((ROOT / package / name).exists() for name in named)
    folders = {path.parent.name + "/" for path in (ROOT / package).glob("*/__init__.py")}
    assert folders <= named


# --- reference --------------------------------------------------------------------------------------------------------


def help_of(verb):
    """What `--help` of a verb prints."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit):
        command_line.VERBS[verb](["--help"])
    return re.sub(r"\x1b\[[0-9;]*m", "", text.getvalue())


@pytest.mark.parametrize("verb", command_line.VERBS)
def test_the_page_of_flags_has_what_help_has(verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    section = pages.flags().split(f"## {verb}\n")[1].split("\n## ")[0]
    listed = set(re.findall(r"^\| `(--[\w-]+)`", section, re.MULTILINE))
    shown = {name for name in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+(?![a-z])", help_of(verb)) if name != "--help"}
    fields = {flag(f.name) for f in dataclasses.fields(pages.options_of(verb))}
    assert listed
    assert {name for name in shown if not name.startswith("--no-")} <= listed | {"--resume", "--dataset", "--output"}
    assert fields & listed or verb == "train"
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert all(re.fullmatch(r"\| `.+` \| .+ \| .+ \| \S.+ \|", row) for row in rows), "a flag without a sentence"


def test_defaults_on_the_page_of_flags():
    rows = dict(re.findall(r"^\| `(--[\w-]+)` \| [^|]+ \| ([^|]+) \|", pages.flags().split("\n## evaluate\n")[0], re.M))
    assert rows["--seeds"] == "`1`"
    assert rows["--pretrained"] == "on"
    assert rows["--streaming"] == "off"
    assert rows["--lr"] == "0.0005; from scratch 0.002; frozen 0.001"
    assert rows["--model"] == rows["--dataset"] == "required"


def test_the_public_names_are_all_on_their_page():
    for package in PACKAGES:
        module = importlib.import_module(package) if package != "resnest_timm" else None
        names = [name for name, _ in pages.public(package)]
        assert names
        if module:
            assert names == [name for name in module.__all__ if not name.startswith("__")]


def documented(document):
    """Names in backticks in the first column of a page's tables, by section."""
    found = {}
    for section in re.split(r"^## ", (ROOT / document).read_text(encoding="utf-8"), flags=re.MULTILINE):
        title = section.splitlines()[0].strip("`# ")
        rows = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
        found[title] = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    return found


def test_keys_of_the_result_are_documented():
    found = documented("docs/reference/result.md")
    top = {*found["result.json"], *found, "schema_version"}
    assert set(RESULT) <= top
    for section in ("model", "dataset", "evaluation"):
        assert set(RESULT[section]) <= found[section], section
    assert set(RESULT["metrics"]["test"]) <= found["metrics"]
    settings = {f.name for f in dataclasses.fields(command_line.RunConfig)}
    assert set(RESULT["training"]) <= found["training"] | settings


def test_files_of_a_run_are_documented():
    text = (ROOT / "docs/reference/run-folder.md").read_text(encoding="utf-8")
    folder = RunFolder(Path("RUN"))
    names = [name for name, value in vars(RunFolder).items() if isinstance(value, property)]
    paths = [getattr(folder, name) for name in names]
    for path in paths:
        if isinstance(path, Path) and path != folder.path:
            assert path.name in text, path


def test_exit_codes_are_documented():
    text = (ROOT / "docs/reference/exit-codes.md").read_text(encoding="utf-8")
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and hasattr(value, "exit_code")]
    piped = 128 + signal.SIGPIPE  # no error of ours: tests/finetune/commands/test_cli.py sees it
    assert listed == {0, 1, piped} | {kind.exit_code for kind in kinds}


# --- the site ---------------------------------------------------------------------------------------------------------


def test_every_page_is_in_the_navigation():
    named = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    placed = {document.removeprefix("docs/") for document in DOCUMENTS if document != "README.md"}
    assert named == placed | {place for place in pages.ELSEWHERE.values() if place.endswith(".md")}


def test_links_are_rewritten_for_where_a_page_stands_in_the_site():
    text = (
        "[a](docs/flags#z) [b](benchmarks/README.md) [c](#here) [d](https://example.org/a.md) ![e](docs/images/e.png)"
    )
    home = "[a](flags#z) [b](explanation/benchmarks.md) [c](#here) [d](https://example.org/a.md) ![e](images/e.png)"
    assert pages.relinked(text, "README.md", "index.md") == home
    text, source = "[a](../docs/x/y) [b](../README.md)", "benchmarks/README.md"
    assert pages.relinked(text, source, "explanation/benchmarks.md") == "[a](../x/y) [b](../index.md)"


@pytest.mark.slow(seconds=30)
def test_the_site_is_built_strictly_and_asks_nobody_for_anything(tmp_path):
    """As `make docs` does, in a copy."""
    pytest.importorskip("zensical", reason="needs the extra `docs`")
    import shutil
    import subprocess
    import sys

    for name in ("docs", *PACKAGES):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "CHANGELOG.md", "LICENSE", "mkdocs.yml", "benchmarks/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHONPATH"] = str(ROOT / "tests" / "no_network")
    for command in (["docs/pages.py"], ["-m", "zensical", "build", "--strict"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    pages_built = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    expected = {document.removeprefix("docs/").replace(".md", ".html") for document in DOCUMENTS[1:]}
    assert {"index.html", *expected} <= pages_built
    for path in (tmp_path / "site").rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        outside = re.findall(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)", text)
        assert [address for address in outside if "canonical" not in address] == [], path.name
        assert "<!-- generated" not in text
    flags_page = (tmp_path / "site/reference/flags.html").read_text(encoding="utf-8")
    assert "--layer-decay" in flags_page
    assert "split_preferences" in (tmp_path / "site/reference/api.html").read_text(encoding="utf-8")
