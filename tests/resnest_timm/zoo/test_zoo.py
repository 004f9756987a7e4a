"""The zoo's rows, and the listing of them; hashes and accuracies typed here from the releases."""

import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
from timm.models import get_pretrained_cfg

from resnest_timm import __main__, listing
from resnest_timm.resnest import ALIASES, VARIANTS
from resnest_timm.zoo.catalogue import CHECKPOINTS, default_checkpoint
from tests.conftest import Cli
from tests.resnest_timm.helpers import FACTS

PAGE = (Path(__file__).parents[3] / "docs/reference/zoo.md").read_text()

# name: SHA-256 prefix of the .pth, its top-1, first digits of the Gluon SHA-1, its top-1
AUTHORS = {
    "resnest50": ("528c19ca", 81.03, "bcfefe1d", 81.04),
    "resnest101": ("22405ba7", 82.83, "5da943b3", 82.81),
    "resnest200": ("75117900", 83.84, "0c5d117d", 83.88),
    "resnest269": ("0cc87c48", 84.54, "11ae7f5d", 84.53),
    "resnest50_fast_1s1x64d": ("d8fbf808", 80.33, "5e16dbe5", 80.35),
    "resnest50_fast_2s1x64d": ("44938639", 80.53, "85eb779a", 80.65),
    "resnest50_fast_4s1x64d": ("f74f3fc3", 80.76, "3f215532", 80.90),
    "resnest50_fast_1s2x40d": ("32830b84", 80.59, "af3514c2", 80.72),
    "resnest50_fast_2s2x40d": ("9d126481", 80.61, "2db13245", 80.84),
    "resnest50_fast_4s2x40d": ("41d14ed0", 81.14, "b24d5157", 81.17),
    "resnest50_fast_1s4x24d": ("d4a4f76f", 80.99, "7318153d", 80.97),
}
HUB = {
    "resnest14d.gluon_in1k": 75.516,
    "resnest26d.gluon_in1k": 78.476,
    "resnest50d.in1k": 80.958,
    "resnest101e.in1k": 82.916,
    "resnest200e.in1k": 83.880,
    "resnest269e.in1k": 84.542,
    "resnest50d_4s2x40d.in1k": 81.146,
    "resnest50d_1s4x24d.in1k": 81.024,
}


def test_the_authors_files() -> None:
    releases = "https://github.com/zhanghang1989/ResNeSt/releases/download"
    pth = {row.authors_name: row for row in CHECKPOINTS if row.protocol == "paper"}
    gluon = {row.authors_name: row for row in CHECKPOINTS if row.protocol == "gluon"}
    assert pth.keys() == AUTHORS.keys()
    assert gluon.keys() == AUTHORS.keys() | {"resnest14", "resnest26"}
    for name, (sha256, top1, sha1, gluon_top1) in AUTHORS.items():
        assert (pth[name].sha256, pth[name].top1, pth[name].sha1) == (sha256, top1, None)
        assert pth[name].url == f"{releases}/weights_step1/{name}-{sha256}.pth"
        assert (gluon[name].top1, gluon[name].sha256) == (gluon_top1, None)
        assert gluon[name].url == f"{releases}/weights_step2/{name}-{sha1}.zip"
        assert re.fullmatch(rf"{sha1}[0-9a-f]{{32}}", gluon[name].sha1 or "")
    assert (gluon["resnest14"].top1, gluon["resnest26"].top1) == (75.75, 78.68)


def test_the_hubs_repositories() -> None:
    rows = {row.hub_id: row for row in CHECKPOINTS if row.hub_id}
    assert {str(hub_id).removeprefix("timm/"): row.top1 for hub_id, row in rows.items()} == HUB
    assert all(row.protocol == "timm" and row.url is None and row.sha256 is None for row in rows.values())


