"""What a sweep of ten trials brings on real photographs: the winner's paired difference to the preset on test.

    python benchmarks/sweep.py DATASET MODEL [TRIALS]

DATASET and MODEL as `train` takes them. Prints every trial, and whether the upper end of the difference's interval is
below 0, which would say that the search made the model worse.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path


def main(dataset: str, model: str, trials: str = "10") -> int:
    """Sweep in a folder of its own; 1 where the winner is worse than the preset."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "finetune", "sweep", "--dataset", dataset, "--model", model]
        subprocess.run([*command, "--trials", trials, "--output", folder], check=True)
        found = json.loads((Path(folder) / "sweep.json").read_text(encoding="utf-8"))
    if found["test"] is None:
        print("the preset won")
        return 0
    (comparison,) = found["test"]["comparisons"]
    first = next(iter(comparison["metrics"].values()))
    print(json.dumps(first))
    return int(first["interval"][1] < 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
