"""The client against a small HTTP server that really loses answers, refuses grants and disagrees about the time."""

import contextlib
import json
import socket
import sys
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest

from runvoy_cli.deployment.client import Client
from runvoy_cli.deployment.target import Target
from runvoy_cli.home.cache import Cache
from runvoy_cli.http.transport import NoAnswer, Transport
from runvoy_cli.input.problems import UsageProblem
from runvoy_protocol import control
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.ids import uuid7
from runvoy_protocol.keys import SigningKey

KEY = SigningKey(bytes(range(32)))
ID = uuid7(datetime.now(UTC), bytes(10))
LOSE = object()  # instead of an answer: the connection is closed


class _HTTPServer(ThreadingHTTPServer):
    request_queue_size = 64  # as many connections are opened at once as an upload of many opens

    def handle_error(self, request, client_address):
        """A client that closes a connection with an answer on its way is none."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Server:
    """Answers from a list for each path, in order, the last one for ever; keeps what it was sent."""

    def __init__(self):
        self.answers = {}
        self.seen = []
        self.connections = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = self.path.split("?")[0]
                seen = (self.command, self.path, dict(self.headers), body)
                outer.seen.append(seen)
                queue = outer.answers[path]
                answer = queue.pop(0) if len(queue) > 1 else queue[0]
                if answer is LOSE:
                    self.close_connection = True
                    return
                status, content, *headers = answer(seen) if callable(answer) else answer
                raw = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response_only(status)
                if "Date" not in dict(headers):
                    self.send_header("Date", self.date_time_string())
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = answer

            def setup(self):
                outer.connections += 1
                super().setup()

            def log_message(self, *_):
                return

        self.http = _HTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def sent_to(self, path):
        return [seen for seen in self.seen if seen[1].split("?")[0] == path]

    def grant(self, name="one", expires_in=3000):
        return {
            "url": f"{self.url}/inbox",
            "fields": {"policy": name, "signature": "s"},
            "key_prefix": f"requests/{KEY.key_id}/",
            "content_type": "application/vnd.runvoy",
            "max_bytes": 1000,
            "expires_at": (datetime.now(UTC) + timedelta(seconds=expires_in)).isoformat(),
        }


@pytest.fixture
def server():
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def client_of(server, tmp_path):
    def make(limit=30.0, revive=None, trace=None):
        target = Target(server.url, "d-1", KEY)
        transport = Transport(trace)
        return Client(target, lambda of: Cache(tmp_path, of.endpoint, KEY.key_id), transport, limit, revive)

    return make


def call_of(seen):
    """The signed call of a request, verified as a server does."""
    method, target, headers, body = seen
    envelope = control.parse_authorization(headers["Authorization"])
    from runvoy_protocol.envelope import verified_payload

    call = control.decode_call(verified_payload(envelope, KEY.key_id, KEY.public_key))
    assert (call.method, call.target, call.body_sha256) == (method, target, control.body_digest(body))
    return call


def error(code, status=400, **details):
    return (status, json.loads(control.error_body(RunvoyError(code, "no", details=details))))


WHO = {"user": "ann", "role": "admin", "key_id": KEY.key_id, "deployment_id": "d-1", "version": "1"}


def test_an_upload_that_was_sent_may_have_arrived_and_none_before_that(server, client_of):
    client = client_of()
    server.answers["/api/v1/grants/inbox"] = [(501, "")]
    with pytest.raises(RunvoyError):
        client.upload(ID, b"x")
    assert not client.may_be_uploaded
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant())]
    server.answers["/inbox"] = [LOSE]
    with pytest.raises(RunvoyError):
        client.upload(ID, b"x")
    assert client.may_be_uploaded


def test_plain_text_where_tls_is_expected_is_told_as_that(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def answer_each():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    connection.close()

        threading.Thread(target=answer_each, daemon=True).start()
        target = Target(f"https://127.0.0.1:{port}", "d-1", KEY)
        client = Client(target, lambda of: Cache(tmp_path, of.endpoint, KEY.key_id), Transport(), 0.05)
        with pytest.raises(RunvoyError, match="it does not speak TLS there"):
            client.call("GET", "/whoami")


@pytest.mark.parametrize("path", ["/locks/", "/users//claims", "/secrets/"])
def test_an_empty_name_is_no_call_of_something_else(server, client_of, path):
    with pytest.raises(UsageProblem, match="a name is empty"):
        client_of().call("GET", path)
    assert server.seen == []


def test_a_call_is_signed_over_what_is_sent(server, client_of):
    server.answers["/api/v1/executions"] = [(200, {"executions": []})]
    client_of().call("GET", "/executions", query={"label": "a=b c", "status": "RUNNING"})
    call = call_of(server.seen[0])
    assert call.target == "/api/v1/executions?label=a%3Db+c&status=RUNNING"
    assert call.issued_at.microsecond % 1000 == 0


@pytest.mark.parametrize(
    ("encode", "content_type"),
    [(msgspec.json.encode, "application/json"), (msgspec.msgpack.encode, control.MSGPACK)],
)
def test_logs_come_as_msgpack_or_as_an_older_deployment_sends_them(server, client_of, encode, content_type):
    granted = control.LogGrantsAnswer(
        expires_at=datetime.now(UTC), executions=(control.LogGrant(execution_id=ID, chunks=(b"\x1f\x8b", b"")),)
    )
    server.answers["/api/v1/grants/logs"] = [(200, encode(granted), ("Content-Type", content_type))]
    assert client_of().log_grants([ID]) == granted
    assert server.seen[0][2]["Accept"] == control.MSGPACK


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"\x80", b"\xc1", msgspec.msgpack.encode({"executions": [], "expires_at": 1 << 60})]
)
def test_what_is_no_msgpack_of_logs_is_told_as_that(server, client_of, raw):
    server.answers["/api/v1/grants/logs"] = [(200, raw, ("Content-Type", control.MSGPACK))]
    with pytest.raises(RunvoyError, match="no LogGrantsAnswer") as failed:
        client_of().log_grants([ID])
    assert failed.value.code is ErrorCode.UNAVAILABLE


def test_one_connection_carries_several_calls(server, client_of):
    server.answers["/api/v1/whoami"] = [(200, WHO)]
    client = client_of()
    for _ in range(3):
        assert client.ask(control.Whoami, "GET", "/whoami").user == "ann"
    assert len(client.transport._connections) == 1


def test_the_offset_of_a_wrong_clock_is_kept_and_the_call_repeated_once(server, client_of):
    theirs = datetime.now(UTC) + timedelta(hours=2)
    server.answers["/api/v1/whoami"] = [error(ErrorCode.CLOCK_SKEW, 401, server_time=theirs.isoformat()), (200, WHO)]
    client = client_of()
    client.ask(control.Whoami, "GET", "/whoami")
    first, second = map(call_of, server.seen)
    assert second.issued_at - first.issued_at > timedelta(minutes=119)
    assert first.nonce != second.nonce
    assert abs(client_of().now() - theirs) < timedelta(minutes=1)  # another command knows it too


@pytest.mark.parametrize("code", [ErrorCode.CLOCK_SKEW, ErrorCode.REQUEST_EXPIRED])
def test_what_refuses_a_request_for_its_time_tells_the_server_s(client_of, code):
    theirs = datetime.now(UTC) + timedelta(days=3)
    client = client_of()
    assert client.learn_time(RunvoyError(code, "off", "", {"server_time": theirs.isoformat()}))
    assert abs(client.now() - theirs) < timedelta(minutes=1)
    assert not client.learn_time(RunvoyError(code, "off"))


@pytest.mark.parametrize("status", [204, 403])
def test_an_upload_s_answer_tells_of_an_offset_that_turned_out_wrong(server, client_of, status):
    """No call is made with a kept grant, so nothing else would."""
    client = client_of()
    client.cache.learn_time((datetime.now(UTC) + timedelta(minutes=20)).isoformat())
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant())]
    server.answers["/inbox"] = [(status, b"")]
    client.ready_upload()
    with contextlib.suppress(RunvoyError):
        client.upload(ID, b"x")
    assert abs(client_of().now() - datetime.now(UTC)) < timedelta(seconds=5)


def test_a_clock_that_stays_wrong_is_told(server, client_of):
    skew = error(ErrorCode.CLOCK_SKEW, 401, server_time=datetime.now(UTC).isoformat())
    server.answers["/api/v1/whoami"] = [skew]
    with pytest.raises(RunvoyError) as caught:
        client_of().call("GET", "/whoami")
    assert caught.value.code is ErrorCode.CLOCK_SKEW
    assert len(server.seen) == 2


def test_a_lost_answer_of_a_call_is_repeated_with_a_new_nonce(server, client_of):
    server.answers["/api/v1/whoami"] = [LOSE, LOSE, (200, WHO)]
    client_of().call("GET", "/whoami")
    assert len({call_of(seen).nonce for seen in server.seen}) == 3


def test_an_upload_whose_answer_is_lost_is_repeated_with_identical_bytes(server, client_of):
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant())]
    server.answers["/inbox"] = [LOSE, (503, b"<Error><Code>SlowDown</Code></Error>"), (204, b"")]
    client_of().upload(ID, b"signed \x00 bytes")
    uploads = [body.partition(b'filename="request"')[2].split(b"\r\n")[3] for _, _, _, body in server.sent_to("/inbox")]
    assert uploads == [b"signed \x00 bytes"] * 3
    assert len(server.sent_to("/api/v1/grants/inbox")) == 1


def test_the_form_has_the_key_first_and_the_file_last(server, client_of):
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant())]
    server.answers["/inbox"] = [(204, b"")]
    client_of().upload(ID, b"x")
    _, _, headers, body = server.sent_to("/inbox")[0]
    names = [line.split(b'"')[1].decode() for line in body.split(b"\r\n") if line.startswith(b"Content-Disposition")]
    assert names == ["key", "Content-Type", "policy", "signature", "file"]
    assert f"requests/{KEY.key_id}/{ID}".encode() in body
    assert headers["Content-Type"].startswith("multipart/form-data; boundary=")


def test_a_cached_grant_makes_a_submit_one_request(server, client_of):
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant())]
    server.answers["/inbox"] = [(204, b"")]
    client_of().upload(ID, b"x")
    server.seen.clear()
    client_of().upload(ID, b"y")
    assert [seen[1] for seen in server.seen] == ["/inbox"]


def test_a_grant_near_its_expiry_is_not_used(server, client_of):
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant(expires_in=30))]
    server.answers["/inbox"] = [(204, b"")]
    client_of().upload(ID, b"x")
    client_of().upload(ID, b"y")
    assert len(server.sent_to("/api/v1/grants/inbox")) == 2


def test_a_refused_cached_grant_is_renewed_once(server, client_of):
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant("one")), (200, server.grant("two"))]
    server.answers["/inbox"] = [(204, b""), (403, b"expired"), (204, b"")]
    client_of().upload(ID, b"x")
    client_of().upload(ID, b"y")
    assert b"two" in server.sent_to("/inbox")[2][3]


def test_a_refused_new_grant_is_an_error_with_the_reason(server, client_of):
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant())]
    server.answers["/inbox"] = [(403, b"<Error><Code>AccessDenied</Code><Message>no way</Message></Error>")]
    with pytest.raises(RunvoyError, match="403: AccessDenied: no way"):
        client_of().upload(ID, b"x")
    assert len(server.sent_to("/inbox")) == 1


def test_the_cache_is_private_and_a_broken_one_is_no_trouble(server, client_of, tmp_path):
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant())]
    server.answers["/inbox"] = [(204, b"")]
    client_of().upload(ID, b"x")
    (path,) = (tmp_path / "cache").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"{")
    client_of().upload(ID, b"x")


def test_nobody_there_is_unavailable_after_a_few_tries(server, client_of):
    revived = []
    client = client_of(revive=lambda: revived.append(1) or Target(server.url, "d-1", KEY))
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(RunvoyError, match=r"no answer from 127\.0\.0\.1") as caught:
        client.call("GET", "/whoami")
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert len(revived) == 3


def test_the_limit_of_a_call_ends_its_retries(server, client_of):
    server.answers["/api/v1/whoami"] = [LOSE]
    with pytest.raises(RunvoyError, match="closed before an answer"):
        client_of(limit=0.05).call("GET", "/whoami")
    assert len(server.seen) == 1


@pytest.mark.parametrize("answer", [(404, b"<html>"), (200, b"<html>"), (200, {"user": 3})])
def test_what_is_no_deployment_is_said_to_be_none(server, client_of, answer):
    server.answers["/api/v1/whoami"] = [answer]
    with pytest.raises(RunvoyError) as caught:
        client_of().ask(control.Whoami, "GET", "/whoami")
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert server.url in caught.value.message


def test_errors_of_the_deployment_come_through(server, client_of):
    server.answers["/api/v1/whoami"] = [error(ErrorCode.KEY_REVOKED, 403)]
    with pytest.raises(RunvoyError) as caught:
        client_of().call("GET", "/whoami")
    assert caught.value.code is ErrorCode.KEY_REVOKED
    assert len(server.seen) == 1


def test_a_waiting_read_asks_for_news_of_what_is_known(server, client_of):
    server.answers["/outbox/x"] = [(304, b"", ("ETag", '"1"'))]
    answer = client_of().read(f"{server.url}/outbox/x?sig=secret", '"1"', wait_seconds=20)
    _, _, headers, _ = server.seen[0]
    assert (headers["Prefer"], headers["If-None-Match"]) == ("wait=20", '"1"')
    assert (answer.status, answer.etag) == (304, '"1"')


def test_traffic_is_shown_without_signatures(server, client_of):
    shown = []
    server.answers["/outbox/x"] = [(404, b"")]
    server.answers["/api/v1/whoami"] = [(200, WHO)]
    client = client_of(trace=shown.append)
    client.read(f"{server.url}/outbox/x?sig=secret")
    client.call("GET", "/whoami")
    assert [line.split(" -> ")[1][:3] for line in shown] == ["404", "200"]
    assert "secret" not in "".join(shown)
    assert "Runvoy " not in "".join(shown)


def test_plain_http_to_elsewhere_is_never_sent():
    with pytest.raises(RunvoyError, match="plain http"):
        Transport().send("GET", "http://example.invalid/", timeout=1)


def test_a_read_without_an_answer_is_no_answer(server):
    server.answers["/x"] = [LOSE]
    with pytest.raises(NoAnswer) as caught:
        Transport().send("GET", f"{server.url}/x", timeout=60)
    assert not caught.value.reused


def test_an_answer_that_is_cut_off_is_no_answer(server):
    server.answers["/log"] = [(200, b"half of i", ("Content-Length", "20"), ("Connection", "close"))]
    with pytest.raises(NoAnswer, match="IncompleteRead"):
        Transport().send("GET", f"{server.url}/log", timeout=60)


class Stop(BaseException):
    """Like a Ctrl-C."""


def stopped_at(number, action):
    """Do it, but raise Stop where it comes to its `number`th line, in whatever module; whether it came so far."""
    left = number

    def trace(frame, event, _):
        nonlocal left
        left -= event == "line"
        if left == 0:
            raise Stop
        return trace

    sys.settrace(trace)
    try:
        action()
    except Stop:
        return True
    finally:
        sys.settrace(None)
    return left <= 0


@pytest.mark.parametrize("is_kept", [True, False])
def test_nothing_of_an_interrupted_request_is_in_the_next(server, is_kept):
    """http.client keeps the lines of a head that it did not get to send, and would send them before the next one's."""
    server.answers["/interrupted"] = server.answers["/next"] = [(200, b"yes")]
    number = points = 0
    goes_on = True
    while goes_on:
        transport = Transport()
        if is_kept:
            transport.send("GET", f"{server.url}/next", timeout=60)
        number += 7
        goes_on = stopped_at(number, lambda: transport.send("POST", f"{server.url}/interrupted", body=b"x", timeout=60))  # noqa: B023
        answer = transport.send("GET", f"{server.url}/next", headers={"If-None-Match": "e"}, timeout=60)
        assert (answer.status, answer.body) == (200, b"yes"), number
        transport.close()
        points += 1
    assert points > 50
    assert all(
        set(seen[2]) <= {"Host", "Accept-Encoding", "User-Agent", "If-None-Match"} for seen in server.sent_to("/next")
    )


