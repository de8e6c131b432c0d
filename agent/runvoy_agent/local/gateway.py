"""The embedded stack's one HTTP server: the control API, and the inbox and outbox under the same grants as S3's.

It listens on this machine for anyone who can connect to it, browsers included. So: nothing without a signature or a
grant, no Host but its own (a rebound DNS name carries another) and the one that its owner named, for a proxy that ends TLS, no
Origin but its own (a page elsewhere carries another) and those that its owner named. The viewer's files are public, and opening them
from a link elsewhere is no call.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

import multipart  # type: ignore[import-untyped]

from runvoy_agent.local.changes import Changes
from runvoy_agent.local.grants import Grants
from runvoy_agent.local.objects import FolderObjects
from runvoy_agent.ports import Clock, Unavailable
from runvoy_protocol import codec, control
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_web import origins, pages

log = logging.getLogger("runvoy.gateway")

MAX_WAIT_SECONDS = 25.0
MAX_FORM_BYTES = codec.MAX_BATCH_BYTES + 64 * 1024
_MAX_FORM_FIELDS = 32
_LARGE_ANSWER_BYTES = 256 * 1024  # which waitress would copy, and write to a temporary file from a MiB on
_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,4})(?:$|[,;\s])")

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]

_REASONS = {
    200: "OK",
    204: "No Content",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    413: "Content Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class ControlCall(NamedTuple):
    """What the gateway passes on to the control handler (see handlers.routes.Request)."""

    method: str
    path: str
    target: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    source: str


class Answer(NamedTuple):
    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Names(NamedTuple):
    """What its owner named. `host`: by which name (or name:port), in lower case, a proxy of this machine passes on what others
    send it by HTTPS; empty for none. Pages of `web_origins` may call the gateway as its own page does."""

    host: str = ""
    web_origins: frozenset[str] = frozenset()


NO_NAMES = Names()


class Gateway:
    """A WSGI application. `serve_control` answers control calls, `on_upload` is told of each stored request: its key,
    its version, and the address it came from. `shortage` says why no request can be taken in now, if that
    is so."""

    def __init__(  # noqa: PLR0913 - each is a part of the stack, made in one place
        self,
        *,
        inbox: FolderObjects,
        outbox: FolderObjects,
        grants: Grants,
        changes: Changes,
        clock: Clock,
        serve_control: Callable[[ControlCall], Answer],
        on_upload: Callable[[str, str, str], None],
        shortage: Callable[[], str | None] = lambda: None,
        names: Names = NO_NAMES,
    ) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._grants = grants
        self._changes = changes
        self._clock = clock
        self._serve_control = serve_control
        self._on_upload = on_upload
        self._host, self._web_origins = names
        self._shortage = shortage
        self.port = 0

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        page = self._page(environ)
        if page is not None:
            headers = [("Content-Length", str(len(page.body))), *page.headers]
            start_response(f"{page.status} {_REASONS[page.status]}", headers)
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [page.body]
        answer = self._answer(environ)
        headers = [
            ("Content-Length", str(len(answer.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *origins.headers(environ.get("HTTP_ORIGIN"), self._web_origins),
            *answer.headers,
        ]
        if answer.body:
            headers.append(("Content-Type", answer.content_type))
        start_response(f"{answer.status} {_REASONS.get(answer.status, 'Unknown')}", headers)
        if environ["REQUEST_METHOD"] == "HEAD":
            return []
        if len(answer.body) < _LARGE_ANSWER_BYTES:
            return [answer.body]
        large: Iterable[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(answer.body))
        return large

    def _page(self, environ: Environ) -> pages.Served | None:
        """One of the viewer's files; None if it is not one that is asked for, or not by a name of this server's."""
        if self._own_origin(environ) is None:
            return None
        asked = {
            "if-none-match": environ.get("HTTP_IF_NONE_MATCH", ""),
            "accept-encoding": environ.get("HTTP_ACCEPT_ENCODING", ""),
        }
        return pages.serve(environ["REQUEST_METHOD"], target_of(environ).partition("?")[0], asked)

    def _answer(self, environ: Environ) -> Answer:
        try:
            origin = self._check_source(environ)
            with self._grants.reached_at(origin if self._came_by_proxy(environ) else ""):
                return self._dispatch(environ)
        except RunvoyError as error:
            return _error(error)
        except Unavailable as error:
            log.exception("%s %s found something unavailable", environ["REQUEST_METHOD"], environ["PATH_INFO"])
            return _error(RunvoyError(ErrorCode.UNAVAILABLE, f"the embedded stack cannot do this now: {error}"))
        except Exception:
            log.exception("%s %s failed", environ["REQUEST_METHOD"], environ["PATH_INFO"])
            return _error(RunvoyError(ErrorCode.INTERNAL, "the embedded stack failed; see `runvoy local logs`"))

    def _came_by_proxy(self, environ: Environ) -> bool:
        return bool(self._host) and environ.get("HTTP_HOST", "").lower() == self._host

    def _own_origin(self, environ: Environ) -> str | None:
        """The origin of this server by the name that it was called by; None if that is no name of its."""
        host = environ.get("HTTP_HOST", "")
        if self._came_by_proxy(environ):
            return f"https://{self._host}"
        name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
        return f"http://{host}" if name in _LOOPBACK_NAMES and port == str(self.port) else None

    def _check_source(self, environ: Environ) -> str:
        """This server's origin, as it was called; FORBIDDEN for who may not call."""
        own = self._own_origin(environ)
        if own is None:
            raise RunvoyError(ErrorCode.FORBIDDEN, f"this server is not {environ.get('HTTP_HOST', '')[:100]!r}")
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and origin in self._web_origins:
            return own
        if origin is not None and origin != own:
            raise RunvoyError(ErrorCode.FORBIDDEN, f"pages of {origin[:100]!r} may not call this server")
        if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("none", "same-origin"):
            raise RunvoyError(ErrorCode.FORBIDDEN, "pages of other sites may not call this server")
        return own

    def _dispatch(self, environ: Environ) -> Answer:
        method = environ["REQUEST_METHOD"]
        target = target_of(environ)
        path = target.partition("?")[0]
        if method == "OPTIONS" and environ.get("HTTP_ORIGIN") in self._web_origins:
            return Answer(204, headers=origins.PREFLIGHT_HEADERS)
        if path.startswith(f"{control.API_PREFIX}/"):
            return self._control(environ, method, target, path)
        if path == "/inbox" and method == "POST":
            return self._upload(environ)
        if path.startswith("/outbox/") and method == "GET":
            return self._read(environ, target)
        raise RunvoyError(ErrorCode.NOT_FOUND, f"{method} {path[:200]} does not exist")

    def _control(self, environ: Environ, method: str, target: str, path: str) -> Answer:
        body = body_of(environ, control.MAX_BODY_BYTES)
        try:
            query = dict(parse_qsl(target.partition("?")[2], keep_blank_values=True, max_num_fields=64))
        except ValueError as error:
            raise RunvoyError(ErrorCode.INVALID_REQUEST, f"the query is malformed: {error}") from error
        headers = {"authorization": environ.get("HTTP_AUTHORIZATION", ""), "accept": environ.get("HTTP_ACCEPT", "")}
        source = environ.get("REMOTE_ADDR", "")
        return self._serve_control(ControlCall(method, path, target, query, headers, body, source))

    def _upload(self, environ: Environ) -> Answer:
        """A presigned POST: check the form against its policy as S3 would, store it, deliver it, and only then say so."""
        fields, data = _form(environ)
        upload = self._grants.verify_post("inbox", fields, len(data), self._clock.now())
        if (shortage := self._shortage()) is not None:
            raise RunvoyError(
                ErrorCode.UNAVAILABLE, f"no request is taken in: {shortage}", "Make room there, and try again."
            )
        try:
            self._inbox.put(upload.object_key, data, content_type=upload.content_type)
        except ValueError as error:
            raise RunvoyError(
                ErrorCode.INVALID_REQUEST, f"{upload.object_key[:200]!r} is no valid object key"
            ) from error
        self._on_upload(upload.object_key, FolderObjects.version_of(data), environ.get("REMOTE_ADDR", ""))
        return Answer(204)

    def _read(self, environ: Environ, target: str) -> Answer:
        path, _, query = target.partition("?")
        object_key = unquote(path.removeprefix("/outbox/"))
        self._grants.verify_get("outbox", object_key, query, self._clock.now())
        known = environ.get("HTTP_IF_NONE_MATCH")
        wait_seconds = _wait_seconds(environ.get("HTTP_PREFER", ""))
        with self._changes.subscribed(object_key) as news:
            answer = self._look(object_key, known)
            if answer.status != 200 and wait_seconds and news is not None and news.wait(wait_seconds):
                answer = self._look(object_key, known)
        return answer

    def _look(self, object_key: str, known_etag: str | None) -> Answer:
        stored = self._outbox.get(object_key)
        if stored is None:
            return _error(RunvoyError(ErrorCode.NOT_FOUND, f"there is no object {object_key[:200]} (yet)"))
        headers = (("ETag", stored.etag),)
        if stored.etag == known_etag:
            return Answer(304, headers=headers)
        kind = "application/json" if object_key.endswith(".json") else "application/gzip"
        return Answer(200, stored.data, kind, headers)


