"""The first admin, asked for by whoever administers the platform (docs/aws-table.md): past the control API, and past keys."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from runvoy_agent.core import access
from runvoy_agent.core.model import Key, User
from runvoy_agent.handlers.deployment import Deployment
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.members import claims
from runvoy_agent.ports import Conflict, Ports, Write
from runvoy_protocol import control
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.members import Role, check_user_name

log = logging.getLogger("runvoy.seeding")

ACTOR = "aws"
ACTION = "seed-admin"


class Seed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked: that `user` be an admin who can act. `further_key` asks for a claim token even if they have a good key."""

    user: str
    further_key: bool = False


class Seeded(msgspec.Struct, frozen=True, kw_only=True):
    """`secret` is the claim token's 32 bytes (base64 in JSON); None where the user has a key and no further one was asked
    for."""

    user: str
    secret: bytes | None = None
    expires_at: datetime | None = None


def handle(ports: Ports, deployment: Deployment, asked: object) -> Mapping[str, Any]:
    """The answer as a JSON document: Seeded, or the error as the control API tells it. Safe to repeat."""
    try:
        return _document(msgspec.json.encode(_seed(ports, deployment, _read(asked))))
    except RunvoyError as error:
        return _document(control.error_body(error))


def _document(encoded: bytes) -> Mapping[str, Any]:
    return msgspec.json.decode(encoded, type=dict[str, Any])


def _read(asked: object) -> Seed:
    try:
        seed = msgspec.convert(asked, type=Seed)
    except msgspec.ValidationError as error:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"the seed is malformed: {error}") from error
    check_user_name(seed.user)
    return seed


def _seed(ports: Ports, deployment: Deployment, seed: Seed) -> Seeded:
    current = store.load(ports.records, store.user_key(seed.user), User)
    now = ports.clock.now()
    user = current.document
    if user is None:
        user = User(name=seed.user, role=Role.ADMIN, created_at=now, created_by=ACTOR)
        write: Write = store.put(current, user)
    elif user.revoked_at is not None or user.role is not Role.ADMIN:
        found = "was revoked" if user.revoked_at is not None else f"is a member with the role {user.role.value}"
        raise RunvoyError(
            ErrorCode.CONFLICT,
            f"the user {seed.user} {found}, and is not made an admin by this",
            "Seed another user, or have an admin change this one: `runvoy users create`, `runvoy users role`.",
        )
    elif not seed.further_key and _has_good_key(ports, user, now):
        return Seeded(user=user.name)
    else:
        write = current.check
    ticket, token = claims.issue_of_platform(ports, deployment, user, ACTOR)
    audit = store.audit(ports.clock, ACTOR, ACTION, "ok", subject=user.name)
    try:
        ports.records.commit([write, token, audit])
    except Conflict as error:
        raise RunvoyError(
            ErrorCode.CONFLICT, f"the user {seed.user} was changed at the same moment", "Do it again."
        ) from error
    log.info("seeded the admin %s", user.name)
    return Seeded(user=user.name, secret=ticket.secret, expires_at=ticket.expires_at)


def _has_good_key(ports: Ports, user: User, now: datetime) -> bool:
    for key, _ in store.of_kind(ports.records, store.keys_partition(user.name), Key):
        try:
            access.check_key(key, user, now)
        except RunvoyError:
            continue
        return True
    return False
