"""What strangers can have the gateway's server hold: halves of requests, on real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from tests.http_server import close_waitress

from runvoy_agent.local.home import bind
from runvoy_agent.local.server import MAX_HEADER_BYTES, MOST_LARGE_BODIES, SMALL_BODY_BYTES, serve_on
from runvoy_protocol import codec, control


class Served:
    """A server that tells how large a body was."""

    def __init__(self) -> None:
        listener = bind(0)
        self.port: int = listener.getsockname()[1]
        self.server = serve_on(listener, self._application, threads=4)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        self.open: list[socket.socket] = []

    def _application(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        body = b"%d" % len(environ["wsgi.input"].read())
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    def begin(self, path: str, *headers: str, body: bytes = b"") -> socket.socket:
        """A request without its end, or all of it."""
        begun = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        self.open.append(begun)
        lines = "\r\n".join((f"POST {path} HTTP/1.1", "Host: h", *headers, "", ""))
        begun.sendall(lines.encode() + body)
        return begun

    def status(self, *args: Any, **options: Any) -> int:
        return status_of(self.begin(*args, **options))

    def wait_until_free(self, places: int) -> None:
        give_up_at = time.monotonic() + 60
        while len(self.server.channel_class.parser_class.large) > MOST_LARGE_BODIES - places:
            assert time.monotonic() < give_up_at, "no place became free"
            time.sleep(0.01)

    def close(self) -> None:
        for begun in self.open:
            begun.close()
        close_waitress(self.server, self.thread)


def status_of(begun: socket.socket) -> int:
    answer = begun.recv(4096)
    return int(answer.split(b" ")[1])


def length(size: int) -> str:
    return f"Content-Length: {size}"


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.close()


def test_what_runvoy_sends_fits() -> None:
    assert control.MAX_BODY_BYTES < SMALL_BODY_BYTES < codec.MAX_BATCH_BYTES


@pytest.mark.parametrize("path", ["/api/v1/claim", "/", "/inbox/x", "/outbox"])
def test_only_an_upload_may_be_large(served: Served, path: str) -> None:
    assert served.status(path, length(SMALL_BODY_BYTES), body=bytes(SMALL_BODY_BYTES)) == 200
    assert served.status(path, length(SMALL_BODY_BYTES + 1)) == 413  # before any of it is there
    assert served.status("/inbox", length(SMALL_BODY_BYTES + 1), body=bytes(SMALL_BODY_BYTES + 1)) == 200


def test_only_so_many_large_uploads_at_once(served: Served) -> None:
    size = codec.MAX_BATCH_BYTES
    begun = [served.begin("/inbox", length(size), body=b"x") for _ in range(MOST_LARGE_BODIES)]
    assert served.status("/inbox", length(size)) == 503
    assert served.status("/inbox", length(5), body=b"small") == 200
    begun[0].sendall(bytes(size - 1))
    assert status_of(begun[0]) == 200
    served.wait_until_free(1)  # a moment after its answer
    again = served.begin("/inbox", length(size), body=b"x")
    assert served.status("/inbox", length(size)) == 503
    begun[1].close()  # cut off: its place is free once the server has seen that
    again.sendall(bytes(size - 1))
    assert status_of(again) == 200
    served.wait_until_free(2)


def test_a_body_that_does_not_say_its_length_is_small(served: Served) -> None:
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    assert served.status("/inbox", "Transfer-Encoding: chunked", body=chunk + b"0\r\n\r\n") == 200
    assert served.status("/inbox", "Transfer-Encoding: chunked", body=chunk * (SMALL_BODY_BYTES // 0x10000 + 1)) == 413


def test_headers_are_bounded_and_a_length_of_thousands_of_digits_is_no_fault(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    assert served.status("/", f"Authorization: {'a' * MAX_HEADER_BYTES}") == 431
    assert served.status("/", f"Content-Length: {'9' * 5000}") == 400
    # How busy its threads are is told as well.
    assert [record for record in caplog.records if record.name != "waitress.queue"] == []