def test_messages_of_the_wire_are_what_this_server_speaks(server):
    assert msgspec.convert(server.grant(), control.InboxGrant).key_prefix.startswith("requests/")


@pytest.mark.parametrize("lost", [LOSE, (502, b"a proxy's page")])
@pytest.mark.parametrize("code", [ErrorCode.CONFLICT, ErrorCode.SECRET_EXISTS, ErrorCode.NOT_FOUND])
def test_a_refusal_after_a_lost_answer_tells_that_it_may_be_of_ones_own_doing(server, client_of, lost, code):
    path = "/api/v1/users"
    server.answers = {path: [lost, error(code, 409)]}
    with pytest.raises(RunvoyError) as caught:
        client_of().call("POST", "/users", b"{}")
    assert caught.value.code is code
    assert "may have done it" in caught.value.hint
    assert len(server.sent_to(path)) == 2


def test_other_refusals_are_told_as_they_are(server, client_of):
    path = "/api/v1/users"
    cases = [("POST", [error(ErrorCode.CONFLICT, 409)]), ("GET", [LOSE, error(ErrorCode.NOT_FOUND, 404)])]
    cases.append(("POST", [LOSE, error(ErrorCode.FORBIDDEN, 403)]))
    for method, answers in cases:
        server.answers = {path: answers}
        with pytest.raises(RunvoyError) as caught:
            client_of().call(method, "/users")
        assert "may have done it" not in caught.value.hint, (method, answers)


