"""RunResult <-> result.json: every number that anything downstream prints."""

from __future__ import annotations

import base64
import dataclasses
import json
from dataclasses import dataclass, field
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune.errors import RunFolderError
from finetune.runs import reading
from finetune.runs.runfolder import write_text

SCHEMA_VERSION = 1
_PACKAGES = ("resnest-timm", "torch", "torchvision", "timm", "lightning", "torchmetrics", "datasets", "huggingface_hub")


@dataclass(frozen=True, repr=False)
class RunResult:
    """The outcome of a run, see docs/reference/result.md for each key.

    Attributes:
        task: Hub's name of the task.
        model: `name`, `architecture`, `pretrained_tag`, `parameters`, `image_size`, ...
        dataset: `id`, `config`, `revision`, `license`, `classes`, `splits`, `held_out`, ...
        metrics: `validation` and `test`, computed in float32 on the exported weights.
        training: `epochs`, `best_epoch`, `batch_size`, `seconds`, `images_per_second`, `devices`, `precision`, ...
        seed: Of everything random.
        evaluation: `majority_class`, `intervals`, `per_class`, `confusion`, `calibration`, `mistakes`, `figures`, and
            where they are there `probe` and `seeds`; empty in runs of earlier versions.
        environment: Package versions.
        command: Arguments of `python -m finetune` that repeat the run, see `finetune.settings.command`; empty for a
            dataset in memory, and in runs of earlier versions.
        folder: The run folder; not in the file.
    """

    task: str
    model: dict[str, Any]
    dataset: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    training: dict[str, Any]
    seed: int
    evaluation: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=lambda: {name: version(name) for name in _PACKAGES})
    command: list[str] = field(default_factory=list)
    folder: Path | None = None

    def __repr__(self) -> str:
        """One line: `result.metrics` and the others have the numbers."""
        scores = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.get("test", {}).items())
        return f"RunResult({self.model['architecture']} on {self.dataset['id']}: test {scores}; {self.folder})"

    def _repr_html_(self) -> str:
        """For notebooks: the scores and the figures."""
        roles = [role for role in ("test", "validation") if role in self.metrics]
        head = "".join(f"<th>{role}</th>" for role in roles)
        rows = "".join(
            f"<tr><td>{escape(name)}</td>{''.join(f'<td>{self.metrics[role][name]:.4f}</td>' for role in roles)}</tr>"
            for name in self.metrics[roles[0]]
        )
        pictures = (
            f'<img style="max-width:48%" alt="{escape(name)}" src="data:image/png;base64,'
            f'{base64.b64encode(path.read_bytes()).decode()}">'
            for name, of in self.evaluation.get("figures", {}).items()
            if self.folder and (path := self.folder / "model" / of).is_file()
        )
        return f"<p>{escape(repr(self))}</p><table><tr><th></th>{head}</tr>{rows}</table>{''.join(pictures)}"

    def save(self, path: Path) -> None:
        """Write result.json, whole or not at all."""
        content = {"schema_version": SCHEMA_VERSION} | dataclasses.asdict(self)
        del content["folder"]
        write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> RunResult:
        """Read result.json.

        Raises:
            RunFolderError: It is missing, damaged, or of another version.
        """
        if not path.is_file():
            raise RunFolderError(f"{path.parent} holds no complete run: no {path.name}")
        content = reading.read(path, {"schema_version?": object})
        if content.pop("schema_version", None) != SCHEMA_VERSION:
            raise RunFolderError(
                f"{path} is not of schema version {SCHEMA_VERSION}: read it with the version that wrote it"
            )
        if found := reading.problem(content, reading.RESULT):
            raise RunFolderError(f"{path} is damaged: {found}; {reading.ADVICE}")
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(folder=path.parent, **{key: value for key, value in content.items() if key in known})
