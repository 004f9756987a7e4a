"""The stand-in Hub against the real clients, each in a child process: they read HF_ENDPOINT when imported."""

import http.client
import io
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest
import timm
import timm.models
from PIL import Image

from tests.hub_standin import STRANGER_TOKEN, TOKEN, HubStandIn

CARD = b"""---
dataset_info:
- config_name: default
  features: &features
  - {name: image, dtype: image}
  - {name: label, dtype: {class_label: {names: {'0': apple_pie, '1': waffles}}}}
  splits:
  - {name: train, num_examples: 6, num_bytes: 600}
  - {name: validation, num_examples: 4, num_bytes: 400}
- config_name: brief
  features: *features
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train-*}
  - {split: validation, path: data/validation-*}
- config_name: brief
  data_files:
  - {split: test, path: brief/test-*}
---
"""


def parquet(rows: int, colour: int) -> bytes:
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["apple_pie", "waffles"]))
    image = Image.new("RGB", (8, 8), (colour, 0, 0))
    table = {"image": [image] * rows, "label": [row % 2 for row in range(rows)]}
    content = io.BytesIO()
    datasets.Dataset.from_dict(table, features=features).to_parquet(content)
    return content.getvalue()


def food(colour: int) -> dict[str, bytes]:
    shards = {"data/train": 6, "data/validation": 4, "brief/test": 2}
    return {"README.md": CARD} | {f"{name}-00000-of-00001.parquet": parquet(n, colour) for name, n in shards.items()}


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with HubStandIn() as hub:
        yield hub


def run(hub: HubStandIn, home: Path, script: str, arguments: Mapping[str, object]) -> Any:
    """Run a script that finds its arguments as ``given`` and prints one JSON document."""
    prelude = "import json, os, sys\nfrom pathlib import Path\ngiven = json.loads(sys.argv[1])\n" + FAILURE
    child = subprocess.run(
        [sys.executable, "-c", prelude + script, json.dumps(arguments)],
        env=hub.environment(home) | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout.splitlines()[-1])


FAILURE = """
def failure(function, *args, **kwargs):
    try:
        return "no error: " + repr(function(*args, **kwargs))
    except Exception as error:
        return type(error).__name__ + ": " + str(error)
"""

LOAD_DATASETS = """
from datasets import load_dataset
def red(*args, **kwargs):
    return next(iter(load_dataset(*args, **kwargs)))["image"].getpixel((0, 0))[0]
food = load_dataset("ethz/food101")
print(json.dumps({
    "rows": {split: len(rows) for split, rows in food.items()},
    "names": food["train"].features["label"].names,
    "red": food["train"][0]["image"].getpixel((0, 0))[0],
    "brief": load_dataset("ethz/food101", "brief").num_rows,
    "by commit": red("ethz/food101", split="train", revision=given["commit"]),
    "by branch": red("ethz/food101", split="train", revision="redder"),
    "streamed": red("ethz/food101", split="train", streaming=True),
    "no revision": failure(load_dataset, "ethz/food101", revision="nowhere"),
    "gated": failure(load_dataset, "ethz/gated"),
    "not let in": failure(load_dataset, "ethz/gated", token=given["stranger"]),
    "let in": load_dataset("ethz/gated", token=given["token"]).num_rows,
    "missing": failure(load_dataset, "ethz/food102"),
}))
"""


