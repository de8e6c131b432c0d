"""Targets of submitting many: the file of `submit --bulk`, and what an inbox answers to one upload of many."""

from __future__ import annotations

import http.client
import io
import json
from collections.abc import Callable
from typing import Any

from tests.fuzz.mutators import AT, JSON, TEXT, YAML
from tests.fuzz.targets import ID, KEY, Target

from runvoy_cli.bulk import reader
from runvoy_cli.bulk.reader import Problem
from runvoy_cli.bulk.requests import Maker
from runvoy_cli.http.uploads import read_success
from runvoy_protocol import requests
from runvoy_protocol.requests import RunRequest

BASE = RunRequest(1, "here", ID, AT, AT + requests.MAX_LIFETIME, "true", env={"A": "base"})
RUN = {
    "command": ["sh", "-c", "exit 3"],
    "image": "tools",
    "env": {"A": "1"},
    "secrets": ["db"],
    "locks": "a",
    "if_locked": "fail",
    "timeout": "1m",
    "queue_timeout": 600,
    "cpu": 0.5,
    "memory": "2g",
    "git_repo": "https://x.example/r",
    "git_ref": "main",
    "labels": {"n": "1"},
    "name": "nightly",
    "id": "job-1",
    "isolation": "container",
}


def run_bulk_file(name: str) -> Any:
    """Every run of a file is a request that can be sealed, or it has a problem with its line; nothing else comes of it."""

    def run(raw: bytes) -> str:
        text = raw.decode(errors="replace")
        problems: list[Problem] = []
        maker = Maker(BASE, None)
        entries = reader.parse(text, name, problems)
        made = [maker.make(entry, number, problems) for number, entry in enumerate(entries, start=1)]
        for one in made:
            if one is not None:
                requests.seal_request(one.request, KEY)
        assert made.count(None) <= len(problems)
        assert all(1 <= one.line <= len(raw) + 1 and len(one.text) < 3000 for one in problems)
        return "decoded" if not problems else "problems"

    return run


def _in_pieces(raw: bytes, size: int) -> Callable[[int], bytes]:
    source = io.BytesIO(raw)
    return lambda most: source.read(min(most, size))


class _Answered:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._raw)


def run_upload_answer(raw: bytes) -> str:
    """What is taken for a plain success the standard library takes for the same answer, on a connection that goes on or not."""
    success = read_success(io.BytesIO(raw).read)
    if success is None:
        return "not plain"
    for size in (1, 7):  # how it is cut makes no difference
        assert read_success(_in_pieces(raw, size)) == success
    response = http.client.HTTPResponse(_Answered(raw))  # type: ignore[arg-type]
    response.begin()
    assert response.status == int(success.status)
    assert not (response.will_close and success.goes_on)
    response.read()
    assert response.isclosed()
    return "answered" if success.goes_on else "answered, the last"


ANSWERS = (
    b'HTTP/1.1 204 No Content\r\nETag: "x"\r\nDate: Mon, 04 May 2026 12:00:00 GMT\r\n\r\n',
    b"HTTP/1.1 200 OK\r\ncontent-length:  3 \r\nServer: s\r\nConnection: keep-alive\r\n\r\nabc",
    b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno",
)
BULK_TARGETS = [
    Target(
        "bulk-json",
        JSON,
        (json.dumps(RUN).encode(), b'{"command":"true"}\n{"command":"false","id":"x"}'),
        run_bulk_file("f.jsonl"),
    ),
    Target("bulk-yaml", YAML, (YAML.dump(RUN), b"command: a\n---\ncommand: [b]\n"), run_bulk_file("f.yml")),
    Target("upload-answer", TEXT, ANSWERS, run_upload_answer),
]
