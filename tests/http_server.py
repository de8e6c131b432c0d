"""HTTP servers of tests: on a port of loopback, a thread for each connection, nothing printed."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Connections are kept."""

    protocol_version = "HTTP/1.1"

    def body(self) -> bytes:
        """The request's, by its Content-Length."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, body: bytes, content_type: str = "") -> None:
        self.send_response(status)
        if content_type:
            self.send_header("Content-Type", content_type)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a test's output is its own."""


class Server:
    """Serves from the moment it is made until `close`. `origin` is where."""

    def __init__(
        self, handler: Callable[..., BaseHTTPRequestHandler], port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._http.daemon_threads = True
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self.port: int = self._http.server_address[1]
        self.origin = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler], port: int = 0) -> Iterator[str]:
    """The origin of a server that is there as long as the context is entered."""
    server = Server(handler, port)
    try:
        yield server.origin
    finally:
        server.close()


def close_waitress(server: Any, thread: threading.Thread) -> None:
    """End a server of waitress that runs in that thread."""
    from waitress import wasyncore  # type: ignore[import-untyped]

    server.task_dispatcher.shutdown()  # its workers first: they wake its thread when they are done
    # In that thread, which would otherwise find its sockets closed under it. Listed and woken under one lock: woken by another
    # byte it would have closed the pipe before this one is written, to whatever has that number by then.
    with server.trigger.lock:
        server.trigger.thunks.append(lambda: wasyncore.close_all(server._map))
        server.trigger.pull_trigger()
    thread.join(60)
    assert not thread.is_alive()