def test_rows_agree_with_the_registry_and_with_themselves() -> None:
    assert len(CHECKPOINTS) == len(set(CHECKPOINTS)) == 32
    for row in CHECKPOINTS:
        assert row.architecture in VARIANTS
        assert ALIASES.get(row.authors_name, row.authors_name) == row.architecture
        assert row.image_size == FACTS[row.architecture].size
        assert bool(row.hub_id) != bool(row.url)
        assert (row.code_license, row.weights_license) == ("Apache-2.0", "Apache-2.0")
        assert row.top1 is not None
        assert 75 < row.top1 < 85
    for architecture in VARIANTS:
        row, config = default_checkpoint(architecture), get_pretrained_cfg(architecture)
        assert (row.hub_id, row.url) == (config.hf_hub_id, config.url) if row else not config.has_weights


def test_list_prints_a_table_with_computed_numbers(cli: Cli) -> None:
    done = cli("resnest_timm", "list")
    assert (done.returncode, done.stderr) == (0, "")
    header, ruler, *lines = done.stdout.splitlines()
    assert lines[-2:] == ["", "No weights were ever released for resnest101_fast, resnest152."]
    assert len(lines) == 32 + 2
    assert not any(line != line.rstrip() for line in done.stdout.splitlines())
    edges = [match.span() for match in re.finditer("-+", ruler)]
    columns = [header[start:end].strip() for start, end in edges]
    for line, row in zip(lines[:-2], CHECKPOINTS, strict=True):
        cells = dict(zip(columns, (line[start:end].strip() for start, end in edges), strict=True))
        facts = FACTS[cells["model"]]
        assert (cells["model"], cells["source"]) == (row.architecture, row.source)
        assert float(cells["params M"]) == pytest.approx(facts.params, abs=5e-4)
        assert float(cells["GMAC"]) == pytest.approx(facts.gmac, abs=0.06 if facts.gmac > 10 else 0.011)
        assert (int(cells["size"]), float(cells["top-1"])) == (facts.size, row.top1)
    assert done.stdout in PAGE, "the page has not what `python -m resnest_timm list` prints"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("resnest14*", {"resnest14d"}),
        ("resnest50", {"resnest50d"}),
        ("resnest50d_1s4x24d", {"resnest50d_1s4x24d"}),
        ("1s2x40", {"resnest50_fast_1s2x40d"}),
        ("528c19ca", {"resnest50d"}),
    ],
)
def test_list_takes_a_pattern(pattern: str, expected: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["list", pattern, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["architecture"] for row in rows} == expected
    assert all(any(fnmatch(name, f"*{pattern}*") for name in (*row["names"], row["url"] or "")) for row in rows)


def test_json_has_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["list", "resnest50_fast_1s1x64d", "--json"]) == 0
    pth, gluon = json.loads(capsys.readouterr().out)
    assert (pth["sha256"], pth["protocol"], pth["top1"], pth["hub_id"]) == ("d8fbf808", "paper", 80.33, None)
    assert gluon["sha1"] == "5e16dbe56f1fba8e1bc2faddd91f874bfbd74193"
    assert pth["parameters"] == gluon["parameters"] == 26217640 or abs(pth["parameters"] / 1e6 - 26.218) < 5e-4
    assert (pth["code_license"], pth["weights_license"]) == ("Apache-2.0", "Apache-2.0")


def test_an_unknown_pattern_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["list", "resnext*"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: no released checkpoint matches 'resnext*'; give a name or a pattern")
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["lst"], ["list", "--jsn"], ["convert"]])
def test_wrong_flags_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(arguments) == 2
    assert re.fullmatch(r"error: .*; see python -m resnest_timm.* --help\n", capsys.readouterr().err)


def test_multiply_accumulates_are_counted_by_hand_alike() -> None:
    """A convolution's: output pixels x weights; here for resnest14d at 64 px, from the shapes of its state dict."""
    import timm
    import torch

    model, total = timm.create_model("resnest14d", device="meta").eval(), 0

    def count(module: torch.nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal total
        pixels = out.shape[2] * out.shape[3] if out.ndim == 4 else 1
        total += pixels * module.weight.numel()

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    model(torch.empty(1, 3, 64, 64, device="meta"))
    assert listing.measure("resnest14d", 64)[1] == total
