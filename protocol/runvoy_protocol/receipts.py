"""Receipts: the answer to one object in the inbox. JSON, because people and browsers read the outbox."""

from __future__ import annotations

from typing import Literal

import msgspec

from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.instants import Instant


class Resolved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the deployment made of a request where the request left it open. `image_name` is what `image` is registered as."""

    owner: str
    isolation: str
    timeout_seconds: int
    image: str | None = None
    image_name: str | None = None
    cpu: int | None = None
    memory_mib: int | None = None
    platform: str | None = None
    task_role: str | None = None
    locks: tuple[str, ...] = ()


class Receipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Accepted, with what was resolved; or refused, with the error. `at` is when it was decided.

    `object_sha256` is the digest of the exact object that is answered.
    """

    outcome: Literal["accepted", "refused"]
    execution_id: str
    key_id: str
    object_sha256: str
    at: Instant
    version: int = 1
    resolved: Resolved | None = None
    code: ErrorCode | None = None
    message: str = ""
    hint: str = ""
    details: dict[str, str] = {}

    def error(self) -> RunvoyError | None:
        """The refusal as an error; None for an accepted request. To ask again never gets another answer, so it is not retryable,
        though another request may be accepted."""
        if self.outcome == "accepted":
            return None
        error = RunvoyError(self.code or ErrorCode.INTERNAL, self.message, self.hint, self.details)
        error.retryable = False
        return error


def encode(receipt: Receipt) -> bytes:
    return msgspec.json.encode(receipt)


def decode(raw: bytes) -> Receipt:
    """Raises msgspec.ValidationError or DecodeError: the outbox is written by the deployment alone."""
    return msgspec.json.decode(raw, type=Receipt)
