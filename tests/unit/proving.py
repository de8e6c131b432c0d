"""The command line's checks of the audit against a test's world: by real signed calls, without a socket."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast
from urllib.parse import urlencode

import msgspec
from tests.unit.calls import audit_of, call, signed

from runvoy_agent.core.model import AuditEvent, AuditHead
from runvoy_agent.handlers.documents import store
from runvoy_cli.deployment.client import Client
from runvoy_cli.proofs.audit import DayCheck, DayProof
from runvoy_cli.proofs.signed_request import RequestProof, check_request
from runvoy_protocol import control, seals
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.seals import Seal

if TYPE_CHECKING:
    from tests.unit.conftest import World

M = TypeVar("M", bound=msgspec.Struct)


class _Target(NamedTuple):
    deployment_id: str


class WorldClient:
    """What the checks ask of a client, answered by the world's control API."""

    def __init__(self, world: World, signing_key: SigningKey | None = None) -> None:
        self.target = _Target("here")
        self.world = world
        self._signing_key = signing_key

    def ask(
        self, kind: type[M], method: str, path: str, body: bytes = b"", query: Mapping[str, str] | None = None
    ) -> M:
        target = f"/api/v1{path}" + (f"?{urlencode(query)}" if query else "")
        response = self.world.call(signed(self.world, method, target, body, self._signing_key))
        if response.status != 200:
            error = control.parse_error(response.body)
            assert error is not None
            raise error
        return msgspec.json.decode(response.body, type=kind)


def client_of(world: World) -> Client:
    return cast(Client, cast(Any, WorldClient(world)))


def prove_day(world: World, day: datetime | None = None, kept_hash: str | None = None) -> DayProof:
    """The check of a day; the world's today, if none is given."""
    at = (day or world.clock.now()).replace(hour=0, minute=0, second=0, microsecond=0)
    return DayCheck(client_of(world), at, kept_hash).run()


def prove_request(world: World, execution_id: str) -> RequestProof:
    return check_request(client_of(world), execution_id)


def found(proof: DayProof) -> list[tuple[str, str]]:
    return sorted((one.problem, one.subject) for one in proof.findings)


def seal_all(world: World) -> str:
    """Let so much time pass that all is sealed, with rounds of the reconciler; the head's hash."""
    world.clock.move(minutes=12)
    for _ in range(5):
        world.reconcile()
    return head_of(world)


def head_of(world: World) -> str:
    answer = json.loads(call(world, "GET", "/audit/head").body)
    return str(answer["hash"])


def tamper(world: World, statement: str, *values: object) -> int:
    """Change the database behind everybody's back; how many rows."""
    with sqlite3.connect(world.folder / "state.db") as connection:
        return connection.execute(statement, values).rowcount


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


DAY = timedelta(days=1)


def busy(world: World, calls: int = 6, minutes: float = 0.5) -> list[AuditEvent]:
    """Calls over some minutes; the records they left."""
    for _ in range(calls):
        assert call(world, "GET", "/whoami").status == 200
        world.clock.move(minutes=minutes)
    return audit_of(world)


def head(world: World) -> AuditHead:
    document = store.load(world.records, store.AUDIT_HEAD_KEY, AuditHead).document
    assert document is not None
    return document


def chain(world: World) -> list[Seal]:
    found = [store.load(world.records, store.seal_key(n), Seal).document for n in range(1, head(world).number + 1)]
    return [one for one in found if one is not None]


def sealed_ids(world: World) -> list[str]:
    return [leaf.event_id for seal in chain(world) for leaf in seals.unpack(seal)]
