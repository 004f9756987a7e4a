"""`convert` as a user calls it: every layout and format, and every way a file can be wrong."""

import hashlib
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from resnest_timm import __main__
from resnest_timm.convert import hub_folder
from resnest_timm.convert.names import architecture_of, convert, expected_shapes
from resnest_timm.errors import ConversionError, UsageError
from resnest_timm.zoo.catalogue import Checkpoint
from tests.conftest import Cli
from tests.resnest_timm.helpers import FACTS, Reference, assert_same, create, images

State = dict[str, Tensor]
NAME = "resnest14"  # the smallest

STRANGER = """
import sys, timm, torch
from tests.resnest_timm.helpers import images
model = timm.create_model(f"local-dir:{sys.argv[1]}", pretrained=True).eval()
assert type(model.layer1[0]).__module__ == "timm.models.resnest"
with torch.no_grad():
    torch.save(model.double()(images(2, 64)), sys.argv[2])
assert not any(name.startswith("resnest_timm") for name in sys.modules)
"""


@pytest.fixture(scope="session")
def state() -> State:
    return create("resnest14d").float().state_dict()


def without_counts(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


# The names of the others, in full for the stem and one block: (timm's, gluon's, detectron2's, OpenMMLab's).
STEM = [
    ("conv1.0", "conv1.0", "stem.conv1_1", "stem.0"),
    ("conv1.1", "conv1.1", "stem.conv1_1.norm", "stem.1"),
    ("conv1.3", "conv1.3", "stem.conv1_2", "stem.3"),
    ("conv1.4", "conv1.4", "stem.conv1_2.norm", "stem.4"),
    ("conv1.6", "conv1.6", "stem.conv1_3", "stem.6"),
    ("bn1", "bn1", "stem.conv1_3.norm", "stem.7"),
    ("fc", "fc", "linear", "head.fc"),
]
BLOCK = [
    ("conv1", "conv1", "conv1", "conv1"),
    ("bn1", "bn1", "conv1.norm", "bn1"),
    ("conv2.conv", "conv2.conv", "conv2.conv", "conv2.conv"),
    ("conv2.bn0", "conv2.bn", "conv2.bn0", "conv2.bn0"),
    ("conv2.fc1", "conv2.fc1", "conv2.fc1", "conv2.fc1"),
    ("conv2.bn1", "conv2.bn1", "conv2.bn1", "conv2.bn1"),
    ("conv2.fc2", "conv2.fc2", "conv2.fc2", "conv2.fc2"),
    ("conv3", "conv3", "conv3", "conv3"),
    ("bn3", "bn3", "conv3.norm", "bn3"),
    ("downsample.1", "downsample.1", "shortcut", "downsample.1"),
    ("downsample.2", "downsample.2", "shortcut.norm", "downsample.2"),
]
MMPRETRAIN = {
    "stem.0": "stem.0.conv",
    "stem.1": "stem.0.bn",
    "stem.3": "stem.1.conv",
    "stem.4": "stem.1.bn",
    "stem.6": "stem.2.conv",
    "stem.7": "stem.2.bn",
    "layer1.0.downsample.1": "layer1.0.downsample.0",
    "layer1.0.downsample.2": "layer1.0.downsample.1",
}


def modules(column: int) -> dict[str, str]:
    """timm's module names -> those of the column, for four stages of one block."""
    names = {row[0]: row[column] for row in STEM}
    for stage in (1, 2, 3, 4):
        theirs = f"res{stage + 1}" if column == 2 else f"layer{stage}"
        names |= {f"layer{stage}.0.{row[0]}": f"{theirs}.0.{row[column]}" for row in BLOCK}
    return names


def renamed(state: State, names: dict[str, str], prefix: str = "", leaves: dict[str, str] | None = None) -> State:
    out = {}
    for name, tensor in state.items():
        module, _, leaf = name.rpartition(".")
        leaf = (leaves or {}).get(leaf, leaf) if tensor.ndim == 1 and f"{module}.running_mean" in state else leaf
        theirs = names[module]
        out[f"{'' if theirs.startswith('head') else prefix}{theirs}.{leaf}"] = tensor
    return out


def gluon(state: State) -> State:
    return renamed(without_counts(state), modules(1), leaves={"weight": "gamma", "bias": "beta"})


def detectron2(state: State) -> State:
    body = {name: tensor for name, tensor in without_counts(state).items() if not name.startswith("fc.")}
    heads = {"roi_heads.box_head.fc1.weight": torch.zeros(2), "backbone.fpn_lateral2.weight": torch.zeros(2)}
    return renamed(body, modules(2), "backbone.bottom_up.") | heads


def mmdetection(state: State) -> State:
    body = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    return renamed(body, modules(3), "backbone.") | {"neck.lateral_convs.0.conv.weight": torch.zeros(2)}


def mmsegmentation(state: State) -> State:
    body = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    return renamed(body, modules(3), "backbone.") | {"decode_head.conv_seg.weight": torch.zeros(2)}


def mmpretrain(state: State) -> State:
    names = {timm: MMPRETRAIN.get(theirs, theirs) for timm, theirs in modules(3).items()}
    return renamed(state, names, "backbone.")


def params(tensors: State) -> bytes:
    """MXNet's file of float32 arrays, after the documented format."""
    out = [struct.pack("<QQQ", 0x112, 0, len(tensors))]
    for tensor in tensors.values():
        shape = tensor.shape
        out.append(struct.pack(f"<Iii{len(shape)}qiii", 0xF993FAC9, 0, len(shape), *shape, 1, 0, 0))
        out.append(tensor.numpy().astype("<f4").tobytes())
    out.append(struct.pack("<Q", len(tensors)))
    out += [struct.pack("<Q", len(name)) + name.encode() for name in tensors]
    return b"".join(out)


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


SOURCES: dict[str, tuple[Callable[[Path, State], Path], str]] = {
    "authors": (lambda d, s: saved(d / "a.pth", s), "timm"),
    "authors, old PyTorch": (lambda d, s: old(d / "a.pth", s), "timm"),
    "data parallel": (lambda d, s: saved(d / "a.pth", {f"module.{k}": v for k, v in s.items()}), "timm"),
    "timm": (lambda d, s: tensors(d / "model.safetensors", s), "timm"),
    "gluon": (lambda d, s: written(d / "a.params", params(gluon(s))), "gluon"),
    "gluon zip": (lambda d, s: zipped(d / "a.zip", {"a-1.params": params(gluon(s))}), "gluon"),
    "detectron2": (lambda d, s: saved(d / "a.pth", {"model": detectron2(s), "iteration": 9}), "detectron2"),
    "detectron2 safetensors": (lambda d, s: tensors(d / "a.safetensors", detectron2(s)), "detectron2"),
    "mmdetection": (lambda d, s: saved(d / "a.pth", {"meta": {}, "state_dict": mmdetection(s)}), "openmmlab"),
    "mmsegmentation": (lambda d, s: saved(d / "a.pth", {"state_dict": mmsegmentation(s)}), "openmmlab"),
    "mmpretrain": (lambda d, s: saved(d / "a.pth", {"state_dict": mmpretrain(s)}), "openmmlab"),
}


def old(path: Path, state: State) -> Path:
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


def tensors(path: Path, state: State) -> Path:
    safetensors.torch.save_file(state, path)
    return path


@pytest.mark.parametrize("kind", SOURCES)
def test_every_layout_gives_the_same_weights(kind: str, state: State, tmp_path: Path) -> None:
    make, layout = SOURCES[kind]
    done = hub_folder.convert_file(make(tmp_path, state), NAME, tmp_path / "out")
    assert done.converted.layout == layout
    result = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    is_backbone = layout == "detectron2" or kind in ("mmdetection", "mmsegmentation")
    expected = {name for name in state if not (is_backbone and name.startswith("fc."))}
    assert result.keys() == expected
    assert all(torch.equal(result[name], state[name]) for name in expected)
    assert done.converted.num_classes == (0 if is_backbone else 1000)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]

    config = json.loads((tmp_path / "out" / "config.json").read_text())
    card = (tmp_path / "out" / "README.md").read_text()
    assert (config["architecture"], config["model_args"]) == ("resnest14d", {"in_chans": 3, "global_pool": "avg"})
    assert config["num_classes"] == config["pretrained_cfg"]["num_classes"] == done.converted.num_classes
    for path in (done.source.path, tmp_path / "out" / "model.safetensors"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    assert "license" not in card.split("---")[1]  # a licence of unknown weights would be a claim
    if is_backbone:
        mean, std = [123.68, 116.779, 103.939], [58.393, 57.12, 57.375]
        if kind == "mmsegmentation":
            mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
        assert config["pretrained_cfg"]["mean"] == pytest.approx([value / 255 for value in mean])
        assert config["pretrained_cfg"]["std"] == pytest.approx([value / 255 for value in std])
        assert f"mean {mean} and std {std}" in card
        assert done.converted.left_out
        assert all(f"1 of `{name}`" in card for name in done.converted.left_out)


@pytest.mark.parametrize("name", ["resnest14", "resnest50_fast_1s2x40d"])
def test_stock_timm_loads_the_folder_strictly_with_equal_logits(name: str, cli: Cli, tmp_path: Path) -> None:
    """Logits are compared with a plain network written out in `helpers`."""
    state = create(name).float().state_dict()
    done = cli(
        "resnest_timm", "convert", saved(tmp_path / "a.pth", state), "--model", name, "--output", tmp_path / "out"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{architecture_of(name)}: {len(state)} tensors, 1000 classes" in done.stdout
    root = Path(__file__).parents[3]
    command = [sys.executable, "-W", "error", "-c", STRANGER, str(tmp_path / "out"), str(tmp_path / "logits.pt")]
    stranger = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert stranger.returncode == 0, stranger.stderr
    doubled = {key: tensor.double() for key, tensor in state.items()}
    reference = Reference(FACTS[architecture_of(name)], doubled)
    assert_same(torch.load(tmp_path / "logits.pt"), reference(images(2, 64)))


def test_transformers_loads_the_folder(state: State, tmp_path: Path) -> None:
    from transformers import AutoModelForImageClassification

    hub_folder.convert_file(saved(tmp_path / "a.pth", state), NAME, tmp_path / "out")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval().double()
    with torch.no_grad():
        logits = model(images(1, 64)).logits
    assert_same(logits, Reference(FACTS["resnest14d"], {k: v.double() for k, v in state.items()})(images(1, 64)))


def test_a_classifier_of_another_size_is_kept(state: State, tmp_path: Path) -> None:
    own = state | {"fc.weight": state["fc.weight"][:7].clone(), "fc.bias": state["fc.bias"][:7].clone()}
    assert hub_folder.convert_file(saved(tmp_path / "a.pth", own), NAME, tmp_path / "out").converted.num_classes == 7
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_classes"] == 7


class Code:
    """Unpickling it runs code: it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.path), "w"))


def pickled_arrays(path: Path) -> Path:
    path.write_bytes(pickle.dumps({"model": {"stem.conv1_1.weight": np.zeros(3)}}))
    return path


def scripted(path: Path) -> Path:
    """The directory that TorchScript writes, as far as its readers look; writing a real one is deprecated."""
    return zipped(path, {"a/data.pkl": b"\x80\x02}.", "a/constants.pkl": b"\x80\x02).", "a/version": b"3\n"})


def truncated(path: Path, share: float = 0.5) -> Path:
    data = path.read_bytes()
    return written(path, data[: int(len(data) * share)])


def changed(state: State, **tensors: Tensor | None) -> State:
    new = {name: tensor for name, tensor in state.items() if tensors.get(name.replace(".", "_"), tensor) is tensor}
    return new | {name.replace("_", "."): tensor for name, tensor in tensors.items() if tensor is not None}


WRONG: dict[str, tuple[Callable[[Path, State], Path], str]] = {
    "no file": (lambda d, s: d / "none.pth", r"cannot read .*none\.pth: No such file"),
    "a folder": (lambda d, s: d, r"cannot read .*: Is a directory"),
    "empty": (lambda d, s: written(d / "a.pth", b""), r"a\.pth is none of safetensors, PyTorch"),
    "text": (lambda d, s: written(d / "a.pth", b"<html>not found</html>"), r"none of .* it begins with b'<html>no'"),
    "truncated pth": (lambda d, s: truncated(saved(d / "a.pth", s)), r"a\.pth is truncated or damaged"),
    "truncated old pth": (lambda d, s: truncated(old(d / "a.pth", s)), r"a\.pth is truncated or damaged"),
    "truncated safetensors": (
        lambda d, s: truncated(tensors(d / "a.safetensors", s)),
        r"a\.safetensors is truncated or damaged",
    ),
    "truncated params": (
        lambda d, s: truncated(written(d / "a.params", params(gluon(s)))),
        r"a\.params: the parameter file is truncated or damaged: array \d+ at byte \d+ needs \d+ bytes",
    ),
    "truncated zip": (
        lambda d, s: truncated(zipped(d / "a.zip", {"a.params": params(gluon(s))})),
        r"a\.zip is truncated or damaged: .*Fetch it again",
    ),
    "damaged zip": (
        lambda d, s: written(d / "a.zip", zipped(d / "b", {"a.params": params(gluon(s))}).read_bytes().replace(
            b"\xc9\xfa\x93\xf9\x00\x00\x00\x00\x04", b"\xc9\xfa\x93\xf9\x00\x00\x00\x00\x05")),
        r"a\.zip is truncated or damaged: Bad CRC-32",
    ),
    "zip that climbs out": (
        lambda d, s: zipped(d / "a.zip", {"../../evil.params": params(gluon(s))}),
        r"its member '\.\./\.\./evil\.params' points outside the archive; refused",
    ),
    "zip with an absolute path": (
        lambda d, s: zipped(d / "a.zip", {"a.params": params(gluon(s)), "/etc/evil": b""}),
        r"its member '/etc/evil' points outside the archive; refused",
    ),
    "zip that climbs out on Windows": (
        lambda d, s: zipped(d / "a.zip", {"..\\evil.params": b""}),
        r"its member .* points outside the archive; refused",
    ),
    "zip of something else": (lambda d, s: zipped(d / "a.zip", {"a.txt": b""}), r"one \.params file, it holds a\.txt"),
    "code": (
        lambda d, s: saved(d / "a.pth", {"state_dict": s, "hook": Code(d / "ran")}),
        r"a\.pth is refused: it holds .*open, which only unpickling code.*safetensors\.torch\.save_file",
    ),
    "detectron2 pkl": (
        lambda d, s: pickled_arrays(d / "a.pkl"),
        r"a\.pkl is refused: it is a plain pickle, as detectron2's \.pkl, .*safetensors\.torch\.save_file",
    ),
    "TorchScript": (
        lambda d, s: scripted(d / "a.pth"),
        r"a\.pth is refused: it is a TorchScript program, not weights\. Where you trust it",
    ),
    "no dict": (lambda d, s: saved(d / "a.pth", [1, 2]), r"expected a dict of tensors.*got list"),
    "no tensors": (lambda d, s: saved(d / "a.pth", {"epoch": 3, "lr": 0.1}), r"got others: epoch, lr"),
    "missing": (
        lambda d, s: saved(d / "a.pth", changed(s, fc_bias=None)),
        r"not those of resnest14d: missing: fc\.bias$",
    ),
    "missing in gluon": (
        lambda d, s: written(d / "a.params", params({k: v for k, v in gluon(s).items() if k != "layer2.0.bn3.gamma"})),
        r"a\.params: .* missing: layer2\.0\.bn3\.weight$",
    ),
    "extra": (lambda d, s: saved(d / "a.pth", s | {"aux.weight": torch.ones(1)}), r"not in the model: aux\.weight$"),
    "deformable": (
        lambda d, s: saved(d / "a.pth", detectron2(s) | {"backbone.bottom_up.res4.0.conv2_offset.bias": torch.ones(1)}),
        r"not in the model: layer3\.0\.conv2_offset\.bias$",
    ),
    "shape": (
        lambda d, s: saved(d / "a.pth", s | {"conv1.0.weight": torch.ones(32, 1, 3, 3)}),
        r"of another shape: conv1\.0\.weight \[32, 1, 3, 3\] instead of \[32, 3, 3, 3\]$",
    ),
    "integers": (
        lambda d, s: saved(d / "a.pth", s | {"fc.weight": torch.ones(1000, 2048, dtype=torch.int8)}),
        r"expected weights of floating point, got torch\.int8 in fc\.weight",
    ),
    "another network": (
        lambda d, s: saved(d / "a.pth", {"features.0.weight": torch.ones(1)}),
        r"names are not understood: features\.0\.weight",
    ),
    "gluon's flat names": (
        lambda d, s: written(d / "a.params", params(dict.fromkeys(("resnest_conv0_weight", "b_gamma"), torch.ones(1)))),
        r"Gluon's flat names \(resnest_conv0_weight, .*net\.save_parameters",
    ),
    "released name, other content": (
        lambda d, s: saved(d / "resnest50-528c19ca.pth", s),
        r"bears the name of the released resnest50-528c19ca\.pth but not its hash",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_one_clear_line_and_leaves_nothing(
    kind: str, state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = WRONG[kind]
    source = make(tmp_path, state)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert __main__.main(["convert", str(source), "--model", NAME, "--output", str(tmp_path / "x" / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert len(captured.err.splitlines()) == 1
    with pytest.raises((ConversionError, UsageError), match=message):
        hub_folder.convert_file(source, NAME, tmp_path / "x" / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_wrong_variant_is_refused_and_the_right_one_named(state: State, cli: Cli, tmp_path: Path) -> None:
    source = saved(tmp_path / "a.pth", state)
    done = cli("resnest_timm", "convert", source, "--model", "resnest26", "--output", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert "not those of resnest26d: missing: layer1.1.conv1.weight, " in done.stderr
    assert done.stderr.endswith("; the file fits --model resnest14d\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_sha256_is_checked(state: State, tmp_path: Path) -> None:
    source = saved(tmp_path / "a.pth", state)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    wrong = "0000" if digest[:4] != "0000" else "1111"
    with pytest.raises(ConversionError, match=rf"a\.pth has SHA-256 {digest}, expected {wrong}\.\.\.: it is damaged"):
        hub_folder.convert_file(source, NAME, tmp_path / "out", wrong)
    for nonsense in ("xyz0", "12", ""):
        with pytest.raises(UsageError, match="--sha256 must be 4 to 64 hexadecimal digits"):
            hub_folder.convert_file(source, NAME, tmp_path / "out", nonsense)
    assert not (tmp_path / "out").exists()
    hub_folder.convert_file(source, NAME, tmp_path / "out", digest[:8].upper())


def test_an_occupied_output_is_refused_and_left_as_it_is(state: State, tmp_path: Path) -> None:
    source, out = saved(tmp_path / "a.pth", state), tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    for folder in (out, out / "mine"):
        with pytest.raises(UsageError, match=rf"--output {folder} exists and is not an empty folder"):
            hub_folder.convert_file(source, NAME, folder)
    assert [path.name for path in out.iterdir()] == ["mine"]
    (out / "mine").unlink()
    hub_folder.convert_file(source, NAME, out)
    assert len(list(out.iterdir())) == 3


def test_an_unknown_model_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown model 'resnest51'; expected a ResNeSt, for instance resnest50"):
        architecture_of("resnest51")


def test_a_failed_write_leaves_nothing(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub_folder, "render", full)
    source = saved(tmp_path / "a.pth", state)
    with pytest.raises(ConversionError, match=r"cannot write .*out: No space left on device"):
        hub_folder.convert_file(source, NAME, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_code_in_a_file_never_runs(state: State, tmp_path: Path) -> None:
    source = saved(tmp_path / "a.pth", {"state_dict": state, "hook": Code(tmp_path / "ran")})
    with pytest.raises(ConversionError, match="refused"):
        hub_folder.convert_file(source, NAME, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["sha256", "sha1"])
def test_a_released_file_is_known_by_its_hash(
    kind: str, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = params(gluon(state))
    source = zipped(tmp_path / "any.zip", {"any.params": data})
    hashes = {"sha256": hashlib.sha256(source.read_bytes()).hexdigest()[:8], "sha1": hashlib.sha1(data).hexdigest()}
    known = {kind: hashes[kind]}
    row = Checkpoint("resnest14d", "gluon_in1k", NAME, url="https://host/resnest14-1.zip", top1=75.75, **known)
    monkeypatch.setattr(hub_folder, "CHECKPOINTS", (row,))
    assert hub_folder.convert_file(source, NAME, tmp_path / "out").released == row
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "https://host/resnest14-1.zip (weights Apache-2.0, code Apache-2.0" in card
    assert "75.75 % at 224 px" in card
    with pytest.raises(ConversionError, match=r"is the released resnest14 \(resnest14-1.zip\), not resnest26d: give"):
        hub_folder.convert_file(source, "resnest26", tmp_path / "other")


def test_dtypes_are_kept_and_nothing_is_changed(state: State) -> None:
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    converted = convert(half, "resnest14d").state
    assert all(converted[name] is tensor for name, tensor in half.items())


def test_two_names_for_one_tensor_are_an_error(state: State) -> None:
    both = mmpretrain(state) | {"backbone.fc.bias": state["fc.bias"]}
    with pytest.raises(ConversionError, match=r"two tensors of the checkpoint would become fc\.bias"):
        convert(both, "resnest14d")


def test_expected_shapes_are_the_models() -> None:
    shapes = expected_shapes("resnest50_fast_1s2x40d", 0)
    assert "fc.weight" not in shapes
    assert shapes["layer1.0.conv2.conv.weight"] == (80, 40, 3, 3)
