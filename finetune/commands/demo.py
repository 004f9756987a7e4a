"""`python -m finetune demo`: a page on this machine that classifies the images dropped on it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune.commands import start
from finetune.console import log
from finetune.errors import ConfigError
from finetune.serving import doors
from finetune.settings.verbs import DemoOptions

POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'"
)
"""The browser asks no other machine for anything, whatever Gradio's page or a dataset's text would like."""

_LARGEST = "100mb"
"""Of an image's file."""


class _WithPolicy:
    """ASGI middleware that adds `POLICY` to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, with_policy)


def demo(options: DemoOptions) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Raises:
        ConfigError: Gradio is not installed, or the address is taken.
        ModelError: There is no such model.
    """
    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        with served(options) as address:
            log.info(f"{address} (Ctrl-C stops it)")
            stop.wait()
    except KeyboardInterrupt:
        log.info("stopped")
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def served(options: DemoOptions) -> Iterator[str]:
    """Serve the page from a thread; what was uploaded is deleted at the end.

    Yields:
        The page's address.

    Raises:
        ConfigError: Gradio is not installed, or the address is taken.
        ModelError: There is no such model.
    """
    options.check()
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError("gradio: not installed; pip install 'resnest-timm[gradio]'")
    _check_address(options)  # before the model is loaded
    start.check_model(options.model)
    log.info(f"loading {options.model}")
    from finetune.tasks import registry  # with torch and timm, seconds in which the line above stands

    with _uploads() as folder, _quiet(folder):
        import gradio as gr
        from starlette.middleware import Middleware

        from finetune.serving import html

        page = registry.of_model(options.model).page(options.model, options.accelerator, Path(folder))
        local = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # Gradio's own come from another machine
        try:
            _, address, _ = page.launch(
                server_name=options.host,
                server_port=options.port,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                ssr_mode=False,
                mcp_server=False,
                enable_monitoring=False,
                run_history=False,
                footer_links=[],
                max_file_size=_LARGEST,
                theme=gr.themes.Default(font=local[0], font_mono=local[1]),
                css=html.STYLE,
                app_kwargs={"middleware": [Middleware(doors.Doors, host=options.host), Middleware(_WithPolicy)]},
            )
        except OSError as error:  # taken meanwhile, or all from 7860 to 7959
            raise ConfigError(_taken(options)) from error
        try:
            if not doors.is_loopback(options.host):
                log.info(f"--host {options.host}: everybody who reaches this machine can use the page")
            yield address
        finally:
            page.close(verbose=False)


@contextmanager
def _uploads() -> Iterator[str]:
    """A folder for what is dropped on the page, gone in the end; after a kill the next start takes it away."""
    folder = doors.make_folder()
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _quiet(folder: str) -> Iterator[None]:
    """Gradio's settings, which it reads when it is imported and later: uploads here, no telemetry."""
    ours = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ |= ours
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _check_address(options: DemoOptions) -> None:
    """Raise where nothing can listen.

    Raises:
        ConfigError: Another program does, or it is no address of this machine.
    """
    host = options.host.strip("[]")
    try:
        family = socket.getaddrinfo(host, options.port or 0, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, options.port or 0), family=family).close()
    except OSError as error:
        raise ConfigError(_taken(options)) from error


def _taken(options: DemoOptions) -> str:
    if options.port is None:
        return f"--host {options.host}: no free port there, or it is no address of this machine; give --host and --port"
    return (
        f"--port {options.port}: cannot listen on {options.host}:{options.port}, for another program does, or it is no "
        "address of this machine; give another, or leave --port out"
    )
