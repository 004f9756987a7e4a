"""HTTP: requests in, answers out."""

from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeAlias

from tests.hub_standin.faults import Request
from tests.hub_standin.repositories import Reply

Answer: TypeAlias = Callable[[Request, bytes], tuple[Reply, int | None]]


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # with the default of 5, some of a client's parallel downloads wait for a retransmission

    def __init__(self, address: tuple[str, int], respond: Answer) -> None:
        super().__init__(address, _Handler)
        self.respond = respond


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes, which Nagle's algorithm would space 40 ms apart
    server: Server

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        # The body has to be read even where it is not used: what is left would be taken for the next request.
        reply, cut_after = self.server.respond(Request(self.command, self.path, headers), self._body(headers))
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[:cut_after])
        if cut_after is not None:
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(headers.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, format: str, *args: object) -> None:
        # `HubStandIn.requests` has it all.
        pass
