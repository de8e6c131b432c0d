"""What is stored is read again by later versions: a field that is left out means what it always meant."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import get_args

import msgspec
import pytest

from runvoy_agent.core.model import (
    AuditEvent,
    Execution,
    ExecutionLock,
    InboxGrantee,
    Isolation,
    Key,
    LockRecord,
    Nonce,
    Refusal,
    StoredRequest,
    User,
)
from runvoy_agent.core.progress import Reconciled
from runvoy_protocol.states import TERMINAL, State

AT = "2026-05-04T12:00:00Z"
NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
EXECUTION = {
    "execution_id": "e",
    "state": "QUEUED",
    "owner": "ada",
    "key_id": "k",
    "content_digest": "d",
    "object_sha256": "s",
    "command": ["true"],
    "isolation": "process",
    "timeout_seconds": 60,
    "issued_at": AT,
    "admitted_at": AT,
    "updated_at": AT,
    "granted": False,
}
SMALLEST: list[tuple[type[msgspec.Struct], object]] = [
    (User, {"name": "ada", "role": "admin", "created_at": AT}),
    (Key, {"key_id": "k", "public_key": "AAAA", "user": "ada", "created_at": AT}),
    (InboxGrantee, {"key_id": "k", "granted_at": AT}),
    (Reconciled, {"at": AT}),
    (ExecutionLock, {"name": "db"}),
    (LockRecord, {"name": "db"}),
    (Execution, EXECUTION),
    (StoredRequest, {"execution_id": "e", "payload": "AAAA"}),
    (
        Refusal,
        {"key_id": "k", "request_id": "e", "object_sha256": "s", "at": AT, "code": "FORBIDDEN", "message": "no"},
    ),
    (Nonce, {"key_id": "k", "used_at": AT}),
    (AuditEvent, {"event_id": "a", "at": AT, "actor": "ada", "action": "start", "outcome": "starting"}),
]


@pytest.mark.parametrize(("schema", "fields"), SMALLEST, ids=lambda value: getattr(value, "__name__", ""))
def test_the_smallest_record_is_read_and_written_again(schema: type[msgspec.Struct], fields: object) -> None:
    document = msgspec.json.decode(json.dumps(fields), type=schema)
    assert json.loads(msgspec.json.encode(document)) == fields
    for field in msgspec.structs.fields(schema):
        if field.default is not msgspec.NODEFAULT:
            assert field.default in (None, "", 0, (), {}), f"{field.name}: what is left out must mean nothing"


def test_a_stored_isolation_is_one_of_two() -> None:
    assert get_args(Isolation) == ("process", "container")
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps(EXECUTION | {"isolation": "vm"}), type=Execution)


@pytest.mark.parametrize("state", State)
def test_terminal_is_a_matter_of_the_state_and_active_of_the_task(state: State) -> None:
    execution = msgspec.json.decode(json.dumps(EXECUTION | {"state": state.value}), type=Execution)
    assert execution.is_terminal is (state in TERMINAL)
    assert execution.is_active is True
    assert msgspec.structs.replace(execution, stopped_at=NOW).is_active is False
