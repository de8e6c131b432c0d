"""HTTP/1.1 on http.client: one kept connection per host, nothing retried, nothing logged that is secret."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from runvoy_protocol.errors import ErrorCode, RunvoyError

CONNECT_SECONDS = 10.0
MAX_BODY_BYTES = 64 * 1024 * 1024
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_SHOWN_CHARACTERS = 24
_NO_TLS = "WRONG_VERSION_NUMBER"  # what OpenSSL makes of an answer in plain text
_SMALL_BODY_BYTES = 64 * 1024


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def etag(self) -> str:
        return self.headers.get("etag", "")


class NoAnswer(Exception):
    """No whole answer came. Unless nothing was sent (`is_sent`), the request may have been carried out all the same.

    `reused`: it was sent on a kept connection, which the other end may have closed long before.
    """

    def __init__(self, host: str, reason: str, reused: bool, is_sent: bool = True) -> None:
        super().__init__(f"{host}: {reason}")
        self.host = host
        self.reason = reason
        self.reused = reused
        self.is_sent = is_sent


def check_url(url: str) -> SplitResult:
    """The URL's parts; a RunvoyError for anything but https, or http to this machine."""
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that are no address, characters that are others once normalized
        parts = SplitResult("", "", "", "", "")
    if parts.scheme == "https" and parts.hostname:
        return parts
    if parts.scheme == "http" and parts.hostname in _LOOPBACK:
        return parts
    if parts.scheme == "http" and parts.hostname:
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST,
            f"plain http to {parts.hostname} is refused: commands and their output would travel unprotected",
            "Use an https:// endpoint.",
        )
    # Not whole: something else may stand there by mistake, such as an API key.
    shown = url if len(url) <= _SHOWN_CHARACTERS else url[: _SHOWN_CHARACTERS - 1] + "…"
    raise RunvoyError(ErrorCode.INVALID_REQUEST, f"{shown!r} is no http(s) URL", "Write it like https://host.")


def check_led_to(url: str, endpoint: str) -> None:
    """A RunvoyError unless a deployment at `endpoint` may lead us to `url`: what only this machine can reach is for a deployment
    on this machine. Another would have us call programs that trust whoever is here."""
    if check_url(url).scheme == "https":
        return
    if urlsplit(endpoint).hostname not in _LOOPBACK:
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST,
            f"{endpoint} leads to an address of this machine, where it is not itself",
            "Tell whoever runs the deployment; nothing was sent there.",
        )


class Transport:
    """Sends requests. Not for several threads."""

    def __init__(self, trace: Callable[[str], None] | None = None) -> None:
        self._connections: dict[tuple[str, str], _OneWrite] = {}
        self._trace = trace

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout: float,
        connect_timeout: float = CONNECT_SECONDS,
    ) -> Answer:
        """One request, one answer; raises NoAnswer. `timeout` bounds every read, not the whole."""
        parts = check_url(url)
        began = time.monotonic()
        place = (parts.scheme, parts.netloc)
        connection = self._connections.get(place)
        reused = connection is not None and connection.sock is not None
        if connection is None:
            connection = self._connections[place] = _connection(parts)
        is_sent = reused
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            if not reused:
                connection.timeout = min(timeout, connect_timeout)
                connection.connect()
                is_sent = True
            connection.sock.settimeout(timeout)
            answer = _exchange(connection, method, target, dict(headers or {}), body)
        except (OSError, http.client.HTTPException) as error:
            self._forget(place)
            self.tell(method, parts, f"no answer: {reason_of(error)}", began)
            raise NoAnswer(parts.netloc, reason_of(error), reused, is_sent) from error
        except BaseException:
            self._forget(place)  # interrupted halfway: what comes next on it is not ours to read
            raise
        self.tell(method, parts, str(answer.status), began)
        return answer

    def connect(self, parts: SplitResult, timeout: float) -> socket.socket:
        """A connection of the caller's own to where a checked URL leads; raises OSError. `timeout` bounds every read."""
        connection = _connection(parts)
        connection.timeout = min(timeout, CONNECT_SECONDS)
        connection.connect()
        connected: socket.socket = connection.sock
        connected.settimeout(timeout)
        return connected

    def _forget(self, place: tuple[str, str]) -> None:
        """Close a connection that failed, and let go of it: one that is opened anew sends what http.client had begun to put
        together on it, the lines of a head that was never sent, before the next request."""
        self._connections.pop(place).close()

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def tell(self, method: str, parts: SplitResult, outcome: str, began: float) -> None:
        """Tell who traces of a request that began at that time of the monotonic clock."""
        if self._trace is not None:
            query = "?…" if parts.query else ""  # a presigned URL's query is its signature
            milliseconds = (time.monotonic() - began) * 1000
            self._trace(
                f"{method} {parts.scheme}://{parts.netloc}{parts.path}{query} -> {outcome} ({milliseconds:.0f} ms)"
            )


class _OneWrite(http.client.HTTPConnection):
    """Sends the head of a request and a small body in one write. http.client makes two, and the reader of the first is woken
    for nothing: a third of the time that a small upload takes on loopback."""

    _held: list[bytes] | None = None

    def send(self, data: object) -> None:
        if self._held is not None and isinstance(data, bytes):
            self._held.append(data)
        else:
            super().send(data)  # type: ignore[arg-type]

    def request_at_once(self, method: str, target: str, body: bytes | None, headers: dict[str, str]) -> None:
        """`request`, on a connection that is open."""
        if body is None or len(body) > _SMALL_BODY_BYTES:
            self.request(method, target, body=body, headers=headers)
            return
        held: list[bytes] = []
        self._held = held
        try:
            self.request(method, target, body=body, headers=headers)
        finally:
            self._held = None
        super().send(b"".join(held))


class _OneWriteTls(_OneWrite, http.client.HTTPSConnection):
    """The same over TLS."""


def _connection(parts: SplitResult) -> _OneWrite:
    host = parts.hostname or ""
    if parts.scheme == "http":
        return _OneWrite(host, parts.port)
    return _OneWriteTls(host, parts.port)


def _exchange(connection: _OneWrite, method: str, target: str, headers: dict[str, str], body: bytes | None) -> Answer:
    headers.setdefault("User-Agent", "runvoy")
    try:
        connection.request_at_once(method, target, body, headers)
    except (BrokenPipeError, ConnectionResetError):
        # A server that refuses a body early answers and closes; the answer can still be read.
        if body is None:
            raise
    # Closed here: its finalizer would do so in the next request, and swallow a Ctrl-C that comes meanwhile.
    with connection.getresponse() as response:
        raw = response.read(MAX_BODY_BYTES + 1)
    if len(raw) > MAX_BODY_BYTES:
        raise http.client.HTTPException(f"the answer is over {MAX_BODY_BYTES:,} bytes")
    if response.length:  # what was left to read; asked for a number of bytes, http.client takes fewer for the whole
        raise http.client.IncompleteRead(raw, response.length)
    if response.will_close:
        connection.close()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, raw)


def reason_of(error: BaseException) -> str:
    """The reason in words, for messages."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the connection was closed before an answer"
    if getattr(error, "reason", None) == _NO_TLS:
        return "it does not speak TLS there, as https:// asks for"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
