"""HTTP as a client speaks it: what is sent, and what is taken for an answer, over real sockets."""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from runvoy_cli.http1 import Connection, HttpError, read_answer
from runvoy_cli.transport import NoAnswer, Transport

MOST = 1000


@contextmanager
def server(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """One connection after the other: each is sent an answer once a request's head is there, and is closed behind the last one's
    answer. An answer of nothing closes it."""
    heads: list[bytes] = []

    def serve() -> None:
        left = list(answers)
        while left:
            made, _ = listener.accept()
            with made:
                while left:
                    head = b""
                    while b"\r\n\r\n" not in head and (more := made.recv(65536)):
                        head += more
                    if not head:
                        break
                    heads.append(head)
                    answer = left.pop(0)
                    made.sendall(answer)
                    if not answer or b"close" in answer:
                        break

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/a?b=c", heads
    finally:
        thread.join(10)
        listener.close()
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("raw", "status", "body", "goes_on"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef", 200, b"abc", True),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, b"", True),
        (b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc", 200, b"abc", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: Close\r\n\r\nabc", 200, b"abc", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc", False),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", 200, b"to the end", False),
        (b"HTTP/1.1 204 No Content\r\n\r\nnext", 204, b"", True),
        (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 204, b"", False),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\nnext", 304, b"", True),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 201 C\r\nContent-Length: 1\r\n\r\nx",
            201,
            b"x",
            True,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0A\r\n0123456789\r\n0\r\nT: x\r\n\r\nnext",
            200,
            b"abc0123456789",
            True,
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 9\r\n\r\n0\r\n\r\n", 200, b"", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab", 200, b"ab", True),
        (b"HTTP/1.1 200 OK\r\nX: a\r\n  b\r\nContent-Length: 1\r\n\r\nx", 200, b"x", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + bytes(1000), 200, bytes(1000), True),
    ],
)
def test_answers(raw: bytes, status: int, body: bytes, goes_on: bool) -> None:
    found = read_answer(io.BytesIO(raw), MOST)
    assert (found.status, found.body, found.goes_on) == (status, body, goes_on)


def test_fields_are_found_by_lower_case_names() -> None:
    found = read_answer(io.BytesIO(b'HTTP/1.1 200 OK\r\nETag:"x"\r\nA: 1\r\na: 2\r\nB:  p\r\n\tq \r\n\r\n'), MOST)
    assert found.headers == {"etag": '"x"', "a": "1, 2", "b": "p q"}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n0123456789",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + bytes(1001),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1001),
        b"HTTP/1.1 200 OK\r\nno field\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n before any\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000 + b"\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1f4\r\n"
        + bytes(500)
        + b"\r\n1f5\r\n"
        + bytes(501)
        + b"\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 100_000,
    ],
)
def test_what_is_no_answer_or_not_a_whole_one_is_an_error(raw: bytes) -> None:
    with pytest.raises(HttpError):
        read_answer(io.BytesIO(raw), MOST)


def test_a_request_as_it_is_sent() -> None:
    with server(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
    ) as (url, heads):
        transport = Transport()
        answer = transport.send("GET", url, headers={"If-None-Match": '"x"'}, timeout=10)
        assert (answer.status, answer.body) == (200, b"ok")
        assert transport.send("POST", url, body=b"abc", timeout=10).status == 204
        place = urlsplit(url).netloc
    common = f"Host: {place}\r\nAccept-Encoding: identity\r\nUser-Agent: runvoy\r\n"
    assert heads[0] == f'GET /a?b=c HTTP/1.1\r\n{common}If-None-Match: "x"\r\n\r\n'.encode()
    assert heads[1] == f"POST /a?b=c HTTP/1.1\r\n{common}Content-Length: 3\r\n\r\nabc".encode()


@pytest.mark.parametrize("target", ["/a b", "/a\r\nX: y", "/a\tb", "/ä", ""])
def test_a_target_with_what_http_cannot_hold_is_not_sent(target: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = Connection(urlsplit(f"http://127.0.0.1:{listener.getsockname()[1]}"), 10)
        with pytest.raises(HttpError):
            connection.exchange("GET", target, {}, None, timeout=1, most=MOST)
        connection.close()
        made, _ = listener.accept()
        with made:
            assert made.recv(100) == b""


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\0", "漢"])
def test_a_header_with_what_http_cannot_hold_is_not_sent(value: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(NoAnswer):
            Transport().send("GET", f"http://127.0.0.1:{listener.getsockname()[1]}/", headers={"A": value}, timeout=1)
        made, _ = listener.accept()
        with made:
            assert made.recv(100) == b""


def test_a_connection_that_was_closed_is_told_as_one_that_was_kept() -> None:
    with server(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
    ) as (url, _):
        transport = Transport()
        assert transport.send("GET", url, timeout=10).body == b"ok"
        with pytest.raises(NoAnswer) as lost:
            transport.send("GET", url, timeout=10)
        assert (lost.value.reused, lost.value.is_sent, lost.value.reason) == (
            True,
            True,
            "the connection was closed before an answer",
        )
        assert transport.send("GET", url, timeout=10).body == b"ok"


def test_who_is_not_there_was_sent_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NoAnswer) as lost:
        Transport().send("GET", f"http://127.0.0.1:{port}/", timeout=10)
    assert (lost.value.reused, lost.value.is_sent, lost.value.reason) == (False, False, "connection refused")


def test_an_answer_that_does_not_come_is_not_waited_for_longer_than_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(NoAnswer) as lost:
        Transport().send("GET", f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=0.05)
    assert (lost.value.is_sent, lost.value.reason) == (True, "timed out")


def test_a_server_that_answers_early_to_a_large_body_is_heard() -> None:
    def serve() -> None:
        made, _ = listener.accept()
        with made:
            made.recv(100)
            made.sendall(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
            made.shutdown(socket.SHUT_WR)
            while made.recv(1 << 20):  # what is unread when it closes would have the answer dropped
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        answer = Transport().send("POST", url, body=bytes(8 * 1024 * 1024), timeout=10)
        thread.join(10)
    assert (answer.status, answer.body) == (413, b"no")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of localhost, by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path: Path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(encoding) + private)
    return path


@contextmanager
def tls_server(certificate: Path) -> Iterator[int]:
    """A server that answers each request on a connection; its port."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = listener.accept()
                with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as made:
                    while made.recv(65536):
                        made.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_over_tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with tls_server(certificate) as port:
        transport = Transport()
        for _ in range(2):
            answer = transport.send("GET", f"https://localhost:{port}/", timeout=10)
            assert (answer.status, len(answer.body)) == (200, 100_000)
        transport.close()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_certificate_that_is_unknown_or_of_another_host_is_refused(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    if host != "localhost":
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with tls_server(certificate) as port, pytest.raises(NoAnswer, match="certificate verify failed") as refused:
        Transport().send("GET", f"https://{host}:{port}/", timeout=10)
    assert not refused.value.is_sent
