"""Who may talk to the demo's page: browsers that were told this address, and pages that came from it."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PREFIX = "finetune-demo-"
"""How the names of folders for uploads begin; the process that made one follows."""
KEPT = 30.0
"""Seconds that an uploaded image stays after its answer: the page itself shows it."""

_EVERYWHERE = ("0.0.0.0", "::", "")
_READING = ("GET", "HEAD", "OPTIONS")


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def names(host: str) -> frozenset[str]:
    """The names by which a page that listens on `host` may be called; addresses besides, where it listens on all."""
    host = host.strip("[]").lower()
    if host in _EVERYWHERE:
        return frozenset(("localhost", socket.gethostname().lower(), socket.getfqdn().lower()))
    return frozenset((host, "localhost", "127.0.0.1", "::1") if is_loopback(host) else (host,))


class Doors:
    """ASGI middleware that refuses other names of this machine, and posts that pages of others make.

    A name that somebody else's DNS points here would let that page read all answers (DNS rebinding); a form on any page
    could fill the disk.

    Args:
        app: The page.
        host: On which it listens.
    """

    def __init__(self, app: Any, host: str) -> None:
        self.app, self.names, self.everywhere = app, names(host), host.strip("[]") in _EVERYWHERE

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers a request, or hands it on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        status = self.refusal(headers, "POST" if scope["type"] == "websocket" else scope["method"])
        if status is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            words = b"this page answers only to the address it was started for, and to itself\n"
            head = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(words)).encode())]
            await send({"type": "http.response.start", "status": status, "headers": head})
            await send({"type": "http.response.body", "body": words})

    def refusal(self, headers: dict[str, str], method: str) -> int | None:
        """The status of a refusal, or None."""
        called = headers.get("host", "")
        if not self.knows(urlsplit(f"//{called}").hostname or ""):
            return 421
        if method in _READING:
            return None
        origin = headers.get("origin")
        foreign = headers.get("sec-fetch-site") == "cross-site" or (
            origin is not None and urlsplit(origin).netloc.lower() != called.lower()
        )
        return 403 if foreign else None

    def knows(self, name: str) -> bool:
        """Whether the page goes by a name; a bare address is nobody's name."""
        if name.lower() in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.everywhere


def make_folder() -> Path:
    """A folder for uploads, after those of processes that are gone have been removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        number = left.name.removeprefix(PREFIX).partition("-")[0]
        if number.isdigit() and not left.is_symlink() and _mine(left) and not _runs(int(number)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))


def _mine(folder: Path) -> bool:
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()


def _runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def remove_later(path: Path, seconds: float = KEPT) -> None:
    """Remove an uploaded file, and the folder that Gradio has made for it alone, when the page has shown it."""

    def remove() -> None:
        with contextlib.suppress(OSError):  # something else is in the folder, or it is gone
            if time.time() - path.stat().st_mtime > 0.9 * seconds:  # or the same image was dropped again
                path.unlink()
                path.parent.rmdir()

    timer = threading.Timer(seconds, remove)
    timer.daemon = True
    timer.start()
