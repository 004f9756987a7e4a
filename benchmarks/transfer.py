"""Transfer from pretrained weights: ours, a linear probe, transformers' Trainer and fastai on the same few images.

    python benchmarks/transfer.py --model resnet18.a1_in1k --dataset FOLDER:200 FOLDER:1000

Writes every run to --results and prints Markdown tables; benchmarks/README.md says what is measured, and how.
"""

from __future__ import annotations

import datetime
import importlib.util
import math
import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import timm
import torch
import tyro
from transfer_data import Case, Files, write
from transfer_results import Request, Results, Run
from transfer_rows import Place, Row
from transfer_table import OURS, table

Kind = Literal["ours", "probe", "trainer", "fastai"]
NEEDED = {"probe": ("sklearn", "scipy"), "trainer": ("accelerate", "transformers"), "fastai": ("fastai",)}
NAMES = {"trainer": "Trainer", "fastai": "fastai"}


@dataclass
class Options:
    """What is compared."""

    dataset: tuple[str, ...]
    """DATASET or DATASET:IMAGES, any number: as `python -m finetune` takes it, and how many training images are used,
    validation included; all when not given."""
    model: str
    """timm name with weights, hf-hub:OWNER/NAME or local-dir:PATH."""
    image_size: int = 128
    """Side of the square images in pixels."""
    subsets: int = 3
    """So many are carved of each dataset; one where all images are used."""
    seeds: int = 3
    """Runs on each subset."""
    epochs: int | None = None
    """Of all; ours has its preset's when not given, and the peers have what ours has."""
    ours: str = ""
    """Further flags of `python -m finetune`, in quotes."""
    short: tuple[int, ...] = (1, 2, 3, 5)
    """Runs of ours with so few epochs, with the first seed, for the time to a peer's accuracy."""
    trainer_rates: tuple[float, ...] = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3)
    """Learning rates that are tried for the Trainer on the first subset."""
    fastai_rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
    """The same for fastai's base_lr."""
    rows: tuple[Kind, ...] = ("ours", "probe", "trainer", "fastai")
    """Which to run; the table has all of the file."""
    score: Literal["test", "validation-pool"] = "test"
    """What is scored; validation-pool: training images in no subset, so that the test images stay unread."""
    results: Path = Path("transfer.jsonl")
    """File of all runs; what it has is not run again."""
    table: bool = False
    """Run nothing: print the tables of the file."""
    threads: int = 2
    """Of each process."""
    fastai_python: Path | None = None
    """Interpreter with fastai, torch, timm and datasets, where fastai is not installed beside ours."""

    @property
    def settings(self) -> dict[str, Any]:
        """What all runs of a file have in common."""
        name = Path(self.model).name if self.model.startswith("local-dir:") else self.model
        size, subsets, threads = self.image_size, self.subsets, self.threads
        return {"model": name, "image_size": size, "score": self.score, "subsets": subsets, "threads": threads}


class Benchmark:
    """Runs what the results do not have yet.

    Args:
        options: Of the command line.
        results: The file.
        place: Where runs take place.
    """

    def __init__(self, options: Options, results: Results, place: Place) -> None:
        self.options, self.results, self.place = options, results, place

    def measure(self, case: Case, files: list[Files]) -> None:
        """All rows of a case: in turn, so that a machine that grows slower slows all of them."""
        rows = [row for row in self._rows() if (row.peer or "ours") in self.options.rows]
        for seed in range(self.options.seeds):
            for subset in range(len(files)):
                for row in rows:
                    if seed and row.seeds != "all":
                        continue
                    if row.batch_as_ours and row.lr is None:
                        row = self._swept(case, row, files[0])
                    self._run(row, case, subset, seed, files[subset], files[subset].score)

    def _rows(self) -> list[Row]:
        """As they follow each other; ours first, because the peers have its epochs and batches."""
        fixed = "" if self.options.epochs is None else f"--epochs {self.options.epochs}"
        flags = f"{self.options.ours} {fixed}".strip()
        short = [epochs for epochs in self.options.short if epochs < (self.options.epochs or math.inf)]
        found = [Row(OURS, flags=flags), Row(f"{OURS}, --freeze backbone", flags="--freeze backbone", seeds="none")]
        for epochs in short:
            flag = f"--epochs {epochs}"
            found.append(Row(f"{OURS}, {flag}", flags=f"{self.options.ours} {flag}".strip(), seeds="first"))
        found.append(Row("probe, train and validation", "probe", seeds="none", with_validation=True))
        found.append(Row("probe, train alone", "probe", seeds="none"))
        for peer, name in NAMES.items():
            found += [Row(f"{name}, defaults", peer), Row(f"{name}, swept", peer, batch_as_ours=True)]
        return found

    def _run(self, row: Row, case: Case, subset: int, seed: int, files: Files, score: Path) -> Run:
        """The answer of the results, or a run."""
        given = None if row.seeds == "none" else seed
        request = Request(case.name, subset, given, row.name, row.flags)
        if row.peer in NAMES:
            ours = self._ours(case)
            batch = ours["batch_size"] if row.batch_as_ours else None
            request = Request(case.name, subset, given, row.name, "", ours["epochs"], batch, row.lr)
        found = self.results.find(request)
        if found is None:
            found = self.place.run(request, row, files, score)
            self.results.add(found)
            where = f"{case.name}, subset {subset}, seed {seed}"
            print(f"{where}: {row.name}: {found.accuracy:.4f}, {found.seconds:.1f} s", file=sys.stderr, flush=True)
        return found

    def _ours(self, case: Case) -> dict[str, Any]:
        """Epochs and batch size of ours."""
        runs = self.results.rows(case.name).get(OURS)
        if not runs:
            raise ValueError(f"{case.name}: expected runs of ours in {self.results.path}, whose epochs the peers have")
        return runs[0].facts

    def _swept(self, case: Case, row: Row, files: Files) -> Row:
        """A row with the rate that is best on images that are neither trained on nor test images."""
        rates = getattr(self.options, f"{row.peer}_rates")
        runs = []
        for rate in rates:
            name = f"{NAMES[str(row.peer)]}, sweep {rate:g}"
            trial = Row(name, row.peer, lr=rate, batch_as_ours=True)
            runs.append(self._run(trial, case, 0, 0, files, files.sweep))
        best = max(runs, key=better)
        return Row(row.name, row.peer, lr=best.request.lr, batch_as_ours=True)


