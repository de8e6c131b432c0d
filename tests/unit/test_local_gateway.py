"""The gateway on a real socket: what it lets through and, mostly, what it does not."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from tests.http_server import close_waitress
from waitress.server import create_server  # type: ignore[import-untyped]

from runvoy_agent.local.changes import Changes, topic_of
from runvoy_agent.local.clock import SystemClock
from runvoy_agent.local.gateway import Answer, ControlCall, Gateway
from runvoy_agent.local.grants import Grants
from runvoy_agent.local.home import bind
from runvoy_agent.local.objects import FolderObjects

TYPE = "application/vnd.runvoy.envelope+msgpack"
PREFIX = "requests/mine/"
NAMED = "https://runs.example.com"


class Reply(NamedTuple):
    status: int
    body: bytes
    etag: str | None
    headers: Mapping[str, str] = {}

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["error"]["code"])


class Served:
    """A gateway that listens, and what reached the parts behind it."""

    def __init__(self, folder: Path) -> None:
        self.grants = Grants(b"g" * 32)
        self.changes = Changes(4)
        self.inbox = FolderObjects(folder / "inbox", versioned=True, grants=self.grants)
        self.outbox = FolderObjects(folder / "outbox", grants=self.grants, on_change=self.changes.announce)
        self.calls: list[ControlCall] = []
        self.uploads: list[tuple[str, str]] = []
        self.sources: list[str] = []
        self.clock = SystemClock()
        self.gateway = Gateway(
            inbox=self.inbox,
            outbox=self.outbox,
            grants=self.grants,
            changes=self.changes,
            clock=self.clock,
            serve_control=self._control,
            on_upload=self._uploaded,
            web_origins=frozenset({NAMED}),
        )
        listener = bind(0)
        self.port = listener.getsockname()[1]
        self.gateway.port = self.port
        self.grants.base_url = f"http://127.0.0.1:{self.port}"
        self.server = create_server(self.gateway, sockets=[listener], threads=8)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()

    def _uploaded(self, object_key: str, version: str, source: str) -> None:
        self.uploads.append((object_key, version))
        self.sources.append(source)

    def _control(self, call: ControlCall) -> Answer:
        self.calls.append(call)
        return Answer(200, b"{}")

    def send(self, method: str, target: str, body: bytes = b"", /, **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=40)
        try:
            wanted = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, target, body or None, wanted)
            response = connection.getresponse()
            return Reply(response.status, response.read(), response.getheader("ETag"), dict(response.getheaders()))
        finally:
            connection.close()

    def wait_until_waited_for(self, object_key: str) -> None:
        give_up_at = time.monotonic() + 60
        while topic_of(object_key) not in self.changes._waiting:
            assert time.monotonic() < give_up_at, "nobody waits for it"
            time.sleep(0.01)

    def close(self) -> None:
        self.changes.close()
        close_waitress(self.server, self.thread)

    def form(self, object_key: str, file: bytes, **changes: str | None) -> list[tuple[str, str | bytes]]:
        policy = self.inbox.presign_post(
            PREFIX, content_type=TYPE, max_bytes=1000, expires_at=self.clock.now() + timedelta(minutes=5)
        )
        fields: dict[str, str | bytes | None] = {"key": object_key, "Content-Type": TYPE, **policy.fields}
        fields |= changes
        return [(name, value) for name, value in fields.items() if value is not None] + [("file", file)]

    def post(self, form: list[tuple[str, str | bytes]], target: str = "/inbox") -> Reply:
        parts = []
        for name, value in form:
            raw = value if isinstance(value, bytes) else value.encode()
            disposition = f'form-data; name="{name}"' + ('; filename="f"' if name == "file" else "")
            parts.append(f"--b\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + raw + b"\r\n")
        body = b"".join(parts) + b"--b--\r\n"
        return self.send("POST", target, body, Content_Type="multipart/form-data; boundary=b")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.close()


def test_an_upload_is_stored_and_delivered(served: Served) -> None:
    assert served.post(served.form(PREFIX + "a", b"data")).status == 204
    stored = served.inbox.get(PREFIX + "a")
    assert stored is not None
    assert stored.data == b"data"
    assert served.uploads == [(PREFIX + "a", stored.version)]


@pytest.mark.parametrize(
    ("object_key", "file", "changes", "status"),
    [
        ("requests/other/a", b"x", {}, 403),
        ("requests/minetoo/a", b"x", {}, 403),
        (PREFIX + "../other/a", b"x", {}, 400),
        (PREFIX + "a/../../b", b"x", {}, 400),
        ("", b"x", {}, 403),
        (PREFIX + "a", b"x" * 1001, {}, 413),
        (PREFIX + "a", b"", {}, 403),
        (PREFIX + "a", b"x", {"Content-Type": "text/html"}, 403),
        (PREFIX + "a", b"x", {"Content-Type": None}, 403),
        (PREFIX + "a", b"x", {"acl": "public-read"}, 403),
        (PREFIX + "a", b"x", {"policy": None}, 403),
        (PREFIX + "a", b"x", {"policy": "e30="}, 403),
        (PREFIX + "a", b"x", {"x-runvoy-signature": "AAAA"}, 403),
        (PREFIX + "a", b"x", {"x-runvoy-signature": None}, 403),
        (PREFIX + "a", b"x", {"key": None}, 403),
    ],
)
def test_a_grant_used_otherwise_than_granted_does_nothing(
    served: Served, object_key: str, file: bytes, changes: dict[str, str | None], status: int
) -> None:
    reply = served.post(served.form(object_key, file, **changes))
    assert reply.status == status, reply
    assert served.uploads == []
    assert list(served.inbox.list("")) == []


def test_malformed_forms(served: Served) -> None:
    form = served.form(PREFIX + "a", b"x")
    assert served.post([*form[:-1]]).status == 400
    assert served.post([form[-1], *form[:-1]]).status == 400
    assert served.post([form[0], *form]).status in (400, 403)
    assert served.send("POST", "/inbox", b"x", Content_Type="text/plain").status == 400
    assert served.send("POST", "/inbox", b"garbage", Content_Type="multipart/form-data; boundary=b").status == 400
    assert served.post([*form[:-1], ("file", bytes(9_000_000))]).status == 413
    assert served.uploads == []


def read_target(served: Served, object_key: str, seconds: float = 60) -> str:
    parts = urlsplit(served.outbox.presign_get(object_key, expires_at=served.clock.now() + timedelta(seconds=seconds)))
    return f"{parts.path}?{parts.query}"


def test_reads_need_a_grant_for_that_very_object(served: Served) -> None:
    served.outbox.put("executions/a/status.json", b"{}", content_type="")
    served.outbox.put("executions/b/status.json", b"{}", content_type="")
    good = read_target(served, "executions/a/status.json")
    assert served.send("GET", good).status == 200
    assert served.send("GET", good.replace("/a/", "/b/")).status == 403
    assert served.send("GET", good.partition("?")[0]).status == 403
    assert served.send("GET", good[:-3] + "AAA").status == 403
    assert served.send("GET", read_target(served, "executions/a/status.json", -1)).status == 403
    assert served.send("GET", "/outbox/../inbox/x?" + good.partition("?")[2]).status in (403, 404)
    assert served.send("PUT", good, b"x").status == 404


def test_an_etag_that_is_known_is_not_sent_again(served: Served) -> None:
    served.outbox.put("executions/a/status.json", b"{}", content_type="")
    target = read_target(served, "executions/a/status.json")
    etag = served.send("GET", target).etag
    assert etag is not None
    assert served.send("GET", target, If_None_Match=etag).status == 304


def test_a_large_object_comes_whole_and_the_connection_goes_on(served: Served) -> None:
    object_key = "executions/a/run/logs/00000001"
    contents = [os.urandom(3 * 1024 * 1024), b"small", os.urandom(256 * 1024), os.urandom(256 * 1024 - 1)]
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=40)
    try:
        for content in contents:
            served.outbox.put(object_key, content, content_type="")
            connection.request("GET", read_target(served, object_key))
            assert connection.getresponse().read() == content
    finally:
        connection.close()


def test_a_waiting_read_returns_on_the_write(served: Served) -> None:
    target = read_target(served, "executions/a/run/logs/00000001")
    replies: list[Reply] = []
    reader = threading.Thread(target=lambda: replies.append(served.send("GET", target, Prefer="wait=25")))
    reader.start()
    served.wait_until_waited_for("executions/a/run/logs/00000001")
    served.outbox.put("executions/a/run/logs/00000001", b"chunk", content_type="")
    reader.join(20)
    assert not reader.is_alive(), "the read slept through the write"
    assert [(reply.status, reply.body) for reply in replies] == [(200, b"chunk")]


def test_a_wait_ends_early_when_something_else_of_the_execution_changed(served: Served) -> None:
    target = read_target(served, "executions/a/run/logs/00000002")
    replies: list[Reply] = []
    reader = threading.Thread(target=lambda: replies.append(served.send("GET", target, Prefer="wait=25")))
    reader.start()
    served.wait_until_waited_for("executions/a/run/logs/00000002")
    served.outbox.put("executions/b/status.json", b"{}", content_type="")
    reader.join(0.5)
    assert reader.is_alive(), "another execution's news ended the wait"
    served.outbox.put("executions/a/status.json", b"{}", content_type="")
    reader.join(20)
    assert [reply.status for reply in replies] == [404]


def test_when_all_places_to_wait_are_taken_reads_answer_at_once(served: Served) -> None:
    with (
        served.changes.subscribed("executions/x/1"),
        served.changes.subscribed("executions/x/2"),
        served.changes.subscribed("executions/x/3"),
        served.changes.subscribed("executions/x/4"),
    ):
        assert served.send("GET", read_target(served, "executions/a/status.json"), Prefer="wait=25").status == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:{port}"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1:1"},
        {"Host": "127.0.0.1.evil.example:{port}"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_rebound_and_cross_origin_calls_reach_nothing(served: Served, headers: dict[str, str]) -> None:
    filled = {name: value.format(port=served.port) for name, value in headers.items()}
    for method, target in (("GET", "/api/v1/health"), ("POST", "/inbox"), ("GET", "/outbox/x")):
        reply = served.send(method, target, **filled)
        assert (reply.status, reply.code) == (403, "FORBIDDEN")
    assert served.calls == []


def test_its_own_page_and_names_may_call(served: Served) -> None:
    own = {"Host": f"localhost:{served.port}", "Origin": f"http://localhost:{served.port}"}
    assert served.send("GET", "/api/v1/health?x=1", **own, Sec_Fetch_Site="same-origin").status == 200
    assert served.calls[0].target == "/api/v1/health?x=1"
    assert served.calls[0].query == {"x": "1"}


def test_what_a_signature_covers_is_what_was_sent(served: Served) -> None:
    served.send("GET", "/api/v1/executions/a%2Fb?label=n%3D1&x=%20")
    assert served.calls[0].target == "/api/v1/executions/a%2Fb?label=n%3D1&x=%20"


def test_targets_that_are_no_addresses(served: Served) -> None:
    for target in ("http://[::1", "//[x", "/api/v1/x?" + "&".join(f"a{number}=1" for number in range(99))):
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            host = f"127.0.0.1:{served.port}"
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            answer = connection.makefile("rb").readline()
        # Waitress hangs up on what its own parser cannot read.
        assert not answer or answer.split()[1] in (b"400", b"404"), (target, answer)


def test_big_bodies_and_unknown_paths(served: Served) -> None:
    assert served.send("POST", "/api/v1/x", bytes(400_000)).status == 413
    assert served.send("GET", "/etc/passwd").status == 404
    assert served.send("DELETE", "/inbox").status == 404
    assert served.calls == []


def test_calls_and_uploads_come_with_their_peer_s_address(served: Served) -> None:
    """The peer's own: what a header says of somebody behind it is anybody's word."""
    served.send("GET", "/api/v1/whoami", b"", X_Forwarded_For="203.0.113.9", Forwarded="for=203.0.113.9")
    assert served.calls[-1].source == "127.0.0.1"
    assert served.post(served.form(PREFIX + "a", b"x")).status == 204
    assert served.sources == ["127.0.0.1"]


def test_the_viewer_is_served_to_everybody_who_uses_its_own_name(served: Served) -> None:
    page = served.send("GET", "/?execution_id=0#claim")
    assert page.status == 200
    assert b"<title>runvoy</title>" in page.body
    assert "require-trusted-types-for 'script'" in page.headers["Content-Security-Policy"]
    # Somebody follows a link that a page elsewhere has: that is no call.
    assert served.send("GET", "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate").status == 200
    head = served.send("HEAD", "/")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", page.headers["Content-Length"])
    assert served.send("GET", "/", If_None_Match=page.etag or "").status == 304
    assert served.send("POST", "/", b"x").status == 405
    rebound = served.send("GET", "/", Host="evil.example.com")
    assert (rebound.status, rebound.code) == (403, "FORBIDDEN")
    assert served.calls == []


def test_pages_of_a_named_origin_may_call(served: Served) -> None:
    asked = {"Origin": NAMED, "Sec_Fetch_Site": "cross-site"}
    before = served.send("OPTIONS", "/api/v1/whoami", Access_Control_Request_Method="GET", **asked)
    assert before.status == 204
    assert before.headers["Access-Control-Allow-Origin"] == NAMED
    assert "Authorization" in before.headers["Access-Control-Allow-Headers"]
    answer = served.send("GET", "/api/v1/whoami", **asked)
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, NAMED)
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert [call.target for call in served.calls] == ["/api/v1/whoami"]
    for origin in ("https://evil.example.com", f"{NAMED}.evil.example.com", "null", NAMED.upper()):
        refused = served.send("OPTIONS", "/api/v1/whoami", Origin=origin, Sec_Fetch_Site="cross-site")
        assert (refused.status, refused.code) == (403, "FORBIDDEN")
        assert "Access-Control-Allow-Origin" not in refused.headers
    assert len(served.calls) == 1
