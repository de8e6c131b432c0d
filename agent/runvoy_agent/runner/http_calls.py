"""HTTP on http.client: kept connections, one answer a request, nothing retried."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

_CONNECT_SECONDS = 10.0
_MAX_ANSWER_BYTES = 1024 * 1024


class NoAnswer(Exception):
    """No whole answer came. What was asked for may have been done all the same."""


class Connections:
    """One connection per host. Not for several threads."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], http.client.HTTPConnection] = {}

    def exchange(
        self, method: str, url: str, headers: dict[str, str], body: bytes, seconds: float
    ) -> tuple[int, bytes]:
        """Status and body of the answer, the first MiB of it. `seconds` bounds each wait for the network. Raises NoAnswer."""
        parts = urlsplit(url)
        place = parts.scheme, parts.netloc
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = self._open.get(place)
        is_kept = connection is not None and connection.sock is not None
        try:
            if connection is None:
                kind = http.client.HTTPConnection if parts.scheme == "http" else http.client.HTTPSConnection
                connection = self._open[place] = kind(parts.netloc, timeout=_CONNECT_SECONDS)
            try:
                return _exchange(connection, method, target, headers, body, seconds)
            except (http.client.RemoteDisconnected, ConnectionError):
                connection.close()
                if not is_kept:
                    raise
            # The other end had closed the kept connection long before.
            return _exchange(connection, method, target, headers, body, seconds)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if connection is not None:
                connection.close()
            raise NoAnswer(f"{parts.netloc}: {error or type(error).__name__}") from error


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    headers: dict[str, str],
    body: bytes,
    seconds: float,
) -> tuple[int, bytes]:
    if connection.sock is None:
        connection.connect()
    connection.sock.settimeout(seconds)
    try:
        connection.request(method, target, body=body or None, headers={"User-Agent": "runvoy", **headers})
    except (BrokenPipeError, ConnectionResetError):
        # Who refuses a body early answers and closes; that answer may still be read.
        if not body:
            raise
    response = connection.getresponse()
    raw = response.read(_MAX_ANSWER_BYTES)
    # Asked for a number of bytes, http.client takes fewer for the whole.
    if response.length and len(raw) < _MAX_ANSWER_BYTES:
        raise http.client.IncompleteRead(raw, response.length)
    if not response.isclosed():
        connection.close()
    return response.status, raw
