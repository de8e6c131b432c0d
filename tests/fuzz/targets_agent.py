"""Targets of the agent: the control API, the gateway, upload policies and presigned reads, on the real local ports."""

from __future__ import annotations

import atexit
import base64
import functools
import gzip
import io
import json
import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
from tests.fuzz.mutators import AT, JSON, MSGPACK, TEXT, as_bytes, as_fields, as_text, form_to_bytes
from tests.fuzz.targets import BATCH, CAPABILITIES, COMPILED, FULL, ID, KEY, MINIMAL, Target, coded

from runvoy_agent.core.model import Key, User
from runvoy_agent.handlers import control as control_handler
from runvoy_agent.handlers import inbox
from runvoy_agent.handlers.deployment import Deployment
from runvoy_agent.handlers.documents import messages, store
from runvoy_agent.handlers.documents.messages import InboxDelivery
from runvoy_agent.handlers.routes import Request
from runvoy_agent.local.changes import Changes
from runvoy_agent.local.gateway import Answer, ControlCall, Gateway
from runvoy_agent.local.grants import Grants
from runvoy_agent.local.objects import FolderObjects
from runvoy_agent.local.queue import SqliteQueue
from runvoy_agent.local.records import SqliteRecords
from runvoy_agent.local.secrets import FolderSecrets
from runvoy_agent.ports import Attempt, Launch, Launched, LaunchOutcome, Ports, TaskState
from runvoy_protocol import batches, claims, codec, control, ids, object_keys, requests
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import Role

GRANTS = Grants(bytes(32), "http://127.0.0.1:1")
TYPE = control_handler.REQUEST_CONTENT_TYPE
INTERNAL = 500


class StandingClock:
    def __init__(self) -> None:
        self._count = 0

    def now(self):
        return AT

    def new_id(self) -> str:
        return ids.uuid7(AT, self.random(10))

    def random(self, count: int) -> bytes:
        self._count += 1
        return self._count.to_bytes(count, "big")

    def sleep(self, seconds: float) -> None:
        pass


class NoLauncher:
    relaunch_window: timedelta | None = None

    def start(self, launch: Launch) -> LaunchOutcome:
        return Launched("task")

    def stop(self, execution_id: str, attempt: int) -> None:
        pass

    def describe(self, execution_id: str, attempt: int) -> TaskState:
        return TaskState("missing")

    def survey(self, attempts: Sequence[Attempt]) -> Mapping[Attempt, TaskState]:
        return {}


class Stack:
    """One deployment in a temporary folder, with an admin and one execution."""

    def __init__(self, folder: Path) -> None:
        self.records = SqliteRecords(folder / "state.db")
        self.outbox = FolderObjects(folder / "outbox", grants=GRANTS)
        self.inbox = FolderObjects(folder / "inbox", versioned=True, grants=GRANTS)
        self.clock = StandingClock()
        self.queue = SqliteQueue(folder / "queue.db")
        self.ports = Ports(
            records=self.records,
            inbox=self.inbox,
            outbox=self.outbox,
            queue=self.queue,
            launcher=NoLauncher(),
            secrets=FolderSecrets(folder / "secrets"),
            clock=self.clock,
        )
        self.deployment = Deployment("dep", "0", AT - timedelta(days=3), b"s" * 32, CAPABILITIES)
        key = Key(key_id=KEY.key_id, public_key=KEY.public_key, user="ada", created_at=AT)
        user = User(name="ada", role=Role.ADMIN, created_at=AT)
        self.records.commit(
            [store.put_new(store.key_key(KEY.key_id), key), store.put_new(store.user_key("ada"), user)],
        )
        self.gateway = Gateway(
            inbox=self.inbox,
            outbox=self.outbox,
            grants=GRANTS,
            changes=Changes(4),
            clock=self.clock,
            serve_control=self.control,
            on_upload=lambda _key, _version, _source: None,
        )
        self.gateway.port = 1
        self.deliver(object_keys.request(KEY.key_id, ID), requests.seal_request(MINIMAL, KEY))

    def control(self, call: ControlCall) -> Answer:
        response = control_handler.handle(self.ports, self.deployment, Request(*call))
        return Answer(response.status, response.body, response.content_type)

    def deliver(self, object_key: str, raw: bytes) -> None:
        self.inbox.put(object_key, raw, content_type=TYPE)
        delivery = InboxDelivery(object_key=object_key, version=FolderObjects.version_of(raw))
        inbox.handle(self.ports, self.deployment, messages.encode(delivery))


