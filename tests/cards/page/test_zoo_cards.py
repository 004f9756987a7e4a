"""A card for every released checkpoint says what the zoo says, and nothing else."""

import dataclasses
import re
import shlex

import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image

import resnest_timm  # noqa: F401
from cards import CardError
from cards.__main__ import main
from cards.page import zoo
from finetune.cli import parse
from finetune.settings.verbs import EvaluateOptions
from resnest_timm import listing
from resnest_timm.__main__ import _parser
from resnest_timm.convert import names as convert
from resnest_timm.zoo.catalogue import CHECKPOINTS, Checkpoint, default_checkpoint
from tests.cards.results import code_of, tables, text_of, without_code

FIXED = {"32", "16", "8", "1", "1.0.31", "2004.08955", "5", "256", "0"}
"""Protocol, strides, top-1, timm's version, the paper, top-5, SHA-256, num_classes."""


@pytest.fixture(scope="module")
def rows():
    """As `cards` gets it: from the package, in a process of its own."""
    return zoo.rows()


@pytest.fixture
def known(rows, monkeypatch):
    """The zoo, without asking for it again."""
    monkeypatch.setattr(zoo, "rows", lambda: rows)
    return rows


def test_there_is_a_card_for_every_row(known, tmp_path, capsys):
    assert main(["zoo", "--output", str(tmp_path / "zoo")]) == 0
    assert capsys.readouterr().out == f"{len(CHECKPOINTS)} cards in {tmp_path}/zoo\n"
    names = [path.name for path in (tmp_path / "zoo").iterdir()]
    assert len(names) == len(CHECKPOINTS) == 32
    assert {re.sub(r"-[0-9a-f]{8}$", "", name) for name in names if "." not in name} == {
        row.authors_name for row in CHECKPOINTS if row.url
    }
    assert {f"timm/{name}" for name in names if "." in name} == {row.hub_id for row in CHECKPOINTS if row.hub_id}
    assert all([path.name for path in folder.iterdir()] == ["README.md"] for folder in (tmp_path / "zoo").iterdir())


def test_every_number_is_the_zoo_s(rows):
    for row, of in zip(rows, CHECKPOINTS, strict=True):
        card = zoo.render(row)
        facts, accuracies = tables(text_of(card))
        parameters, macs = row["parameters"], row["macs"]
        told = dict(facts[2:])
        assert told["parameters"] == f"{parameters:,}"
        assert told["multiply-accumulates"].startswith(f"{macs / 1e9:.2f} G ")
        assert told["input"] == f"{of.image_size} x {of.image_size} pixels"
        assert told["evaluation resize"] == f"{of.interpolation}, crop {of.crop_pct} of the resized side"
        assert (told["licence of the weights"], told["licence of their code"]) == ("Apache-2.0", "Apache-2.0")
        assert told["names"].replace("\\", "") == ", ".join(of.names)
        assert told["weights"] == f"[{of.source}]({of.url or 'https://huggingface.co/' + of.hub_id})"
        published = [value for value in (of.top1, of.top5, of.v2_top1) if value is not None]
        assert [float(line[1]) for line in accuracies[2:]] == published
        assert [line[0] for line in accuracies[2:]] == ["Top-1 accuracy", "Top-5 accuracy", "Top-1 accuracy"][
            : len(published)
        ]
        if len(published) == 3:
            assert "ImageNet-V2" in accuracies[-1][2]
        text = without_code(text_of(card)).replace("ImageNet-1k", "").replace("ImageNet-V2", "")
        for name in (of.url, of.hub_id, of.source, of.sha256, of.sha1, zoo.name_of(row), *of.names, "Apache-2.0"):
            text = text.replace(name or "\0", "").replace((name or "\0").replace("_", r"\_"), "")
        stock = [str(value) for value in row["stock"]["arguments"].values()]
        text = text.replace("resnest50d", "")
        allowed = {f"{parameters:,}", f"{macs / 1e9:.2f}", str(of.image_size), str(of.crop_pct)}
        allowed |= {f"{value:g}" for value in published} | FIXED | set(re.findall(r"\d+", " ".join(stock)))
        found = set(re.findall(r"\d+(?:,\d{3})*(?:\.\d+)*", text))
        assert found <= allowed, found - allowed


def test_published_numbers_are_labelled_so(rows):
    said = ", not measured by the maker of this card. Protocol "
    protocols = {
        "paper": f"Published with the weights{said}`paper`: the authors' PyTorch code",
        "gluon": f"Published with the weights{said}`gluon`: the authors' Gluon code",
        "timm": f"Published by timm{said}`timm`: timm's evaluation",
    }
    for row in rows:
        card = zoo.render(row)
        assert protocols[row["protocol"]] in card
        head = ModelCard(card).data
        assert (head.library_name, head.license, head.pipeline_tag) == ("timm", "apache-2.0", "image-classification")
        values = {entry.metric_value for entry in head.eval_results}
        assert values == {row["top1"], row["top5"]} - {None}
        for entry in head.eval_results:
            assert f"published, protocol {row['protocol']}" in entry.metric_name
            assert (entry.dataset_type, entry.dataset_split) == ("ILSVRC/imagenet-1k", "validation")
            publisher = "timm" if row["hub_id"] else "ResNeSt" if "zhanghang1989" in row["url"] else "gluon-cv"
            assert entry.source_name == publisher
        assert yaml.safe_load(card.split("---\n")[1])["model-index"][0]["name"] == zoo.name_of(row)
        assert not re.search(r"\n{3}|None|\{\{|%\}", card.replace("(image)[None]", ""))
        assert "<table>" in MarkdownIt("commonmark").enable("table").render(text_of(card))


