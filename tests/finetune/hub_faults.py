"""Run as a program: a stand-in Hub and its real clients in one process, a fault at a time; prints JSON by fault.

Sleeps are recorded, not slept. For each fault and target, what the first try said, what the cache then held that is not
what its name says, and what a second try said, after the fault.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

from tests.hub_standin import HubStandIn

FILES, QUESTIONS = r"resolve/.*(parquet|safetensors)", r"/api/(datasets|models)/"
PAUSE = {"Retry-After": "5"}
FAULTS = {
    "401": (FILES, {"status": 401, "times": 99}),
    "403": (FILES, {"status": 403, "times": 99}),
    "404": (FILES, {"status": 404, "times": 99}),
    "429": (FILES, {"status": 429, "times": 99, "headers": PAUSE}),
    "503": (FILES, {"status": 503, "times": 99}),
    "cut": (FILES, {"cut_after": 1000, "times": 99}),
    "damaged": (FILES, {"corrupt": True, "times": 99}),
    "429 at first": (FILES, {"status": 429, "times": 2, "headers": PAUSE}),
    "503 for a while": (FILES, {"status": 503, "times": 3}),
    "cut once": (FILES, {"cut_after": 1000, "times": 1}),
    "damaged once": (FILES, {"corrupt": True, "times": 1}),
    "429 of a question": (QUESTIONS, {"status": 429, "times": 2, "headers": PAUSE}),
    "503 of a question": (QUESTIONS, {"status": 503, "times": 99}),
}


def main(home: Path) -> None:
    with HubStandIn() as hub:
        os.environ.clear()
        os.environ.update(hub.environment(home))
        sleeps: list[float] = []
        time.sleep = sleeps.append
        print(json.dumps({name: play(hub, home, name, sleeps) for name in FAULTS}))


def play(hub, home, name, sleeps):
    import safetensors.torch
    import timm

    from finetune.data import source
    from finetune.networks import models
    from tests.finetune.data.test_hub import CARD, shard

    number = list(FAULTS).index(name)
    table = shard(60, number), shard(21, 100 + number)
    paths = "data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"
    hub.add_dataset(f"org/data{number}", {"README.md": CARD.encode(), **dict(zip(paths, table, strict=True))})
    model = timm.create_model("test_resnet", num_classes=3)
    weights = safetensors.torch.save({key: value.contiguous() for key, value in model.state_dict().items()})
    config = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": {"input_size": [3, 64, 64]}}
    hub.add_model(f"org/model{number}", {"config.json": json.dumps(config).encode(), "model.safetensors": weights})
    targets = {
        "dataset": lambda: source.load(f"org/data{number}").splits.num_rows,
        "model": lambda: sorted(models.build(f"hf-hub:org/model{number}", 3).state_dict())[0],
    }
    found = {}
    pattern, fault = FAULTS[name]
    for target, load in targets.items():
        sleeps.clear()
        before = len(hub.requests)
        played = hub.fault(pattern, **fault)
        first = attempt(load)
        left, played.left = played.left, 0
        found[target] = {
            "first": first,
            "broken": broken(home),
            "sleeps": list(sleeps),
            "requests": len(hub.requests) - before,
            "left": left,
            "second": attempt(load),
        }
    return found


def attempt(load):
    try:
        return load()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def broken(home):
    """Files of the cache that are not what their names say."""
    bad = []
    for blob in home.glob("hub/*/blobs/*"):
        data = blob.read_bytes()
        names = {hashlib.sha256(data).hexdigest(), hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
        bad += [] if blob.name in names else [blob.name]
    return bad


if __name__ == "__main__":
    main(Path(sys.argv[1]))
