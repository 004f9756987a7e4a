"""A run's folder belongs to one process: it is made, tried and locked when its name is chosen, before data are read.

The lock is the operating system's: it ends with the process, however that ends, and is not inherited by its workers.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from finetune.errors import RunFolderError

try:
    import fcntl
except ImportError:  # Windows: there a folder that is being written has files in it soon, and that is all there is
    fcntl = None  # type: ignore[assignment]

NAME = ".running"
"""The file that is locked; gone when the run has ended by itself."""

_HELD: dict[Path, tuple[IO[str], list[Path]]] = {}
"""By folder: the open file, without which the lock would be gone, and the folders that were made for it."""


def take(path: Path) -> None:
    """Make a folder where it is missing, and lock it.

    Raises:
        RunFolderError: Another process has it, or it cannot be written.
    """
    if path in _HELD:
        return
    made: list[Path] = []
    try:
        for folder in reversed([path, *path.parents]):
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
                made.append(folder)
        stream = (path / NAME).open("a+", encoding="utf-8")
    except OSError as error:
        _unmake(made)
        raise _unwritable(path, error) from error
    try:
        _lock(stream, path)
    except RunFolderError:
        stream.close()
        raise
    _HELD[path] = stream, made


def fresh(candidates: Iterable[Path]) -> Path:
    """The first of some names under which there is nothing yet; its folder is made and locked.

    Raises:
        RunFolderError: It cannot be written, or all names are taken.
    """
    for path in candidates:
        made = []
        try:
            for folder in reversed(path.parents):
                if not folder.is_dir():
                    folder.mkdir(exist_ok=True)
                    made.append(folder)
            path.mkdir()  # of two processes at once one makes it, and the other goes on to the next name
        except FileExistsError:
            continue
        except OSError as error:
            _unmake(made)
            raise _unwritable(path, error) from error
        take(path)
        _HELD[path][1].extend([*made, path])
        return path
    raise RunFolderError("a hundred runs have begun in this second: name this one by --output")


def _lock(stream: IO[str], path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):  # a file system without locks
            return
        stream.seek(0)
        owner = " ".join(stream.read(200).split()) or "it does not say which"
        raise RunFolderError(
            f"another run is writing to {path} ({owner}): give another --output, or wait until it has ended"
        ) from error
    stream.seek(0)
    stream.truncate()
    stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    stream.flush()


def release(path: Path) -> None:
    """Give a folder back; one that has nothing in it goes, with the folders that were made for it."""
    held = _HELD.pop(path, None)
    if held is None:
        return
    stream, made = held
    (path / NAME).unlink(missing_ok=True)
    stream.close()
    _unmake(made)


def _unmake(made: list[Path]) -> None:
    for folder in reversed(made):
        try:
            folder.rmdir()
        except OSError:  # something is in it
            return


def _unwritable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"cannot write to {path}: {error.strerror or error}; give --output a folder that can be")
