"""Refuses, and records, every connection that leaves this machine; imported by each Python process of the tests."""

import errno
import os
import socket
from typing import Any

_connect, _connect_ex, _getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo


def is_local(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    return name in (None, "", "localhost", "::1", "::", "0.0.0.0", socket.gethostname()) or str(name).startswith("127.")


def _refuse(target: object) -> OSError:
    with open(os.environ["NETWORK_LOG"], "a", encoding="utf-8") as log:
        log.write(f"{target}\n")
    return OSError(errno.ENETUNREACH, f"the tests have no network: {target}")


def _checked(method: Any) -> Any:
    def connect(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_local(address[0]):
            raise _refuse(address)
        return method(self, address)

    return connect


def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
    if str(host) == "datasets-server.127.0.0.1":
        # What the datasets library makes of a loopback HF_ENDPOINT; it does without. The name leads nowhere.
        raise socket.gaierror(socket.EAI_NONAME, "there is no dataset viewer beside a loopback Hub")
    if not is_local(host):
        raise _refuse(host)
    return _getaddrinfo(host, *args, **kwargs)


if "NETWORK_LOG" in os.environ:
    socket.socket.connect = _checked(_connect)  # type: ignore[method-assign]
    socket.socket.connect_ex = _checked(_connect_ex)  # type: ignore[method-assign]
    socket.getaddrinfo = getaddrinfo
