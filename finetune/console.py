"""What a run says. The library logs; the command line prints the log, on the first process only."""

from __future__ import annotations

import io
import logging
import os
import select
import sys
from typing import TextIO

from finetune.text import visible

log = logging.getLogger("finetune")


def is_main_process() -> bool:
    """Whether this is the first of the processes that Lightning, torchrun or SLURM started."""
    ranks = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")
    return all(os.environ.get(rank, "0") == "0" for rank in ranks)


def interactive() -> bool:
    """Whether somebody watches, so that a progress bar makes sense."""
    return sys.stdout.isatty() and sys.stderr.isatty()


class _AboveBars(logging.StreamHandler[TextIO]):
    """Prints above a progress bar, which then goes on below."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        from tqdm import tqdm

        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def show_in_notebooks() -> None:
    """Print what a run says where a program that calls it has set up no logging, as a notebook has not."""
    if not log.hasHandlers() and log.level == logging.NOTSET:
        set_up(sys.stdout)


class _Visible(logging.Formatter):
    """What the log says in characters that do nothing but show: names of datasets may hold others."""

    def format(self, record: logging.LogRecord) -> str:
        """A message, which may have several lines."""
        return visible(super().format(record), keep="\n")


def set_up(stream: TextIO) -> None:
    """Print the log's messages to `stream`; no progress bars where nobody watches."""
    if isinstance(stream, io.TextIOWrapper):  # names of any letters, in a locale that lacks them
        stream.reconfigure(errors="backslashreplace")
    handler = _AboveBars(stream) if interactive() else logging.StreamHandler(stream)
    handler.setFormatter(_Visible("%(message)s"))
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.INFO if is_main_process() else logging.ERROR)
    if not interactive():  # before the libraries are imported, which read these
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from cards import guard

    guard()


def shown(name: str) -> str:
    """A file's name as it can be printed and stored: UTF-8, whatever the locale; bytes that are none are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def without_tokens(text: str) -> str:
    """What may be printed of an error; what knows the tokens is imported only where there may be one."""
    known = (os.environ.get(name, "\0") for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"))
    if not any(mark in text for mark in ("hf_", "api_org_", "://", *known)):
        return text
    from cards import redact

    return redact(text)


def nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader is gone, as after `| head`; Python then says no more of it."""
    try:
        ends = select.poll()
        ends.register(sys.stdout.fileno(), select.POLLERR)
        gone = any(event & select.POLLERR for _, event in ends.poll(0))
        if gone:  # or else Python says so once more when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (AttributeError, OSError, ValueError):  # no such thing on Windows; standard output is no file
        return False
    return gone