@functools.cache
def stack() -> Stack:
    logging.getLogger("runvoy").setLevel(logging.CRITICAL)  # refusals are what is asked for here
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Stack(folder)


def _tree(raw: bytes) -> dict[str, Any]:
    try:
        tree = json.loads(raw)
    except (ValueError, RecursionError):
        tree = None
    return tree if isinstance(tree, dict) else {}


# --- the control API, behind a good signature ------------------------------------------------------------------------


def run_control(raw: bytes) -> str:
    call = _tree(raw)
    target = as_text(call.get("target", ""))
    path, _, _ = target.partition("?")
    body = as_bytes(json.dumps(call["body"]) if isinstance(call.get("body"), dict | list) else call.get("body", ""))
    method = as_text(call.get("method", "GET"))
    signed = control.ControlCall(1, "dep", method, target, control.body_digest(body), AT, stack().clock.random(16))
    try:
        header = control.authorization(signed, KEY)
    except ValueError:
        return "unsignable"
    request = Request(method, path, target, as_fields(call.get("query")), {"authorization": header}, body)
    response = control_handler.handle(stack().ports, stack().deployment, request)
    assert response.status != INTERNAL, response.body
    if response.status >= 300:
        assert control.parse_error(response.body) is not None
    return str(response.status)


CALLS: list[dict[str, Any]] = [
    {"method": "GET", "target": "/api/v1/whoami"},
    {"method": "POST", "target": "/api/v1/grants/inbox"},
    {
        "method": "POST",
        "target": "/api/v1/grants/outbox",
        "body": {"execution_id": ID, "from_chunk": 65, "object_sha256": "0" * 64},
    },
    {
        "method": "GET",
        "target": "/api/v1/executions",
        "query": {"limit": "5", "status": "QUEUED", "owner": "me", "label": "k=v", "updated_since": AT.isoformat()},
    },
    {"method": "GET", "target": "/api/v1/executions", "query": {"after": "W10=", "limit": "1"}},
    {"method": "GET", "target": f"/api/v1/executions/{ID}"},
    {"method": "DELETE", "target": f"/api/v1/executions/{ID}"},
    {"method": "GET", "target": "/api/v1/locks/prod%2Fdb"},
    {"method": "POST", "target": "/api/v1/locks/db/release", "body": {"execution_id": ID}},
    {"method": "POST", "target": "/api/v1/dry-run", "body": {"request": base64.b64encode(codec.encode(FULL)).decode()}},
    {
        "method": "POST",
        "target": "/api/v1/dry-run",
        "body": {"request": base64.b64encode(codec.encode(MINIMAL)).decode()},
    },
    {"method": "GET", "target": "/api/v1/cost?by=label&since=2026-01-01T00:00:00Z&until=2030-01-01T00:00:00Z&limit=2"},
    {
        "method": "POST",
        "target": "/api/v1/secrets",
        "body": {"name": "db", "env_name": "DB", "value": "YSBsb25nIG9uZQ==", "description": "", "shared_with": ["*"]},
    },
    {
        "method": "PUT",
        "target": "/api/v1/playbooks",
        "body": {"playbooks": [msgspec.to_builtins(COMPILED)], "version": 0},
    },
    {"method": "GET", "target": "/api/v1/playbooks"},
    {"method": "GET", "target": "/api/v1/secrets/db"},
    {
        "method": "PUT",
        "target": "/api/v1/secrets/db",
        "body": {"version": 1, "env_name": "DB", "description": "x", "shared_with": [], "value": "YSBsb25nIG9uZQ=="},
    },
    {"method": "POST", "target": "/api/v1/secrets/db/value"},
    {"method": "DELETE", "target": "/api/v1/secrets/db", "query": {"version": "1"}},
]

