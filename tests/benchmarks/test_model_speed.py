"""The speed benchmark at its smallest: its table, its arithmetic, and that it compares only what is equal."""

import importlib
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import need

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--model", "resnest14", "--against", "resnet18d", "--size", "32", "--batch", "4", "--device", "cpu"]
SMALL += ["--threads", "1", "--no-compile"]
INFERENCE = ("inference", "fp32")


def benchmark(*arguments, before=""):
    """Run the script as a user does, after the statement `before`."""
    code = f"import sys; sys.path.insert(0, 'benchmarks'); import speed_candidates\n{before}\n"
    code += "import model_speed; sys.exit(model_speed.main())"
    command = [sys.executable, "-c", code] if before else [sys.executable, "benchmarks/model_speed.py"]
    command += [*SMALL, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Rows of the printed tables: by mode, dtype and form, and by dtype; and the numbers."""
    need("openvino", "bench")
    need("onnxscript", "bench")
    path = tmp_path_factory.mktemp("benchmark") / "numbers.json"
    done = benchmark("--repeats", 3, "--json", path)
    assert done.returncode == 0, done.stderr
    _, forms, runtimes = done.stdout.split("\n\n")
    table = {tuple(row)[:3]: cells for row, cells in rows_of(forms)}
    return done.stdout, table, {row[0]: cells for row, cells in rows_of(runtimes)}, json.loads(path.read_text())


def rows_of(table):
    """Each row's cells, in order and by the names of their columns."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    header, rule, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert all(re.fullmatch(r"-+:?", cell) for cell in rule)
    return [(row, dict(zip(header, row, strict=True))) for row in rows]


def test_every_row_is_there_and_says_what_it_depends_on(run):
    stdout, table, runtimes, numbers = run
    rows = [(mode, dtype, "eager") for mode in ("inference", "training") for dtype in ("fp32", "bf16")]
    assert table.keys() == {*rows, ("inference", "fp32", "optimize"), ("inference", "bf16", "optimize")}
    assert len(numbers["rows"]) == 6
    assert list(runtimes) == ["fp32", "bf16"]
    for key in ("torch", "timm", "threads", "date", "device"):
        assert f"{key} {numbers['environment'][key]}" in stdout
    assert numbers["environment"]["threads"] == 1
    assert numbers["options"]["model"] == "resnest14d"


def count_macs(name):
    import timm

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        timm.create_model(name).eval()(torch.zeros(1, 3, 32, 32))
    return counter.get_total_flops() / 2


def test_ratios_follow_from_the_seconds(run):
    import resnest_timm  # noqa: F401

    _, table, _, numbers = run
    macs = {name: count_macs(name) for name in ("resnest14d", "resnet18d")}
    assert numbers["macs"] == macs
    for row in numbers["rows"]:
        entries = row["candidates"]
        assert all(len(entry["seconds"]) == 3 for entry in entries.values())
        speeds = {key: 4 / statistics.median(entry["seconds"]) for key, entry in entries.items()}
        fastest = [
            max(speed for key, speed in speeds.items() if key.startswith(f"{who} {row['form']}"))
            for who in ("ours", "timm", "reference")
        ]
        ours, theirs, reference = fastest
        expected = ours / theirs, ours / reference, ours * macs["resnest14d"] / (reference * macs["resnet18d"])
        assert (row["ours_over_timm"], row["ours_over_reference"], row["efficiency"]) == pytest.approx(expected)
        printed = table[row["mode"], row["dtype"], row["form"]]
        assert [printed[key] for key in ("ours / timm", "ours / resnet18d", "efficiency")] == [
            f"{ratio:.2f}" for ratio in expected
        ]
        assert printed["ours"].startswith(f"{ours:.1f} ±")
        assert max(float(printed[f"timm {layout}"].split()[0]) for layout in ("NCHW", "NHWC")) == round(theirs, 1)


def test_ours_is_compared_with_the_libraries_that_run_exported_files(run):
    *_, runtimes, numbers = run
    fp32, bf16 = numbers["runtimes"]
    assert fp32["libraries"].keys() == {"OpenVINO", "onnxruntime"}
    assert bf16["libraries"].keys() == {"OpenVINO"}
    assert runtimes["bf16"]["onnxruntime"] == runtimes["bf16"]["ours / onnxruntime"] == ""
    for row in (fp32, bf16):
        entries, printed = row["candidates"], runtimes[row["dtype"]]
        speeds = {key: 4 / statistics.median(entry["seconds"]) for key, entry in entries.items()}
        assert row["equal"]
        ours = max(speed for key, speed in speeds.items() if key.startswith(("ours eager", "ours optimize")))
        assert printed["ours"].startswith(f"{ours:.1f} ±")
        assert printed["timm eager"].startswith(f"{max(s for key, s in speeds.items() if key[:4] == 'timm'):.1f} ±")
        for library, key in row["libraries"].items():
            assert printed[library].startswith(f"{speeds[key]:.1f} ±")
            assert printed[f"ours / {library}"] == f"{ours / speeds[key]:.2f}"
            assert entries[key]["memory"] is None
            assert entries[key]["difference"] < (1e-4 if row["dtype"] == "fp32" else 0.05)
    rounded = bf16["candidates"][bf16["libraries"]["OpenVINO"]]["difference"]
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert rounded > 1e-4  # it was bfloat16


def test_the_others_are_folded_too(run):
    *_, numbers = run
    forms = {row["form"]: row["candidates"] for row in numbers["rows"] if (row["mode"], row["dtype"]) == INFERENCE}
    expected = {f"{who} optimize {layout} fp32" for who in ("timm", "reference") for layout in ("NCHW", "NHWC")}
    assert forms["optimize"].keys() == {"ours optimize NHWC fp32", *expected}


def test_folding_leaves_no_norm_and_no_difference(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    candidates = importlib.import_module("speed_candidates")
    network = candidates.build_timm("resnest14d")
    candidates.randomize_norms(network)
    images = candidates.make_images(2, 64)
    with torch.no_grad():
        expected, found = network.eval()(images), (folded := candidates.folded(network))(images)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_all_forms_are_tried_and_close_to_timm(run):
    *_, numbers = run
    (row,) = (
        row for row in numbers["rows"] if (row["mode"], row["dtype"], row["form"]) == ("inference", "bf16", "eager")
    )
    forms = {f"eager {layout} {precision}" for layout in ("NCHW", "NHWC") for precision in ("bf16", "autocast")}
    assert row["candidates"].keys() == {f"{who} {form}" for who in ("ours", "timm", "reference") for form in forms}
    for key, entry in row["candidates"].items():
        assert (entry["difference"] is None) == key.startswith("reference")
        assert entry["difference"] is None or 1e-4 < entry["difference"] < 0.05


def test_memory_is_that_of_the_tensors(run):
    """A training step keeps the maps for the backward pass; bf16 halves those of inference."""
    *_, numbers = run
    memory = {}
    for row in numbers["rows"]:
        for key, entry in row["candidates"].items():
            memory[row["mode"], key] = entry["memory"]
    fp32 = memory["inference", "ours eager NHWC fp32"]
    assert fp32 > 4 * (2 * 64 * 16 * 16) * 4  # the stem's last two maps
    assert memory["inference", "ours eager NHWC bf16"] < 0.7 * fp32
    assert memory["training", "ours eager NHWC fp32"] > 3 * fp32


DIFFERENT = {
    # the same names and shapes of weights, other places of the pools
    "another network": "import copy; "
    "speed_candidates.VARIANTS = copy.deepcopy(speed_candidates.VARIANTS); "
    "speed_candidates.VARIANTS['resnest14d']['block_args']['avd_first'] = True",
    "not a number": "norms = speed_candidates.randomize_norms; "
    "speed_candidates.randomize_norms = lambda m: (norms(m), m.fc.bias.data.fill_(float('nan')))",
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_no_ratio_of_networks_that_differ(what, tmp_path):
    path = tmp_path / "numbers.json"
    arguments = ["--repeats", 1, "--modes", "inference", "--dtypes", "fp32", "--no-runtimes", "--json", path]
    done = benchmark(*arguments, before=DIFFERENT[what])
    assert done.returncode == 1, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| inference")]
    assert [row.count("outputs differ") for row in rows] == [3, 3]
    for row in json.loads(path.read_text())["rows"]:
        assert row["equal"] is False
        assert row["ours_over_timm"] is row["ours_over_reference"] is row["efficiency"] is None


SCALED = """
import torch
build = speed_candidates.build_ours
class Linear(torch.nn.Linear):
    def forward(self, x):
        out = super().forward(x)
        return out.detach() + 1.001 * (out - out.detach())
def scaled(name):
    network = build(name)
    network.fc.__class__ = Linear
    return network
speed_candidates.build_ours = scaled
"""


def test_no_ratio_of_training_steps_whose_gradients_differ():
    """Equal losses alone do not do."""
    done = benchmark("--repeats", 1, "--modes", "training", "--dtypes", "fp32", before=SCALED)
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("outputs differ") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet50"], "error: --model resnet50: expected a ResNeSt, one of resnest14d, "),
        (["--against", "resnet51"], "error: --against resnet51: expected a model that timm knows"),
        (["--clock", "cpu", "--threads", "2"], "error: --clock cpu: expected --threads 1 and no GPU"),
        (["--batch", "1"], "error: expected --size 32 or more, --batch 2 or more for inference and training, "),
        (
            ["--batch", "0", "--modes", "inference"],
            "error: expected --size 32 or more, --batch 1 or more for inference, ",
        ),
    ],
)
def test_mistakes_are_said_in_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    main = importlib.import_module("model_speed").main
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith(message)
    assert said.err.count("\n") == 1
    assert not said.out
