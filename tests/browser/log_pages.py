"""Logs for the log view's tests: chunks as the runner writes them, a server that hands them out, and a page that shows them.

The page is bound by the very headers that a deployment's page is. The view's source reads this server instead of a deployment.
"""

from __future__ import annotations

import gzip
import http.server
import json
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests import http_server

from runvoy_agent.runner.framing import Framer
from runvoy_web.pages import security_headers

WEB = Path(__file__).parents[2] / "web" / "runvoy_web"
CHUNK_BYTES = 4 * 1024 * 1024
MISSING = b""  # in place of a chunk: it never came
BEGAN_MS = 1_900_000_000_000
HELD_SECONDS = 5

PAGE = b"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>log</title>
<link rel="stylesheet" href="/web/style.css"><link rel="stylesheet" href="/web/log/log.css"><link rel="stylesheet" href="/harness.css"></head>
<body><main id="view"><div><div id="host" class="log-host"></div></div></main><script type="module" src="/harness.js"></script></body></html>"""

STYLE = b".log-host { flex: none; height: 550px; }"

HARNESS = b"""
import { createLogView } from "/web/log/view.js";
const name = new URLSearchParams(location.search).get("log");
const range = /^#L(\\d+)(?:-L(\\d+))?$/.exec(location.hash);
const look = async () => (await fetch(`/logs/${name}/state`)).json();
let state = await look();
const refresh = async () => { state = await look(); setTimeout(refresh, 100); };
if (state.ended === false) refresh();
globalThis.lines = [];
globalThis.view = createLogView(document.getElementById("host"), {
  executionId: name,
  async readChunk(number, { wait = false, signal } = {}) {
    const answer = await fetch(`/logs/${name}/${number}${wait ? "?wait=1" : ""}`, { signal });
    return answer.status === 200 ? new Uint8Array(await answer.arrayBuffer()) : null;
  },
  lastChunk: async () => state.chunks,
  ended: () => state.ended,
  status: () => state,
}, {
  line: range ? [Number(range[1]), Number(range[2] ?? range[1])] : undefined,
  onLine: (line) => { globalThis.lines.push(line); history.replaceState(null, "", line ? `#L${line[0]}-L${line[1]}` : "#"); },
});
"""


def pack(records: bytes) -> bytes:
    return gzip.compress(records, compresslevel=1)


def chunked(output: Iterable[tuple[str, bytes]], chunk_bytes: int = CHUNK_BYTES, step_ms: int = 0) -> list[bytes]:
    """The chunks that the runner makes of output; each piece comes `step_ms` after the one before."""
    chunks: list[bytes] = []
    pending: list[bytes] = []
    size = 0

    def emit(record: bytes, count: int) -> None:
        nonlocal size
        pending.append(record)
        size += count
        if size >= chunk_bytes:
            chunks.append(pack(b"".join(pending)))
            pending.clear()
            size = 0

    framer = Framer(emit)
    now_ms = BEGAN_MS
    for stream, data in output:
        for start in range(0, len(data), 65536):
            framer.feed(stream, data[start : start + 65536], now_ms)
        now_ms += step_ms
    framer.end(now_ms)
    chunks.append(pack(b"".join(pending)))
    return chunks


def records(*fields: dict[str, Any]) -> bytes:
    """One chunk of hand-made records."""
    return pack(b"".join(json.dumps({"t": BEGAN_MS, "s": "out", **one}).encode() + b"\n" for one in fields))


class LogServer:
    """Hands logs out by name. `requests` are the chunks that were asked for, in order. `held`: a chunk that is answered only once
    another of its log was asked for, or after `HELD_SECONDS`, which `overdue` tells. `lost`: logs of which nobody will ever know how
    many chunks they were to have."""

    def __init__(self) -> None:
        self.chunks: dict[str, list[bytes]] = {}
        self.ended: dict[str, bool] = {}
        self.requests: list[tuple[str, int]] = []
        self.pause_seconds = 0.0  # before each chunk, as a bucket takes
        self.held: dict[tuple[str, int], int] = {}
        self.overdue: list[tuple[str, int]] = []
        self.lost: set[str] = set()
        self.grown = threading.Condition()
        server = self

        class Handler(http_server.Handler):
            def do_GET(self) -> None:
                server.answer(self)

        self._http = http_server.Server(Handler)
        self.origin = self._http.origin

    def close(self) -> None:
        with self.grown:
            self.ended = dict.fromkeys(self.ended, True)
            self.grown.notify_all()
        self._http.close()

    def put(self, name: str, chunks: Sequence[bytes], ended: bool = True) -> str:
        """Publish a log; the address of the page that shows it."""
        self.chunks[name] = list(chunks)
        self.ended[name] = ended
        return f"{self.origin}/log.html?log={name}"

    def add(self, name: str, *chunks: bytes, ended: bool = False) -> None:
        with self.grown:
            self.chunks[name].extend(chunks)
            self.ended[name] = ended
            self.grown.notify_all()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        address = urlsplit(request.path)
        parts = address.path.strip("/").split("/")
        if parts[0] == "logs":
            self._answer_log(request, parts[1], parts[2], "wait" in parse_qs(address.query))
        elif address.path == "/log.html":
            _send(request, 200, PAGE, "text/html; charset=utf-8")
        elif address.path == "/harness.js":
            _send(request, 200, HARNESS, "text/javascript")
        elif address.path == "/harness.css":
            _send(request, 200, STYLE, "text/css")
        elif parts[0] == "web" and (WEB / "/".join(parts[1:])).is_file():
            kind = "text/css" if address.path.endswith(".css") else "text/javascript"
            _send(request, 200, (WEB / "/".join(parts[1:])).read_bytes(), kind)
        elif address.path == "/favicon.ico":
            _send(request, 204, b"", "image/svg+xml")
        else:
            _send(request, 404, b"", "text/plain")

    def _answer_log(self, request: http.server.BaseHTTPRequestHandler, name: str, what: str, waits: bool) -> None:
        if what == "state":
            ended = self.ended[name]
            state = {"ended": ended, "chunks": len(self.chunks[name]) if ended and name not in self.lost else None}
            _send(request, 200, json.dumps(state).encode(), "application/json")
            return
        number = int(what)
        time.sleep(self.pause_seconds)
        with self.grown:
            self.requests.append((name, number))
            self.grown.notify_all()
            other = self.held.get((name, number))
            if not self.grown.wait_for(lambda: other is None or (name, other) in self.requests, HELD_SECONDS):
                self.overdue.append((name, number))
            until = time.monotonic() + 2
            while waits and len(self.chunks[name]) < number and not self.ended[name] and time.monotonic() < until:
                self.grown.wait(until - time.monotonic())
        found = 1 <= number <= len(self.chunks[name]) and self.chunks[name][number - 1] != MISSING
        # 204 where a bucket says 404: a browser reports those on its console, where tests look for errors.
        _send(request, 200 if found else 204, self.chunks[name][number - 1] if found else b"", "application/gzip")


def _send(request: http.server.BaseHTTPRequestHandler, status: int, body: bytes, kind: str) -> None:
    request.send_response(status)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(body)))
    for header in security_headers():
        request.send_header(*header)
    request.end_headers()
    request.wfile.write(body)
