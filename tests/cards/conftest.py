"""A run's folder for the tests of cards."""

import json

import pytest


@pytest.fixture
def run_of(tmp_path):
    """A run folder that holds a result, and the figures that it names."""

    def make(result, figures=True):
        folder = tmp_path / "model" / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        for path in result.get("evaluation", {}).get("figures", {}).values() if figures else ():
            (tmp_path / "model" / path).write_bytes(b"PNG")
        (tmp_path / "result.json").write_text(json.dumps(result), encoding="utf-8")
        return tmp_path

    return make