def missing(options: Options) -> list[str]:
    """Packages that the rows need and that are not there; said before anything has trained for minutes."""
    own = [] if options.fastai_python is None else ["fastai"]
    needed = [name for kind in options.rows if kind not in own for name in NEEDED.get(kind, ())]
    return [name for name in dict.fromkeys(needed) if importlib.util.find_spec(name) is None]


def show(case: Case, results: Results, options: Options) -> str:
    """The table of a case, and under it what was tried."""
    rows = results.rows(case.name)
    swept = {name: runs for name, runs in rows.items() if ", sweep " in name}
    shown = {name: runs for name, runs in rows.items() if name not in swept}
    if not shown:
        return f"### {case.name}\n\nnothing measured yet"
    notes = {name: f" ({runs[-1].request.lr:g})" for name, runs in shown.items() if runs[-1].request.lr is not None}
    images = len(next(iter(shown.values()))[0].correct)
    facts = [runs[0].facts for name, runs in shown.items() if name == OURS]
    epochs = f"; {facts[0]['epochs']} epochs, batches of {facts[0]['batch_size']} in ours" if facts else ""
    lines = [f"### {case.name}: scored on {images} images ({options.score}){epochs}", "", table(shown, notes)]
    return "\n".join(lines + tried(swept))


def tried(swept: dict[str, list[Run]]) -> list[str]:
    """What each rate gave on the images that rates are tried on; a best one at an end of its grid is named."""
    lines = []
    for name in NAMES.values():
        runs = [runs[-1] for row, runs in swept.items() if row.startswith(f"{name},")]
        if runs:
            runs.sort(key=lambda run: run.request.lr or 0.0)
            shares = [f"{run.request.lr:g}: {run.accuracy:.3f}" for run in runs]
            best = max(runs, key=better)
            edge = f" The best, {best.request.lr:g}, is at an end of the grid." if best in (runs[0], runs[-1]) else ""
            lines += ["", f"{name}, rates tried on other images: {', '.join(shares)}.{edge}"]
    return lines


def better(run: Run) -> tuple[float, float]:
    """Of two rates: the more accurate one, and of equals that of the lower loss."""
    return run.accuracy, -run.loss


def header(options: Options) -> str:
    versions = f"torch {torch.__version__}, timm {timm.__version__}, python {platform.python_version()}"
    return (
        f"{datetime.date.today()}; {options.settings['model']}, {options.image_size} px, {options.threads} threads; "
        f"{versions}\n"
    )


def run(options: Options) -> None:
    """Measure and print."""
    results = Results(options.results, options.settings)
    cases = [Case.parse(text) for text in options.dataset]
    if not options.table:
        if options.model.startswith("local-dir:"):  # the processes run elsewhere
            options.model = f"local-dir:{Path(options.model.removeprefix('local-dir:')).expanduser().resolve()}"
        pythons = {} if options.fastai_python is None else {"fastai": str(options.fastai_python.absolute())}
        place = Place(options.model, options.image_size, options.threads, pythons, options.settings)
        datasets.disable_progress_bars()
        with tempfile.TemporaryDirectory() as folder:
            for case in cases:
                written = write(case, options.subsets, options.score, Path(folder))
                Benchmark(options, results, place).measure(case, written)
    print(header(options))
    print("\n\n".join(show(case, results, options) for case in cases))


def main(arguments: list[str] | None = None) -> int:
    options = tyro.cli(Options, args=arguments, description=__doc__)
    if not options.table and (absent := missing(options)):
        print(f"error: no {' and no '.join(absent)}: pip install 'resnest-timm[bench]'", file=sys.stderr)
        return 2
    try:
        run(options)
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RuntimeError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