def test_what_never_left_is_not_taken_for_done(server, client_of):
    """The stack was down, so nothing arrived before the try that was answered."""
    server.answers = {"/api/v1/users": [error(ErrorCode.CONFLICT, 409)]}
    client = client_of(revive=lambda: Target(server.url, "d-1", KEY))
    client.target = Target("http://127.0.0.1:1", "d-1", KEY)
    with pytest.raises(RunvoyError) as caught:
        client.call("POST", "/users", b"{}")
    assert caught.value.code is ErrorCode.CONFLICT
    assert "may have done it" not in caught.value.hint


REMOTE = "https://remote.example"


class Front(Transport):
    """Reaches a deployment elsewhere by its name, as DNS and TLS would."""

    def __init__(self, place):
        super().__init__()
        self._place = place

    def send(self, method, url, **options):
        return super().send(method, url.replace(REMOTE, self._place), **options)


def test_a_deployment_elsewhere_does_not_lead_us_to_this_machine(server, tmp_path):
    """Programs that listen on this machine alone trust whoever is on it."""
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant())]  # which leads to 127.0.0.1
    client = Client(Target(REMOTE, "d-1", KEY), lambda _: Cache(tmp_path, REMOTE, KEY.key_id), Front(server.url), 5)
    for call in (lambda: client.upload(ID, b"sealed"), lambda: client.read(f"{server.url}/outbox/x")):
        with pytest.raises(RunvoyError, match="leads to an address of this machine"):
            call()
    assert {path for _, path, _, _ in server.seen} == {"/api/v1/grants/inbox"}