def test_datasets_load_by_config_revision_and_token(hub: HubStandIn, tmp_path: Path) -> None:
    first = hub.add_dataset("ethz/food101", food(10), revisions={"redder": food(30)})
    assert hub.add_dataset("ethz/food101", food(20)) != first
    hub.add_dataset("ethz/gated", food(40), gated=True)
    tokens = {"token": TOKEN, "stranger": STRANGER_TOKEN}
    seen = run(hub, tmp_path, LOAD_DATASETS, {"commit": first, **tokens})
    assert seen["rows"] == {"train": 6, "validation": 4}
    assert seen["names"] == ["apple_pie", "waffles"]
    assert seen["brief"] == {"test": 2}
    assert (seen["red"], seen["by commit"], seen["by branch"], seen["streamed"]) == (20, 10, 30, 20)
    assert "DatasetNotFoundError: Revision 'nowhere' doesn't exist" in seen["no revision"]
    assert "DatasetNotFoundError: Dataset 'ethz/gated' is a gated dataset on the Hub. You must be" in seen["gated"]
    assert "gated dataset on the Hub. Visit the dataset page" in seen["not let in"]
    assert seen["let in"] == {"train": 6, "validation": 4}
    assert "DatasetNotFoundError: Dataset 'ethz/food102' doesn't exist" in seen["missing"]
    sent = [request.headers["authorization"] for request in hub.requests if "authorization" in request.headers]
    assert set(sent) == {f"Bearer {token}" for token in tokens.values()}


LOAD_MODELS = """
import timm
tiny = timm.create_model("hf-hub:timm/tiny", pretrained=True)
named = timm.create_model("test_resnet.r160_in1k", pretrained=True, num_classes=5)
overlaid = timm.create_model("test_resnet", pretrained=True, pretrained_cfg_overlay={"hf_hub_id": "timm/tiny"},
                             num_classes=3)
print(json.dumps({
    "tiny": [tiny.num_classes, tiny.fc.bias.sum().item()],
    "named": [named.num_classes, named.conv1[0].weight.sum().item()],
    "overlaid": overlaid.conv1[0].weight.sum().item(),
    "missing": failure(timm.create_model, "hf-hub:timm/absent", pretrained=True),
}))
"""


def test_timm_loads_weights_from_a_hub_id(hub: HubStandIn, tmp_path: Path) -> None:
    stems = {}
    for repo_id, classes in {"timm/tiny": 3, "timm/test_resnet.r160_in1k": 1000}.items():
        model = timm.create_model("test_resnet", num_classes=classes)
        model.get_submodule("fc").get_parameter("bias").data.fill_(2.0)
        timm.models.save_for_hf(model, str(tmp_path / repo_id), safe_serialization=True)
        hub.add_model(repo_id, tmp_path / repo_id)
        stems[repo_id] = pytest.approx(model.get_parameter("conv1.0.weight").sum().item(), abs=1e-4)
    seen = run(hub, tmp_path / "home", LOAD_MODELS, {})
    assert seen["tiny"] == [3, 6.0]
    assert seen["named"] == [5, stems["timm/test_resnet.r160_in1k"]]
    assert seen["overlaid"] == stems["timm/tiny"]
    assert "RepositoryNotFoundError: 404" in seen["missing"]


USE_HUB = """
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
stranger, owner = HfApi(token=given["stranger"]), HfApi(token=given["token"])
folder = Path(os.environ["HF_HOME"], "mine")
(folder / "sub").mkdir(parents=True)
(folder / "README.md").write_text("---\\nlicense: mit\\n---\\n")
(folder / "sub" / "model.safetensors").write_bytes(bytes(1000))
repo = owner.create_repo("tiny").repo_id
commits = [owner.upload_folder(repo_id=repo, folder_path=folder).oid for _ in range(2)]
owner.delete_file("README.md", repo)
copy = Path(snapshot_download(repo, revision=commits[0]))
print(json.dumps({
    "gated": failure(hf_hub_download, "org/gated", "a.txt"),
    "not let in": failure(stranger.hf_hub_download, "org/gated", "a.txt"),
    "auth check": failure(stranger.auth_check, "org/gated"),
    "let in": Path(owner.hf_hub_download("org/gated", "a.txt")).read_text(),
    "listed": HfApi().list_repo_files("org/gated"),
    "private": failure(stranger.model_info, "org/private"),
    "no repo": failure(hf_hub_download, "org/none", "a.txt"),
    "no file": failure(hf_hub_download, "org/gated", "none", token=given["token"]),
    "no revision": failure(hf_hub_download, "org/gated", "a.txt", revision="none", token=given["token"]),
    "bad token": failure(HfApi(token="hf_wrong").whoami),
    "cannot write": failure(stranger.create_repo, "other/tiny"),
    "who": [owner.whoami()["name"], repo],
    "commits": commits,
    "copied": sorted(path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()),
    "sizes": {file.rfilename: file.size for file in owner.model_info(repo, files_metadata=True).siblings},
    "after a 503": Path(snapshot_download("org/busy"), "a.txt").read_text(),
    "after a cut": Path(hf_hub_download("org/cut", "weights.bin")).stat().st_size,
}))
"""


