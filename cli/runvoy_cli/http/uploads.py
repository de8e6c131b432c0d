"""Many uploads by one thread, over several kept connections: while one is answered, the next ones are on their way.

An object of a few hundred bytes takes the client less time than the inbox, so what counts is that the inbox is never idle. The
connections are used in turn: before one is used again the answer to what was sent on it last is read, so answers come in the
order of the uploads, and nothing has to be woken for them. What is not plainly a success goes the way of a single upload, whose
rules these are: the grant is renewed there, what got no answer is repeated there, and errors are made there.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple
from urllib.parse import SplitResult

from runvoy_cli.http.transport import Answer, Transport, check_url
from runvoy_protocol.control import InboxGrant, parse_error
from runvoy_protocol.errors import ErrorCode, RunvoyError

CONNECTIONS = 32
_HEAD_BYTES = 16 * 1024
_ANSWER = re.compile(rb"HTTP/1\.1 (2\d\d)[ \r]")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,6})[ \t]*(?=\r)")
_FIELDS = re.compile(rb"[^\r\n]*(?:\r\n[!#$%&'*+.^_`|~0-9a-z-]+:[^\r\n\0]*){0,100}\r\n")
_ENDS = re.compile(rb"\r\nconnection:[^\r]*close")
_NO_CONTENT = b"204"


class Upload(NamedTuple):
    """An object on its way. `name` is the caller's."""

    name: str
    object_key: str
    content: bytes


class Form:
    """A form for uploads under a grant, in the order that presigned POST policies ask for: the fields, then the file."""

    def __init__(self, grant: InboxGrant) -> None:
        boundary = f"runvoy-{os.urandom(16).hex()}"
        self.content_type = f"multipart/form-data; boundary={boundary}"
        fields = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in {"Content-Type": grant.content_type, **grant.fields}.items()
        )
        self._before = f'--{boundary}\r\nContent-Disposition: form-data; name="key"\r\n\r\n'.encode()
        self._between = (
            f'\r\n{fields}--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="request"\r\n'
            f"Content-Type: {grant.content_type}\r\n\r\n"
        ).encode()
        self._after = f"\r\n--{boundary}--\r\n".encode()

    def body(self, object_key: str, content: bytes) -> bytes:
        return b"".join((self._before, object_key.encode(), self._between, content, self._after))


class Post:
    """The whole HTTP requests of uploads under a grant; `parts` are its URL's."""

    def __init__(self, grant: InboxGrant) -> None:
        self.parts = check_url(grant.url)
        self._form = Form(grant)
        host = f"[{self.parts.hostname}]" if ":" in (self.parts.hostname or "") else self.parts.hostname
        place = f"{host}:{self.parts.port}" if self.parts.port else host
        target = (self.parts.path or "/") + (f"?{self.parts.query}" if self.parts.query else "")
        self._head = (
            f"POST {target} HTTP/1.1\r\nHost: {place}\r\nAccept-Encoding: identity\r\nUser-Agent: runvoy\r\n"
            f"Content-Type: {self._form.content_type}\r\nContent-Length: "
        ).encode()

    def request(self, object_key: str, content: bytes) -> bytes:
        body = self._form.body(object_key, content)
        return b"%b%d\r\n\r\n%b" % (self._head, len(body), body)


class Success(NamedTuple):
    """A plain answer that says that an upload was taken. `goes_on`: another may follow on its connection."""

    status: str
    goes_on: bool


def read_success(receive: Callable[[int], bytes]) -> Success | None:
    """Read an answer to its end; None for what is no success, or where it is not plain what it says and where it ends.

    `receive` gives up to so many bytes, none when there are no more.
    """
    got = b""
    while (end := got.find(b"\r\n\r\n")) < 0:
        more = receive(_HEAD_BYTES)
        if not more or len(got) > _HEAD_BYTES + 3:
            return None
        got += more
    if end > _HEAD_BYTES:
        return None
    head = got[: end + 2].lower()
    answer = _ANSWER.match(got)
    lengths = _LENGTH.findall(head)
    if answer is None or not _FIELDS.fullmatch(head) or b"\r\ntransfer-encoding:" in head:
        return None
    if head.count(b"\r\ncontent-length:") != len(lengths) or len(lengths) > 1:
        return None
    if not lengths and answer[1] != _NO_CONTENT:
        return None
    left = (0 if answer[1] == _NO_CONTENT else int(lengths[0])) - (len(got) - end - 4)
    while left > 0:
        more = receive(left)
        if not more:
            return None
        left -= len(more)
    if left < 0:
        return None  # more than the answer: whose is it?
    return Success(answer[1].decode(), _ENDS.search(head) is None)