LIMITS = {
    "images": ["img:1"],
    "locks": ["prod"],
    "labels": {"team": "data"},
    "playbooks": [{"name": "book", "digest": "0" * 64, "parameters": ["REGION"]}],
}
TERMS = {"name": "ci", "lifetime_seconds": 3600, "limits": LIMITS}
CLAIM = base64.b64encode(claims.seal("dep", b"", SigningKey(b"n" * 32))).decode()
MEMBER_CALLS: list[dict[str, Any]] = [
    {"method": "GET", "target": "/api/v1/users"},
    {"method": "POST", "target": "/api/v1/users", "body": {"name": "dave@example.com", "role": "viewer"}},
    {"method": "GET", "target": "/api/v1/users/dave%40example.com"},
    {"method": "POST", "target": "/api/v1/users/dave%40example.com/role", "body": {"role": "operator", "version": 1}},
    {"method": "POST", "target": "/api/v1/users/eve/revoke", "body": {"version": 1, "stop_all": True}},
    {"method": "GET", "target": "/api/v1/quotas"},
    {"method": "PUT", "target": "/api/v1/quotas", "body": {"version": 0, "quotas": {"max_unfinished": 5}}},
    {"method": "POST", "target": "/api/v1/quotas/recount", "body": {"user": "eve"}},
    {"method": "PUT", "target": "/api/v1/users/eve/quotas", "body": {"version": 1, "quotas": {"max_running": 2}}},
    {"method": "POST", "target": "/api/v1/users/ada/claims", "body": {"terms": TERMS}},
    {"method": "GET", "target": "/api/v1/keys", "query": {"user": "ada"}},
    {"method": "POST", "target": "/api/v1/keys", "body": {"claim": CLAIM, "terms": TERMS}},
    {"method": "POST", "target": "/api/v1/keys/rotate", "body": {"claim": CLAIM}},
    {"method": "DELETE", "target": f"/api/v1/keys/{SigningKey(b'n' * 32).key_id}"},
    {"method": "POST", "target": "/api/v1/claim", "body": {"claim": CLAIM}},
    {
        "method": "GET",
        "target": "/api/v1/audit",
        "query": {
            "user": "ada",
            "action": "admit",
            "since": AT.isoformat(),
            "until": AT.isoformat(),
            "outcome": "refused",
        }
        | {"execution": ID, "limit": "5", "after": f"2026-02-03T04:05:06.000~{ID}"},
    },
]


# --- deliveries: whatever a member signs and uploads ------------------------------------------------------------------


def run_delivery(raw: bytes) -> str:
    """A signed payload, delivered: it is answered, and never raises."""
    from runvoy_protocol.envelope import PayloadType, seal

    sealed = seal(PayloadType.RUN_REQUEST, raw, KEY)
    try:
        request_id = requests.decode(raw).request_id
    except RunvoyError:
        request_id = ID
    stack().deliver(object_keys.request(KEY.key_id, request_id), sealed)
    return "answered"


def run_batch_delivery(raw: bytes) -> str:
    """A signed batch, delivered with all that it is taken apart into."""
    from runvoy_protocol.envelope import PayloadType, seal

    sealed = seal(PayloadType.BATCH, gzip.compress(raw, 1), KEY)
    try:
        batch_id = batches.open_batch(sealed, KEY.key_id, KEY.public_key).batch_id
    except RunvoyError:
        batch_id = ID
    stack().deliver(object_keys.batch(KEY.key_id, batch_id), sealed)
    queue = stack().queue
    while (message := queue.receive("inbox", 0)) is not None:
        inbox.handle(stack().ports, stack().deployment, message.body)
        queue.acknowledge(message.message_id)
    return "answered"


# --- the gateway ------------------------------------------------------------------------------------------------------


def environ_of(request: dict[str, Any]) -> dict[str, Any]:
    """What a WSGI server makes of a request: text is Latin-1."""
    boundary = as_text(request.get("boundary", "b"))
    fields = request.get("form")
    body = form_to_bytes(fields if isinstance(fields, list) else [fields], boundary) if fields is not None else b""
    uri = as_text(request.get("uri", "/")).encode().decode("latin-1")
    path, _, query = uri.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": as_text(request.get("method", "GET")),
        "REQUEST_URI": uri,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "HTTP_HOST": "127.0.0.1:1",
        "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": f"multipart/form-data; boundary={boundary}",
        "wsgi.input": io.BytesIO(body),
    }
    for name, value in as_fields(request.get("headers")).items():
        environ[name.upper().replace("-", "_")] = value.encode().decode("latin-1")
    return environ


def run_gateway(raw: bytes) -> str:
    statuses: list[str] = []
    environ = environ_of(_tree(raw))
    body = b"".join(stack().gateway(environ, lambda status, _headers: statuses.append(status)))
    assert len(statuses) == 1
    assert not statuses[0].startswith(str(INTERNAL)), body
    return statuses[0]


