"""`--publish`: what is checked before a run begins, and what happens at its end."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import cards
from finetune.console import is_main_process, log
from finetune.errors import ConfigError
from finetune.settings.config import RunConfig
from finetune.settings.limits import VERIFY


def check(config: RunConfig) -> None:
    """Raise for what would keep the run from being published, before anything is read; in the first process only.

    Raises:
        ConfigError: Name, token or permission is missing, the Hub cannot be asked, or the run will have no certificate.
    """
    if config.publish is None or not is_main_process():
        return
    if os.environ.get(VERIFY) == "0":
        raise ConfigError(
            f"--publish needs the certificate, which {VERIFY}=0 leaves out: unset {VERIFY}, or leave out --publish"
        )
    try:
        cards.check_publishing(config.publish)
    except cards.CardError as error:
        raise ConfigError(f"--publish: {error}") from error


def publish(config: RunConfig, run: Path) -> None:
    """Publish a complete run where `--publish` asks for it; a failure is said, and loses nothing of the run."""
    if config.publish is None or not is_main_process():
        return
    command = f"python -m cards publish {shlex.quote(str(run))} --repo-id {config.publish}"
    command += " --private" if config.private else ""
    try:
        cards.publish(run, config.publish, private=config.private, say=log.info)
    except (Exception, KeyboardInterrupt) as error:  # the training is worth more than a tidy end
        reason = "it was stopped" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
        log.warning(f"warning: the run is complete, but not published: {reason}")
        log.warning(f"publish it by `{command}`")