def upload_error(answer: Answer) -> RunvoyError:
    """What an answer says that is no success."""
    known = parse_error(answer.body)
    if known is not None:
        return known
    # S3 explains itself in XML: <Error><Code>EntityTooLarge</Code><Message>…
    text = answer.body[:4096].decode(errors="replace")
    parts = [match.group(1) for tag in ("Code", "Message") if (match := re.search(f"<{tag}>([^<]*)</{tag}>", text))]
    code = ErrorCode.TOO_LARGE if "EntityTooLarge" in parts else ErrorCode.UNAVAILABLE
    return RunvoyError(
        code, f"the inbox refused the upload with {answer.status}: {': '.join(parts) or 'no reason given'}"
    )


class _Lane:
    """A kept connection, and the upload that was sent on it and not answered yet."""

    def __init__(self, timeout: float, transport: Transport) -> None:
        self._timeout = timeout
        self._transport = transport
        self._parts: SplitResult | None = None
        self._socket: socket.socket | None = None
        self._sent_at = 0.0

    def send(self, parts: SplitResult, request: bytes) -> bool:
        """Whether it was sent. False leaves no connection."""
        self._sent_at = time.monotonic()
        try:
            if self._socket is None or self._parts != parts:
                self.close()
                self._socket = self._transport.connect(parts, self._timeout)
                self._parts = parts
            self._socket.sendall(request)
        except (OSError, http.client.HTTPException):
            self.close()
            return False
        return True

    def is_done(self) -> bool:
        """Read the answer; whether the upload was taken. Of anything but a plain success no connection is left."""
        try:
            success = None if self._socket is None else read_success(self._socket.recv)
        except OSError:
            success = None
        if success is None or not success.goes_on:
            self.close()
        if success is not None and self._parts is not None:
            self._transport.tell("POST", self._parts, success.status, self._sent_at)
        return success is not None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Uploads:
    """Uploads under the grant that `grant_of` tells before each; `singly` is the way of a single one, which raises its errors.

    `timeout` is in seconds, for every read.
    """

    def __init__(
        self,
        transport: Transport,
        grant_of: Callable[[], InboxGrant],
        singly: Callable[[Upload], None],
        timeout: float,
    ) -> None:
        self._grant_of = grant_of
        self._singly = singly
        self._lanes = [_Lane(timeout, transport) for _ in range(CONNECTIONS)]
        self._grant: InboxGrant | None = None
        self._post: Post | None = None  # under that grant

    def through(self, uploads: Iterable[Upload]) -> Iterator[str]:
        """Send all; the name of each, in order, once its object is durable. Raises what `singly` raises; then the one that it is
        about was not taken, and of up to `CONNECTIONS` after it nobody knows.

        Nothing is taken from `uploads` before it can be sent.
        """
        free = deque(self._lanes)
        under_way: deque[tuple[Upload, _Lane, bool]] = deque()
        try:
            for upload in uploads:
                lane = free.popleft()
                under_way.append((upload, lane, self._send(lane, upload)))
                if not free:
                    yield self._first_of(under_way, free)
            while under_way:
                yield self._first_of(under_way, free)
        finally:
            for lane in self._lanes:
                lane.close()

    def _first_of(self, under_way: deque[tuple[Upload, _Lane, bool]], free: deque[_Lane]) -> str:
        upload, lane, is_sent = under_way.popleft()
        free.append(lane)
        if not (is_sent and lane.is_done()):
            self._singly(upload)
        return upload.name

    def _send(self, lane: _Lane, upload: Upload) -> bool:
        grant = self._grant_of()
        if self._post is None or grant is not self._grant:
            self._grant, self._post = grant, Post(grant)
        return lane.send(self._post.parts, self._post.request(upload.object_key, upload.content))
