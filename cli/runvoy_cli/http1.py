"""HTTP/1.1 for a client: one request and its whole answer at a time, over a connection that is kept.

http.client would do, but for what it loads: the standard library's parser of mail, for the few header lines of an answer, and TLS,
spoken or not, take a seventh of the time in which a command starts.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple
from urllib.parse import SplitResult

_SMALL_BODY_BYTES = 64 * 1024
_MAX_LINES = 100
_MAX_LINE_BYTES = 64 * 1024
_MAX_INTERIM = 16
_BODILESS = (204, 304)
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n]*)?\r?\n")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*\r?\n")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_TARGET = re.compile(r"[!-~]+")
_SENT_FIELD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\r\n\0]*")


class HttpError(Exception):
    """What is to be sent is no request, or what came is no answer, or not all of one."""


class Received(NamedTuple):
    """An answer; its headers' names are lower-case. `goes_on`: another request may follow on its connection."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    goes_on: bool


def connected(parts: SplitResult, timeout: float) -> socket.socket:
    """A connection to where an http(s) URL leads; raises OSError and HttpError. `timeout` bounds every step, and every read then."""
    host = _host(parts)
    made = socket.create_connection((host, parts.port or (443 if parts.scheme == "https" else 80)), timeout)
    try:
        with contextlib.suppress(OSError):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.scheme != "https":
            return made
        import ssl

        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        return context.wrap_socket(made, server_hostname=host)
    except BaseException:
        made.close()
        raise


class Connection:
    """To one host. Not for several threads; of no use after an error."""

    def __init__(self, parts: SplitResult, timeout: float) -> None:
        """Connect; raises as `connected` does."""
        host = _host(parts)
        host = f"[{host}]" if ":" in host else host
        self._place = host if parts.port is None else f"{host}:{parts.port}"
        self._socket = connected(parts, timeout)
        self._stream = self._socket.makefile("rb")

    def close(self) -> None:
        self._stream.close()
        self._socket.close()

    def exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, *, timeout: float, most: int
    ) -> Received:
        """Send a request and read its answer, of whose body `most` bytes may come; raises OSError and HttpError. `timeout` bounds every
        write and read."""
        head = self._head(method, target, headers, body)
        self._socket.settimeout(timeout)
        try:
            # In one write where that is little: the reader of the first of two is woken for nothing, which is a third of the time
            # that a small upload takes on loopback.
            if body is not None and len(body) > _SMALL_BODY_BYTES:
                self._socket.sendall(head)
                self._socket.sendall(body)
            else:
                self._socket.sendall(head + (body or b""))
        except (BrokenPipeError, ConnectionResetError):
            # A server that refuses a body early answers and closes; the answer can still be read.
            if body is None:
                raise
        return read_answer(self._stream, most)

    def _head(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        sent = {"Host": self._place, "Accept-Encoding": "identity", **headers}
        if body is not None or method in ("POST", "PUT"):
            sent["Content-Length"] = str(len(body or b""))
        fields = [f"{name}: {value}" for name, value in sent.items()]
        if not _TARGET.fullmatch(target) or not all(map(_SENT_FIELD.fullmatch, fields)):
            raise HttpError("an address or a header holds what HTTP cannot")
        try:
            return "\r\n".join((f"{method} {target} HTTP/1.1", *fields, "", "")).encode("latin-1")
        except UnicodeEncodeError as error:
            raise HttpError("a header holds what HTTP cannot") from error


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise HttpError(f"{host!r} is no host") from error


def read_answer(stream: BinaryIO, most: int) -> Received:
    """Read one answer to its end; raises HttpError, and what the stream raises. Bodies of over `most` bytes are an error."""
    for _ in range(_MAX_INTERIM):
        is_newer, status, headers = _read_head(stream)
        if status >= 200:
            break
        if status == 101:
            raise HttpError("it wants to speak another protocol")
    else:
        raise HttpError("it announces an answer again and again")
    goes_on = is_newer and "close" not in headers.get("connection", "").lower()
    coding = headers.get("transfer-encoding")
    if status in _BODILESS:
        return Received(status, headers, b"", goes_on and coding is None)
    if coding is not None:
        if coding.lower() != "chunked":
            raise HttpError(f"the answer comes as {coding[:40]!r}")
        # With a length as well the one or the other is not true: nothing may follow on such a connection.
        return Received(status, headers, _read_chunks(stream, most), goes_on and "content-length" not in headers)
    length = headers.get("content-length")
    if length is None:
        return Received(status, headers, _read(stream, most, None), goes_on=False)
    if not _LENGTH.fullmatch(length):
        raise HttpError(f"the answer has a length of {length[:40]!r}")
    return Received(status, headers, _read(stream, most, int(length)), goes_on)


def _read_head(stream: BinaryIO) -> tuple[bool, int, dict[str, str]]:
    """Whether it is HTTP/1.1, the status, the fields: those that come twice as one, unless they say how long the answer is."""
    line = stream.readline(_MAX_LINE_BYTES)
    if not line:
        raise HttpError("the connection was closed before an answer")
    found = _STATUS.fullmatch(line)
    if found is None:
        raise HttpError(f"what came is no HTTP answer: {line[:40]!r}")
    headers: dict[str, str] = {}
    name = ""
    for line in _lines(stream):
        if line[:1] in (b" ", b"\t") and name:  # the field goes on, as it may in an old server's answer
            headers[name] = f"{headers[name]} {line.strip().decode('latin-1')}"
            continue
        field = _FIELD.fullmatch(line)
        if field is None:
            raise HttpError(f"a line of the answer's head is no field: {line[:40]!r}")
        name, value = field[1].decode("ascii").lower(), field[2].decode("latin-1")
        before = headers.get(name)
        if name == "content-length" and before not in (None, value):
            raise HttpError("the answer has two lengths")
        headers[name] = value if before in (None, value) else f"{before}, {value}"
    return found[1] == b"1", int(found[2]), headers


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines up to an empty one."""
    for _ in range(_MAX_LINES):
        line = stream.readline(_MAX_LINE_BYTES)
        if line in (b"\r\n", b"\n"):
            return
        if not line.endswith(b"\n"):
            raise HttpError("the answer's head is cut off, or too large")
        yield line
    raise HttpError("the answer's head is too large")


def _read(stream: BinaryIO, most: int, length: int | None) -> bytes:
    """So many bytes; all there are, if no number is told."""
    if length is not None and length > most:
        raise _too_large(most)
    body = stream.read(most + 1 if length is None else length)
    if len(body) > most:
        raise _too_large(most)
    if length is not None and len(body) < length:
        raise HttpError(f"the answer ended after {len(body):,} of {length:,} bytes")
    return body


def _read_chunks(stream: BinaryIO, most: int) -> bytes:
    pieces: list[bytes] = []
    left = most
    while True:
        line = _CHUNK.fullmatch(stream.readline(_MAX_LINE_BYTES))
        if line is None:
            raise HttpError("a chunk of the answer is cut off, or malformed")
        size = int(line[1], 16)
        if size == 0:
            break
        if size > left:
            raise _too_large(most)
        pieces.append(_read(stream, left, size))
        left -= size
        if stream.read(2) != b"\r\n":
            raise HttpError("a chunk of the answer is longer than it says")
    for _ in _lines(stream):  # a trailer tells nothing that is needed
        pass
    return b"".join(pieces)


def _too_large(most: int) -> HttpError:
    return HttpError(f"the answer is over {most:,} bytes")