def target_of(environ: Environ) -> str:
    """Path and query as they were sent; PATH_INFO is decoded already, and a signature covers what was sent."""
    raw = environ.get("REQUEST_URI") or environ["PATH_INFO"]
    query = environ.get("QUERY_STRING", "")
    path: str = raw.split("?", 1)[0]
    return f"{path}?{query}" if query else path


def body_of(environ: Environ, most: int) -> bytes:
    length = _content_length(environ)
    if length > most:
        raise RunvoyError(ErrorCode.TOO_LARGE, f"the body has {length:,} bytes; at most {most:,} are allowed")
    body: bytes = environ["wsgi.input"].read(length) if length else b""
    if len(body) != length:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "the body ended early")
    return body


def _content_length(environ: Environ) -> int:
    text = environ.get("CONTENT_LENGTH") or "0"
    if not text.isascii() or not text.isdigit():
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "the Content-Length is no number")
    return int(text)


def _form(environ: Environ) -> tuple[list[tuple[str, str]], bytes]:
    """The form's fields in order, and the file, which must come last (S3 ignores what follows it; here it is refused)."""
    length = _content_length(environ)
    if length > MAX_FORM_BYTES:
        raise RunvoyError(ErrorCode.TOO_LARGE, f"the form has {length:,} bytes; at most {MAX_FORM_BYTES:,} are allowed")
    kind, options = multipart.parse_options_header(environ.get("CONTENT_TYPE", ""))
    if kind != "multipart/form-data" or not options.get("boundary"):
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "an upload is a multipart/form-data form")
    fields: list[tuple[str, str]] = []
    file: bytes | None = None
    try:
        parts = multipart.MultipartParser(
            environ["wsgi.input"],
            options["boundary"],
            length,
            strict=True,
            part_limit=_MAX_FORM_FIELDS,
            spool_limit=MAX_FORM_BYTES,
            memory_limit=MAX_FORM_BYTES,
        )
        for part in parts:
            if file is not None:
                raise RunvoyError(ErrorCode.INVALID_REQUEST, "the file must be the form's last field")
            if part.name == "file":
                file = part.raw
            else:
                fields.append((part.name, part.value))
            part.close()
    except (multipart.MultipartError, UnicodeDecodeError) as error:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"the form is malformed: {error}") from error
    if file is None:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "the form has no file")
    return fields, file


def _wait_seconds(prefer: str) -> float:
    """The wait of a Prefer header (RFC 7240 §4.3), bounded; 0 without one."""
    match = _WAIT.search(prefer)
    return min(float(match.group(1)), MAX_WAIT_SECONDS) if match else 0.0


def _error(error: RunvoyError) -> Answer:
    status = {
        ErrorCode.INVALID_REQUEST: 400,
        ErrorCode.FORBIDDEN: 403,
        ErrorCode.NOT_FOUND: 404,
        ErrorCode.TOO_LARGE: 413,
        ErrorCode.UNAVAILABLE: 503,
    }.get(error.code, 500)
    return Answer(status, control.error_body(error))
