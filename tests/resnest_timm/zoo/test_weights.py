"""Weights that exist only at a URL, from a server on this machine: fetched once, checked, loaded strictly."""

import hashlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import timm
import torch
from timm.models.resnet import ResNet
from torch import Tensor

from resnest_timm import WeightsError
from resnest_timm.zoo.weights import verified_overlay
from tests.resnest_timm.helpers import create

NAME = "resnest50_fast_2s1x64d"
SMALL: dict[str, Any] = {"layers": [1, 1, 1, 1], "channels": (8, 8, 16, 16), "stem_width": 8}


class Server(ThreadingHTTPServer):
    """Serves a folder, and notes what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[str] = []
        self.folder = folder
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))

    def url(self, file: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{file}"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    with Server(folder) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def weights() -> dict[str, Tensor]:
    return create(NAME, **SMALL).float().state_dict()


def publish(server: Server, sha256: str | None = None) -> str:
    """Put weights on the server under their name; the URL."""
    file = server.folder / "weights.pth"
    torch.save(weights(), file)
    sha256 = sha256 or hashlib.sha256(file.read_bytes()).hexdigest()
    return server.url(file.rename(server.folder / f"{NAME}-{sha256[:8]}.pth").name)


def load(url: str, cache: Path, name: str = NAME, **kwargs: Any) -> ResNet:
    return timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay={"url": url}, cache_dir=cache, **{**SMALL, **kwargs}
    )


def assert_loaded(model: ResNet, prefix: str = "") -> None:
    expected = {key: tensor for key, tensor in weights().items() if key.startswith(prefix)}
    actual = {key: tensor for key, tensor in model.state_dict().items() if key.startswith(prefix)}
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[key], tensor) for key, tensor in expected.items())


@pytest.mark.parametrize("tag", ["", ".in1k"])
def test_loads_exactly_the_published_weights_and_fetches_them_once(tag: str, server: Server, cache: Path) -> None:
    url = publish(server)
    assert_loaded(load(url, cache, NAME + tag))
    assert [path.name for path in cache.iterdir()] == [url.rpartition("/")[2]]
    assert_loaded(load(url, cache, NAME + tag))
    assert len(server.requests) == 1


def test_another_number_of_classes_drops_the_classifier_alone(server: Server, cache: Path) -> None:
    model = load(publish(server), cache, num_classes=10)
    assert model.fc.weight.shape == (10, 64)
    assert_loaded(model, "layer")
    assert_loaded(model, "conv1")
    assert_loaded(model, "bn1")


def test_features_and_one_channel_are_loaded_too(server: Server, cache: Path) -> None:
    url = publish(server)
    features = load(url, cache, features_only=True)
    assert torch.equal(features.layer4[0].conv2.fc2.weight, weights()["layer4.0.conv2.fc2.weight"])
    grey = load(url, cache, in_chans=1)
    expected = weights()["conv1.0.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(grey.conv1[0].weight.data, expected)


def test_weights_of_another_network_are_refused(server: Server, cache: Path) -> None:
    """Loading is strict."""
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict.*layer1.1.conv1.weight"):
        load(publish(server), cache, layers=[2, 1, 1, 1])


def test_a_wrong_hash_is_refused_and_nothing_kept(server: Server, cache: Path) -> None:
    url = publish(server, sha256="0123abcd")
    with pytest.raises(WeightsError, match=f"{url} does not have the SHA-256 that its name gives.*It was not kept"):
        load(url, cache)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("query", ["", "?download=true"])
def test_a_damaged_copy_is_fetched_again(query: str, server: Server, cache: Path) -> None:
    url = publish(server)
    cache.mkdir()
    kept = cache / url.rpartition("/")[2]
    kept.write_bytes((server.folder / kept.name).read_bytes()[:-1])
    assert_loaded(load(url + query, cache))
    assert len(server.requests) == 1
    assert kept.read_bytes() == (server.folder / kept.name).read_bytes()


def test_a_missing_file_is_reported_as_such(server: Server, cache: Path) -> None:
    with pytest.raises(OSError, match="404"):
        load(server.url(f"{NAME}-0123abcd.pth"), cache)
    assert list(cache.iterdir()) == []


def test_without_a_cache_folder_it_is_kept_with_torch_hubs(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = publish(server)
    overlay = verified_overlay(NAME, overlay={"url": url})
    assert overlay == {"url": url, "file": str(tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2])}


def test_not_pretrained_fetches_nothing(server: Server, cache: Path) -> None:
    timm.create_model(NAME, pretrained_cfg_overlay={"url": publish(server)}, cache_dir=cache, **SMALL)
    assert server.requests == []


@pytest.mark.parametrize("source", ["file", "state_dict"])
def test_weights_of_the_callers_own_pass_untouched(source: str, server: Server, cache: Path, tmp_path: Path) -> None:
    """A file in timm's sense has no hash to check; the URL is left alone."""
    overlay: dict[str, Any] = {"url": publish(server), "state_dict": weights()}
    if source == "file":
        torch.save(weights(), tmp_path / "own.pth")
        overlay = {"url": overlay["url"], "file": str(tmp_path / "own.pth")}
    assert_loaded(timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay, cache_dir=cache, **SMALL))
    assert verified_overlay(NAME, overlay=overlay, cache_dir=cache) == overlay
    assert server.requests == []
    assert not cache.exists()


def test_weights_on_the_hub_pass_untouched() -> None:
    assert verified_overlay("resnest50d") == {}
    assert verified_overlay("resnest50", "in1k", {"num_classes": 7}) == {"num_classes": 7}
    assert verified_overlay("resnest50d", {"hf_hub_id": "me/mine"}) == {}
    assert verified_overlay(NAME, overlay={"hf_hub_id": "me/mine"}) == {"hf_hub_id": "me/mine"}
    assert verified_overlay(NAME, {"source": "local-dir", "file": "somewhere"}) == {}


def test_a_config_in_place_of_the_registered_one(server: Server, cache: Path) -> None:
    url = publish(server)
    overlay = verified_overlay("resnest50d", {"url": url}, {"num_classes": 7}, cache)
    assert overlay == {"num_classes": 7, "file": str(cache / url.rpartition("/")[2])}


@pytest.mark.parametrize("name", ["resnest152", "resnest101_fast"])
def test_never_released_weights_are_an_error_that_lists_the_released(name: str) -> None:
    message = f"No weights were ever released for {name}: pass pretrained=False. Released: .*resnest50_fast_1s1x64d"
    with pytest.raises(WeightsError, match=message):
        timm.create_model(name, pretrained=True)
    assert issubclass(WeightsError, RuntimeError)
