"""Many uploads at once, against servers that really lose answers, refuse grants and answer oddly."""

from __future__ import annotations

import socket
import threading
from datetime import UTC, datetime

import pytest
from tests.unit.test_cli_client import LOSE, client_of, server

from runvoy_cli.http.uploads import CONNECTIONS
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.ids import uuid7

__all__ = ["client_of", "server"]

COUNT = 3 * CONNECTIONS + 5
WANTED = [(uuid7(datetime.now(UTC), number.to_bytes(10, "big")), b"content %d" % number) for number in range(COUNT)]


def objects(seen) -> list[tuple[str, bytes]]:
    """What a server was sent: the last part of each object's key, and the object."""
    found = []
    for _, _, headers, body in seen:
        boundary = headers["Content-Type"].partition("boundary=")[2].encode()
        _, key, *_, file, end = body.split(b"--" + boundary)
        assert end == b"--\r\n"
        assert b'name="file"' in file
        found.append((key.strip().decode().rpartition("/")[2], file.partition(b"\r\n\r\n")[2][:-2]))
    return found


def test_each_arrives_once_and_is_told_of_in_order(server, client_of):
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant())]
    server.answers["/inbox"] = [(204, b"")]
    told: list[str] = []
    client = client_of(trace=told.append)
    assert list(client.upload_each(WANTED)) == [name for name, _ in WANTED]
    assert sorted(objects(server.sent_to("/inbox"))) == sorted(WANTED)
    assert len(server.sent_to("/api/v1/grants/inbox")) == 1
    assert server.connections == CONNECTIONS + 1, "each is kept; one is for the grant"
    assert len([line for line in told if " -> 204 " in line]) == COUNT


def test_of_none_nothing_is_sent(server, client_of):
    assert list(client_of().upload_each([])) == []
    assert server.seen == []


def test_nothing_is_taken_before_it_can_be_sent(server, client_of):
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant())]
    server.answers["/inbox"] = [(200, b"taken")]
    taken = []

    def wanted():
        for one in WANTED:
            taken.append(one)
            yield one

    going = client_of().upload_each(wanted())
    for number in range(1, 11):
        next(going)
        assert len(taken) == CONNECTIONS + number - 1
    going.close()
    assert len(taken) == CONNECTIONS + 9


def test_what_got_no_answer_is_sent_again(server, client_of):
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant())]
    server.answers["/inbox"] = [*([(204, b""), LOSE, (503, b"busy"), (204, b"")] * 5), (204, b"")]
    assert list(client_of().upload_each(WANTED)) == [name for name, _ in WANTED]
    sent = objects(server.sent_to("/inbox"))
    assert set(sent) == set(WANTED)
    assert len(sent) == COUNT + 10


def test_a_grant_that_is_refused_in_the_middle_is_renewed_once(server, client_of):
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant("old")), (200, server.grant("new"))]
    server.answers["/inbox"] = [
        *[(204, b"")] * 40,
        lambda seen: (204, b"") if b"\r\nnew\r\n" in seen[3] else (403, b""),
    ]
    assert list(client_of().upload_each(WANTED)) == [name for name, _ in WANTED]
    assert len(server.sent_to("/api/v1/grants/inbox")) == 2


def test_a_refusal_is_raised_after_what_came_before_it(server, client_of):
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant())]
    bad = WANTED[CONNECTIONS + 3][0].encode()
    refused = (400, b"<Error><Code>EntityTooLarge</Code><Message>Your proposed upload is too large</Message></Error>")
    server.answers["/inbox"] = [lambda seen: refused if bad in seen[3] else (204, b"")]
    done: list[str] = []
    with pytest.raises(RunvoyError) as error:
        done.extend(client_of().upload_each(WANTED))
    assert error.value.code is ErrorCode.TOO_LARGE
    assert done == [name for name, _ in WANTED[: CONNECTIONS + 3]]


ODD = {
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "of HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "without a length": b"HTTP/1.1 200 OK\r\n\r\n",
    "of two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 3\r\n\r\nabc",
    "of more than its length": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabc",
    "of less than its length": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
    "after another": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "cut off": b"HTTP/1.1 200",
    "no HTTP": b"hello\r\n\r\n",
    "endless": b"x" * 40_000,
    "of the usual kind, in pieces": None,
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_answer_is_not_taken_for_a_success(odd, server, client_of):
    """Where it is not plain what an answer says, the upload is repeated alone; that knows all of HTTP."""
    with OddServer(ODD[odd]) as inbox:
        grant = {**server.grant(), "url": inbox.url}
        server.answers["/api/v1/grants/inbox"] = [(200, grant)]
        assert list(client_of().upload_each(WANTED[:1])) == [WANTED[0][0]]
        assert inbox.count == (2 if ODD[odd] is not None else 1)


class OddServer:
    """Answers the first request oddly and closes the connection, every later one plainly."""

    def __init__(self, odd: bytes | None) -> None:
        self._odd = odd
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/inbox"
        self.count = 0
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> OddServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as reader:
                length = 0
                while (line := reader.readline()).strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                reader.read(length)
                self.count += 1
                pieces = [b"HTTP/1.1 200 OK\r\nContent-", b"Length: 3\r\n\r", b"\na", b"bc"]
                if self.count == 1 and self._odd is not None:
                    pieces = [self._odd]
                for piece in pieces:
                    connection.sendall(piece)


def test_a_success_that_ends_its_connection_is_one(server, client_of):
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant())]
    server.answers["/inbox"] = [(204, b"", ("Connection", "close"))]
    assert list(client_of().upload_each(WANTED)) == [name for name, _ in WANTED]
    assert len(server.sent_to("/inbox")) == COUNT
    assert server.connections == COUNT + 1