def test_hashes_and_addresses_are_told(rows):
    for row in rows:
        card = zoo.render(row)
        assert (row["url"] or f"https://huggingface.co/{row['hub_id']}") in card
        for key, title in {"sha256": "SHA-256 begins with", "sha1": "SHA-1 of the parameters in the zip"}.items():
            assert (f"| {title} | `{row[key]}` |" in card) == bool(row[key])
        # timm fetches from an address only what it has no repository for
        assert ("timm does not look at the hashes" in card) == bool(row["url"] and row["default"])


def test_commands_are_read_by_the_command_lines(rows):
    seen = set()
    for row, of in zip(rows, CHECKPOINTS, strict=True):
        card, is_default = zoo.render(row), default_checkpoint(of.architecture) == of
        blocks = [shlex.split(line) for _, code in code_of(card, "sh") for line in code.splitlines()]
        loaded = re.search(r'create_model\("([^"]+)", pretrained=True\)\.eval', card)[1]
        options = parse(EvaluateOptions, blocks[0][4:], prog="evaluate")
        assert blocks[0][:4] == ["python", "-m", "finetune", "evaluate"]
        assert (options.model, options.dataset) == (loaded, "imagenet-1k")
        assert options.protocol == ("timm" if of.hub_id else "paper")
        seen.add((of.protocol, is_default))
        if is_default:
            assert len(blocks) == 1
            assert convert.architecture_of(loaded) == of.architecture
            continue
        _, fetch, command = blocks
        assert fetch == ["curl", "-LO", of.url]
        arguments = _parser().parse_args(command[3:])
        assert str(arguments.source) == of.file
        assert arguments.sha256 == of.sha256
        assert convert.architecture_of(arguments.model) == of.architecture
        assert loaded == f"local-dir:{arguments.output}"
    assert seen == {("timm", True), ("paper", True), ("paper", False), ("gluon", False)}


def test_how_stock_timm_builds_it_is_right(rows):
    """Only what the card says of it: the same parameters, in timm's own class."""
    told = set()
    for row in rows:
        card = zoo.render(row)
        named = re.search(r'builds it as `timm.create_model\("(\w+)", (.*)\)`;', card)
        assert (named is not None) == (row["default"] and not row["hub_id"])
        if named:
            told.add(row["architecture"])
            arguments = eval(f"dict({named[2]})")  # our own text
            model = timm.create_model(named[1], device="meta", **arguments)
            assert sum(parameter.numel() for parameter in model.parameters()) == row["parameters"]
            assert (named[1], arguments) == (row["stock"]["architecture"], row["stock"]["arguments"])
    assert len(told) == 5


def test_the_code_runs(rows, tmp_path, monkeypatch, capsys):
    """With random weights, for the released ones are not here."""
    card = zoo.render(rows[0])
    ((_, code),) = code_of(card)
    assert 'create_model("resnest14d", pretrained=True)' in code
    Image.new("RGB", (50, 40)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("pretrained=True", "pretrained=False"), "card", "exec"), {})
    assert re.fullmatch(r"(0\.\d{4} .+\n){5}", capsys.readouterr().out)
    features = re.search(r"`timm.(create_model.*?features_only=True\))`", card)[1]
    network = eval(features.replace("pretrained=True", "pretrained=False"), {"create_model": timm.create_model})
    assert len(network(torch.zeros(2, 3, 64, 64))) == 5


def test_the_same_zoo_gives_the_same_bytes_and_old_cards_are_replaced(known, tmp_path):
    first = {path: path.read_bytes() for path in zoo.build(tmp_path)}
    path = next(iter(first))
    path.write_text(f"older\n{zoo.MARK}\n", encoding="utf-8")
    assert {path: path.read_bytes() for path in zoo.build(tmp_path)} == first
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("name", ["notes.txt", "mine/x", "resnest50d.in1k/x", "resnest50d.in1k/README.md", ".hidden"])
def test_what_somebody_else_put_there_is_not_touched(known, tmp_path, name, capsys):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    assert main(["zoo", "--output", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert re.match(rf"error: --output {tmp_path} holds \S+, which is no card of the zoo: name another", said.err)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [path]
    assert path.read_text() == "mine"
    with pytest.raises(CardError, match="is a file: name a folder"):
        zoo.build(path)


def test_a_folder_that_cannot_be_written_is_said(known, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(CardError, match=r"cannot write .*README\.md: No space left on device"):
        zoo.build(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_zoo_is_that_of_the_package(rows):
    keys = [field.name for field in dataclasses.fields(Checkpoint)]
    assert [{key: row[key] for key in keys} for row in rows] == [dataclasses.asdict(row) for row in CHECKPOINTS]
    for row in (rows[0], rows[12]):
        assert (row["parameters"], row["macs"]) == listing.measure(row["architecture"], row["image_size"])
    assert [row["default"] for row in rows] == [default_checkpoint(row.architecture) == row for row in CHECKPOINTS]


def test_a_package_that_fails_is_said(monkeypatch):
    monkeypatch.setattr(zoo.sys, "executable", "false")
    with pytest.raises(CardError, match=r"list --json` failed \(no message\): install resnest-timm"):
        zoo.rows()
