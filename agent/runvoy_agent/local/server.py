"""The gateway's HTTP server: waitress, with bounds on what strangers can have it hold.

Whoever can connect, every user of the machine among them, can send half a request and keep it so. waitress bounds a request
and the number of connections; all of them together would be gigabytes.
"""

from __future__ import annotations

import socket
import weakref
from collections.abc import Callable
from typing import Any

from waitress.channel import HTTPChannel  # type: ignore[import-untyped]
from waitress.parser import HTTPRequestParser, ParsingError  # type: ignore[import-untyped]
from waitress.server import create_server  # type: ignore[import-untyped]
from waitress.utilities import Error, RequestEntityTooLarge  # type: ignore[import-untyped]

MAX_HEADER_BYTES = 64 * 1024
SMALL_BODY_BYTES = 512 * 1024
"""Above what a control call may have. Larger are batches alone."""
MOST_LARGE_BODIES = 16
_MAX_BODY_BYTES = 16 * 1024 * 1024


class _Busy(Error):  # type: ignore[misc]
    code = 503
    reason = "Service Unavailable"


def serve_on(listener: socket.socket, application: Callable[..., Any], **adjustments: Any) -> Any:
    """waitress's server of an application, with our bounds; `run()` serves."""

    class Parser(_Parser):
        large: weakref.WeakSet[HTTPRequestParser] = weakref.WeakSet()  # this server's

    class Channel(HTTPChannel):  # type: ignore[misc]
        parser_class = Parser

    server = create_server(
        application,
        sockets=[listener],
        max_request_header_size=MAX_HEADER_BYTES,
        max_request_body_size=_MAX_BODY_BYTES,
        inbuf_overflow=_MAX_BODY_BYTES,
        **adjustments,
    )
    server.channel_class = Channel
    return server


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    """One request. Only uploads may have a large body, and only so many at once; it is known before the body is read."""

    error: Error | None = None
    large: weakref.WeakSet[HTTPRequestParser]

    def received(self, data: bytes) -> int:
        was_in_header = not self.headers_finished
        consumed: int = super().received(data)
        if self.error is None:
            error = self._judge() if was_in_header and self.headers_finished else self._judge_chunked()
            if error is not None:
                self.error, self.completed = error, True
        return consumed

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # int() refuses thousands of digits, and waitress would log them
            raise ParsingError("Content-Length is invalid") from error

    def _judge(self) -> Error | None:
        if self.content_length <= SMALL_BODY_BYTES:
            return None
        if self.command != "POST" or self.path != "/inbox":
            return RequestEntityTooLarge(f"exceeds {SMALL_BODY_BYTES} bytes")
        if len(self.large) >= MOST_LARGE_BODIES:
            return _Busy("too many large uploads at once; try again")
        self.large.add(self)
        return None

    def _judge_chunked(self) -> Error | None:
        """One that did not say how large it will be."""
        if self.chunked and self.body_bytes_received > SMALL_BODY_BYTES:
            return RequestEntityTooLarge(f"exceeds {SMALL_BODY_BYTES} bytes without a Content-Length")
        return None
