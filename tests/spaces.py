"""A Space's app on a machine that has stock libraries alone, and the model from the Hub's stand-in."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cards.space import folder as space
from tests.hub_standin import HubStandIn

needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs the extra gradio")

_ASK = """
import json, sys
sys.path.insert(0, sys.argv[1])
import app
import numpy as np
from PIL import Image
pictures = [Image.open(path) for path in sys.argv[2:]]
{code}
known = sorted({{"cards", "finetune", "resnest_timm"}} & set(sys.modules))
print(json.dumps({{"said": said, "known": known, "title": app.demo.title}}))
"""


def asked(model: Path, pictures: list[Path], code: str, folder: Path):
    """What the app says of pictures.

    Args:
        model: A run's model/.
        pictures: Files.
        code: Makes `said`, JSON values, of `pictures` with `app` and numpy.
        folder: Is empty.
    """
    made = space.build(model, "owner/model", folder / "space")
    with HubStandIn() as hub:
        hub.add_model("owner/model", model)
        command = [sys.executable, "-c", _ASK.format(code=code), made, *pictures]
        env = hub.environment(folder / "home") | {"HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["known"] == []
    assert answer["title"] == "owner/model"
    return answer["said"]
