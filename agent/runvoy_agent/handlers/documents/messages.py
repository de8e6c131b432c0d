"""The bodies of queue messages. JSON, so that a dead letter can be read."""

from __future__ import annotations

from typing import Literal

import msgspec

from runvoy_protocol.instants import Instant

EndEvent = Literal["started", "result", "stopped"]


class BatchRange(msgspec.Struct, frozen=True, kw_only=True):
    """Some requests of a batch: from `start` up to `stop`, which is not one of them. The object's digest says of which."""

    start: int
    stop: int
    object_sha256: str


class InboxDelivery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An object arrived: its key, the version that arrived, and the network address it came from, where that is known.

    With a `range` it is a part of a batch that arrived before."""

    object_key: str
    version: str | None = None
    source: str = ""
    range: BatchRange | None = None


class StartMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An execution may start. `tried_at`: when its launch had last been tried as this was sent, or else when it was
    admitted."""

    execution_id: str
    tried_at: Instant | None = None


class EndMessage(msgspec.Struct, frozen=True, kw_only=True):
    """Something of a run: its started.json or result.json is in the outbox, or the platform saw its task stop. All but the
    first two fields are the platform's word on a task that stopped."""

    execution_id: str
    event: EndEvent
    attempt: int | None = None  # whose task stopped; the two objects say themselves which attempt they are of
    exit_code: int | None = None  # the command's: for a run that left no result
    message: str = ""
    never_began: bool = False  # the command was not started
    pull_started_at: Instant | None = None  # with the next: the time that the platform charges for, if it told
    task_stopped_at: Instant | None = None
    no_room: bool = False  # nothing was started, for want of room


def encode(message: InboxDelivery | StartMessage | EndMessage) -> bytes:
    return msgspec.json.encode(message)
