"""The demo answers to its own names and its own page, and keeps nothing of what was dropped on it."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time

import pytest

from finetune.serving import doors
from finetune.serving.doors import Doors


def ask(host, headers, method="GET", kind="http"):
    """The status of an answer; 200 of the page itself."""
    sent = []

    async def page(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "method": method, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
    asyncio.run(Doors(page, host)(scope, None, send))
    return sent[0].get("status", sent[0].get("code"))


@pytest.mark.parametrize(
    ("host", "called", "status"),
    [
        ("127.0.0.1", "127.0.0.1:7860", 200),
        ("127.0.0.1", "localhost:7860", 200),
        ("127.0.0.1", "LOCALHOST", 200),
        ("::1", "[::1]:7860", 200),
        ("127.0.0.1", "evil.example:7860", 421),
        ("127.0.0.1", "localhost.evil.example", 421),
        ("127.0.0.1", "192.168.1.2", 421),
        ("127.0.0.1", "", 421),
        ("0.0.0.0", "192.168.1.2:7860", 200),
        ("0.0.0.0", "[fe80::1]:7860", 200),
        ("0.0.0.0", f"{os.uname().nodename}:7860", 200),
        ("0.0.0.0", "evil.example", 421),
        ("demo.example", "demo.example", 200),
        ("demo.example", "localhost", 421),
    ],
)
def test_it_answers_to_the_names_it_was_started_for(host, called, status):
    assert ask(host, {"Host": called}) == status


HERE = {"host": "127.0.0.1:7860"}


@pytest.mark.parametrize(
    ("headers", "method", "status"),
    [
        ({}, "POST", 200),  # of no browser
        ({"origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin"}, "POST", 200),
        ({"origin": "http://evil.example"}, "POST", 403),
        ({"origin": "http://127.0.0.1:9999"}, "POST", 403),
        ({"origin": "null"}, "POST", 403),
        ({"sec-fetch-site": "cross-site"}, "POST", 403),
        ({"origin": "http://evil.example"}, "DELETE", 403),
        ({"origin": "http://evil.example"}, "GET", 200),  # a browser does not show the answer to that page
    ],
)
def test_posts_of_other_origins_are_refused(headers, method, status):
    assert ask("127.0.0.1", HERE | headers, method) == status


def test_sockets_of_other_origins_are_closed():
    assert ask("127.0.0.1", HERE | {"origin": "http://evil.example"}, kind="websocket") == 1008
    assert ask("127.0.0.1", HERE | {"origin": "http://127.0.0.1:7860"}, kind="websocket") == 200


def test_what_a_killed_demo_has_left_goes_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    kept = [f"finetune-demo-{os.getpid()}-x", "finetune-demo-x", "other"]
    for name in (*kept, f"finetune-demo-{gone.pid}-x"):
        (tmp_path / name / "hash").mkdir(parents=True)
        (tmp_path / name / "hash" / "a.png").write_bytes(b"")
    made = doors.make_folder()
    assert made.name.startswith(f"finetune-demo-{os.getpid()}-")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, made.name}


def test_an_upload_is_removed_after_its_answer(tmp_path):
    folder = tmp_path / "hash"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"")
    doors.remove_later(folder / "a.png", seconds=0.2)
    assert (folder / "a.png").exists()  # the page still shows it
    deadline = time.monotonic() + 10
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not folder.exists()
