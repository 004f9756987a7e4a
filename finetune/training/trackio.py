"""Trackio for Lightning, which has no logger of its own for it."""

from __future__ import annotations

import contextlib
import io
import os
import uuid
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from finetune.errors import ConfigError

_ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID")


class TrackioLogger(Logger):
    """Records a run with Trackio: in a local database, or where Trackio's own variables say.

    Nothing is asked of any network, and no dashboard starts, unless TRACKIO_SPACE_ID, TRACKIO_SERVER_URL or
    TRACKIO_BUCKET_ID is set. Points that a killed run had logged after its last checkpoint stay, beside those of the
    same steps that the run logs when it goes on: Trackio cannot take points back. It writes twice a second, so that
    kill -9 costs what was logged last.

    Args:
        project: Trackio's, under which it shows runs together.
        name: What the run is called there.
        folder: Of the database, where TRACKIO_DIR says nothing.
        version: Id of the run that is gone on with; a new one when not given.
    """

    def __init__(self, project: str, name: str, folder: Path, version: str | None = None) -> None:
        super().__init__()
        self._project, self._name, self._folder = project, name, folder.absolute()
        self._version = version or uuid.uuid4().hex
        self._settings: dict[str, Any] = {}
        self._run: Any = None

    @property
    def name(self) -> str:
        """The project."""
        return self._project

    @property
    def version(self) -> str:
        """Id of the run."""
        return self._version

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `trackio.Run`; opened anew where something is logged after `finalize`, as results are.

        Raises:
            ConfigError: Trackio was imported for another folder.
        """
        if self._run is None:
            trackio = _trackio(self._folder)
            # Trackio's watch over CPU and GPU depends on what else is installed; what a run costs is logged anyway.
            silent = {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
            with _unheard():
                self._run = trackio.init(self._project, self._name, config=self._settings, **silent)
            # Trackio itself resumes by name, and may so find the run of another folder of that name.
            self._run.id = self._version
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Settings go with the first metrics that are logged after them, in place of those of an earlier part."""
        self._settings |= vars(params) if isinstance(params, Namespace) else params
        self.experiment.config.update(self._settings)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Points of one optimizer step."""
        self.experiment.log(metrics, step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Wait until everything is written, or sent."""
        if self._run is not None:
            import trackio

            with _unheard():
                trackio.finish()  # after the run's own `finish` Trackio would say at exit that it uploads
            self._run = None


def _trackio(folder: Path) -> Any:
    """Import Trackio, which looks at TRACKIO_DIR then and never again."""
    chosen = os.environ.get("TRACKIO_DIR")
    os.environ["TRACKIO_DIR"] = chosen or str(folder)
    try:
        import trackio
    finally:
        if chosen is None:
            del os.environ["TRACKIO_DIR"]
        else:
            os.environ["TRACKIO_DIR"] = chosen
    found, wanted = Path(trackio.TRACKIO_DIR), Path(chosen or folder)
    if found != wanted and not _elsewhere():
        raise ConfigError(
            f"--logger trackio: the database belongs into {wanted}, but in this process Trackio has {found}, and keeps "
            "one folder; start Python anew, or set TRACKIO_DIR before that: then all runs share a database there"
        )
    return trackio


def _elsewhere() -> bool:
    return any(os.environ.get(name) for name in _ELSEWHERE)


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Keep a local Trackio from asking the Hub who is logged in, and from printing about uploads that are none."""
    if _elsewhere():
        yield
        return
    online, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        constants.HF_HUB_OFFLINE = online
