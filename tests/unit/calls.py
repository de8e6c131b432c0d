"""Signed calls of the control API in a test's world, and what they left in the audit."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from runvoy_agent.core.model import AuditEvent, Key, User
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.routes import Request, Response
from runvoy_agent.ports import Page, Position, Put, Records, Versioned, Write
from runvoy_protocol import claims, control
from runvoy_protocol.control import ControlCall
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import KeyLimits, Role

if TYPE_CHECKING:
    from tests.unit.conftest import World

SOURCE = "192.0.2.7"


def signed(
    world: World,
    method: str,
    target: str,
    body: bytes = b"",
    signing_key: SigningKey | None = None,
    **fields: Any,
) -> Request:
    values: dict[str, Any] = {
        "version": 1,
        "deployment_id": "here",
        "method": method,
        "target": target,
        "body_sha256": control.body_digest(body),
        "issued_at": world.clock.now(),
        "nonce": world.clock.random(16),
    }
    header = control.authorization(ControlCall(**(values | fields)), signing_key or world.signing_key)
    parts = urlsplit(target)
    return Request(method, parts.path, target, dict(parse_qsl(parts.query)), {"authorization": header}, body, SOURCE)


def call(world: World, method: str, path: str, body: object = None, signing_key: SigningKey | None = None) -> Response:
    raw = b"" if body is None else json.dumps(body).encode()
    return world.call(signed(world, method, f"/api/v1{path}", raw, signing_key))


def ok(world: World, method: str, path: str, body: object = None, signing_key: SigningKey | None = None) -> Any:
    """A call that must succeed; its answer."""
    response = call(world, method, path, body, signing_key)
    assert response.status == 200, response
    return json.loads(response.body)


def code_of(response: Response) -> ErrorCode:
    error = control.parse_error(response.body)
    assert error is not None, response
    assert error.hint
    return error.code


# -- members


def new_key(world: World) -> SigningKey:
    return SigningKey(world.clock.random(32))


def claim_body(signing_key: SigningKey, secret: bytes = b"", deployment_id: str = "here") -> dict[str, str]:
    return {"claim": base64.b64encode(claims.seal(deployment_id, secret, signing_key)).decode()}


def claim(world: World, secret: bytes, signing_key: SigningKey) -> Response:
    return claim_raw(world, json.dumps(claim_body(signing_key, secret)).encode())


def claim_raw(world: World, body: bytes) -> Response:
    return world.call(Request("POST", "/api/v1/claim", "/api/v1/claim", {}, {}, body, SOURCE))


def secret_of(ticket: Any) -> bytes:
    return base64.b64decode(ticket["secret"])


def user_of(world: World, name: str) -> tuple[User, int]:
    found = store.load(world.records, store.user_key(name), User)
    assert found.document is not None
    return found.document, found.version


def set_user(world: World, name: str, **fields: Any) -> None:
    found = store.load(world.records, store.user_key(name), User)
    assert found.document is not None
    world.records.commit([store.put(found, msgspec.structs.replace(found.document, **fields))])


def add_key(
    world: World, user: str, limits: KeyLimits | None = None, expires_in: timedelta | None = None
) -> SigningKey:
    """A further key of a user, without a call."""
    made, now = new_key(world), world.clock.now()
    key = Key(
        key_id=made.key_id,
        public_key=made.public_key,
        user=user,
        created_at=now,
        life=user_of(world, user)[0].life,
        limits=limits,
        expires_at=None if expires_in is None else now + expires_in,
    )
    world.records.commit([store.put_new(store.key_key(made.key_id), key)])
    return made


def admins_with_a_lasting_key(world: World) -> set[str]:
    found = set()
    for user, _ in store.of_kind(world.records, store.KIND_USER, User):
        keys = [key for key, _ in store.of_kind(world.records, store.keys_partition(user.name), Key)]
        lasting = [key for key in keys if not key.revoked_at and not key.expires_at and not key.limits]
        if user.role is Role.ADMIN and user.revoked_at is None and any(key.life == user.life for key in lasting):
            found.add(user.name)
    return found


# -- the audit


def audit_of(world: World) -> list[AuditEvent]:
    """Every audit record, oldest first."""
    found = []
    for days in range((world.clock.now() - world.deployment.created_at).days + 2):
        of_day = store.day(world.deployment.created_at + timedelta(days=days))
        for shard in range(store.SHARDS):
            partition = store.shard_partition(of_day, shard)
            for record in store.partition_records(world.records, store.INDEX_AUDIT, partition):
                found.append(msgspec.json.decode(record.body, type=AuditEvent))
    return sorted(found, key=lambda event: event.event_id)


class WatchedRecords:
    """Records that tell of each operation before it is done (`on_call`, with its number) and of each commit that was
    made (`commits`, in order). Commits are made one at a time, so that the order is the true one."""

    def __init__(self, records: Records, lock: Any) -> None:
        self._records = records
        self._lock = lock
        self.commits: list[Sequence[Write]] = []
        self.calls: list[str] = []
        self.on_call: Callable[[int], None] = lambda _number: None

    @property
    def index_lag(self) -> timedelta:
        return self._records.index_lag

    def get(self, key: str) -> Versioned | None:
        self._note(f"get {key}")
        return self._records.get(key)

    def get_many(self, keys: Sequence[str]) -> Sequence[Versioned | None]:
        self._note(f"get_many {len(keys)}")
        return self._records.get_many(keys)

    def query(
        self, index: str, partition: str, *, after: Position | None = None, limit: int = 100, descending: bool = False
    ) -> Page:
        self._note(f"query {index} {partition}")
        return self._records.query(index, partition, after=after, limit=limit, descending=descending)

    def commit(self, writes: Sequence[Write]) -> None:
        self._note("commit")
        with self._lock:
            self._records.commit(writes)
            self.commits.append(tuple(writes))

    def _note(self, what: str) -> None:
        self.calls.append(what)
        self.on_call(len(self.calls))

    def puts(self, since: int = 0) -> list[Put]:
        return [write for writes in self.commits[since:] for write in writes if isinstance(write, Put)]


def watch(world: World, lock: Any = None) -> WatchedRecords:
    """Have every handler of the world use watched records from now on."""
    import threading

    watched = WatchedRecords(world.records, lock or threading.Lock())
    world.ports = world.ports._replace(records=watched)
    return watched