def form_of(object_key: str) -> list[list[str]]:
    policy = GRANTS.sign_post(
        "inbox", f"requests/{KEY.key_id}/", content_type=TYPE, max_bytes=1000, expires_at=AT + timedelta(hours=1)
    )
    fields = {"key": object_key, "Content-Type": TYPE, **policy.fields}
    named = [[f'Content-Disposition: form-data; name="{name}"', value] for name, value in fields.items()]
    return [*named, ['Content-Disposition: form-data; name="file"; filename="f"', "the object"]]


READ = GRANTS.sign_get("outbox", object_keys.status(ID), expires_at=AT + timedelta(minutes=5))
VISITS: list[dict[str, Any]] = [
    {"method": "POST", "uri": "/inbox", "form": form_of(object_keys.request(KEY.key_id, ID)), "boundary": "b"},
    {"method": "POST", "uri": "/inbox", "form": form_of("requests/x/../y"), "headers": {"CONTENT_LENGTH": "10"}},
    {"uri": READ.removeprefix(GRANTS.base_url), "headers": {"HTTP_IF_NONE_MATCH": "x", "HTTP_PREFER": "wait=0"}},
    {"uri": "/api/v1/health", "headers": {"HTTP_ORIGIN": "http://127.0.0.1:1", "HTTP_SEC_FETCH_SITE": "none"}},
    {"uri": "/api/v1/executions?limit=5&after=W10%3D", "headers": {"HTTP_AUTHORIZATION": "Runvoy eA=="}},
]


# --- upload policies and presigned reads, behind a good signature -----------------------------------------------------


def run_policy(raw: bytes) -> str:
    policy = base64.b64encode(raw).decode()
    fields = [("key", "requests/x"), ("policy", policy), ("x-runvoy-signature", GRANTS.sign_policy(policy))]
    try:
        upload = GRANTS.verify_post("inbox", [*fields, ("Content-Type", "t")], 10, AT)
    except RunvoyError as error:
        assert error.code in (ErrorCode.FORBIDDEN, ErrorCode.TOO_LARGE)
        raise
    assert upload.object_key == "requests/x"
    return "decoded"


def run_form(raw: bytes) -> str:
    """The fields beside a good policy."""
    tree = _tree(raw)
    fields = [(as_text(name), as_text(value)) for name, value in tree.items()]
    try:
        upload = GRANTS.verify_post("inbox", fields, 10, AT)
    except RunvoyError as error:
        assert error.code in (ErrorCode.FORBIDDEN, ErrorCode.TOO_LARGE)
        raise
    assert upload.object_key.startswith(f"requests/{KEY.key_id}/")
    assert upload.content_type == TYPE
    return "decoded"


def run_presigned(raw: bytes) -> str:
    query = raw.decode("latin-1")
    try:
        GRANTS.verify_get("outbox", object_keys.status(ID), query, AT)
    except RunvoyError as error:
        assert error.code is ErrorCode.FORBIDDEN
        raise
    return "decoded"


POLICY = {
    "expiration": "2026-02-03T05:05:06Z",
    "conditions": [
        {"bucket": "inbox"},
        ["starts-with", "$key", "requests/"],
        ["eq", "$Content-Type", "t"],
        ["content-length-range", 1, 1000],
    ],
}
FIELDS = {
    "key": object_keys.request(KEY.key_id, ID),
    "Content-Type": TYPE,
    **GRANTS.sign_post(
        "inbox", f"requests/{KEY.key_id}/", content_type=TYPE, max_bytes=1000, expires_at=AT + timedelta(hours=1)
    ).fields,
}


def _dumped(documents: list[dict[str, Any]]) -> tuple[bytes, ...]:
    return tuple(json.dumps(document).encode() for document in documents)


AGENT_TARGETS = [
    Target("control-api", JSON, _dumped(CALLS), run_control),
    Target("members-api", JSON, _dumped(MEMBER_CALLS), run_control),
    Target("delivery", MSGPACK, (codec.encode(MINIMAL), codec.encode(FULL)), run_delivery),
    Target("batch-delivery", MSGPACK, (gzip.decompress(BATCH),), run_batch_delivery),
    Target("gateway", JSON, _dumped(VISITS), run_gateway),
    Target("policy", JSON, _dumped([POLICY]), coded(run_policy)),
    Target("policy-form", JSON, _dumped([FIELDS]), coded(run_form)),
    Target("presigned-read", TEXT, (READ.partition("?")[2].encode(),), coded(run_presigned)),
]