def test_hub_client_reads_writes_and_recovers(hub: HubStandIn, tmp_path: Path) -> None:
    hub.add_model("org/gated", {"a.txt": b"secret"}, gated=True)
    hub.add_model("org/private", {"a.txt": b"secret"}, private=True)
    hub.add_model("org/busy", {"a.txt": b"patience"})
    hub.add_model("org/cut", {"weights.bin": bytes(12 << 20)})
    faults = [hub.fault("org/busy/(tree|resolve)", times=2), hub.fault("org/cut/resolve", cut_after=11 << 20)]
    seen = run(hub, tmp_path, USE_HUB, {"token": TOKEN, "stranger": STRANGER_TOKEN})
    assert seen["gated"].startswith("GatedRepoError: 401")
    assert seen["not let in"].startswith("GatedRepoError: 403")
    assert seen["auth check"].startswith("GatedRepoError: 403")
    assert (seen["let in"], seen["listed"]) == ("secret", ["a.txt"])
    assert seen["private"].startswith("RepositoryNotFoundError")
    assert seen["no repo"].startswith("RepositoryNotFoundError")
    assert seen["no file"].startswith("RemoteEntryNotFoundError")
    assert seen["no revision"].startswith("RevisionNotFoundError")
    assert "Invalid user token" in seen["bad token"]
    assert "403 Forbidden" in seen["cannot write"]
    assert seen["who"] == ["owner", "owner/tiny"]
    # The second upload had nothing new to commit.
    assert seen["commits"][0] == seen["commits"][1]
    assert seen["copied"] == [".gitattributes", "README.md", "sub/model.safetensors"]
    assert seen["sizes"] == {".gitattributes": 0, "sub/model.safetensors": 1000}
    assert hub.files("owner/tiny") == {".gitattributes": b"", "sub/model.safetensors": bytes(1000)}
    assert [fault.left for fault in faults] == [0, 0]
    assert (seen["after a 503"], seen["after a cut"]) == ("patience", 12 << 20)
    # The client keeps whole 10 MiB chunks of a broken download and asks for what is missing.
    ranges = [request.headers.get("range") for request in hub.requests if "org/cut/resolve" in request.path]
    assert ranges == [None, None, f"bytes={10 << 20}-"]


def test_ranges_and_unserved_calls(hub: HubStandIn) -> None:
    hub.add_dataset("org/data", {"dir/digits": b"0123456789"})
    connection = http.client.HTTPConnection(hub.endpoint.removeprefix("http://"))

    def get(path: str, wanted: str = "") -> tuple[int, bytes, str | None]:
        connection.request("GET", path, headers={"Range": wanted})
        response = connection.getresponse()
        return response.status, response.read(), response.getheader("Content-Range")

    digits = "/datasets/org/data/resolve/main/dir/digits"
    assert get(digits) == (200, b"0123456789", None)
    assert get(digits, "bytes=2-4") == (206, b"234", "bytes 2-4/10")
    assert get(digits, "bytes=8-99") == (206, b"89", "bytes 8-9/10")
    assert get(digits, "bytes=-3") == (206, b"789", "bytes 7-9/10")
    assert get(digits, "bytes=10-")[::2] == (416, "bytes */10")
    assert get("/api/datasets/org/data/discussions")[0] == 404
    connection.close()


def test_environment_leaves_the_callers_settings_out(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN", "https_proxy", "PLAIN"):
        monkeypatch.setenv(name, "1")
    environment = hub.environment(tmp_path)
    assert environment["PLAIN"] == "1"
    assert environment["HF_ENDPOINT"] == hub.endpoint
    assert environment.keys().isdisjoint({"HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN", "https_proxy"})
