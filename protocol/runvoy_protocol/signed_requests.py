"""GET executions/{id}/request: what was signed, as JSON, and what it was answered."""

from __future__ import annotations

from typing import Literal

import msgspec

from runvoy_protocol.instants import Instant
from runvoy_protocol.receipts import Receipt
from runvoy_protocol.requests import RunRequest


class AskedRepository(msgspec.Struct, frozen=True, kw_only=True):
    """A GitSource by the names of its fields."""

    repo: str
    ref: str
    path: str


class SignedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A run request by the names of its fields: every one of them, those at their default too. Secrets are names."""

    version: int
    deployment_id: str
    request_id: str
    issued_at: Instant
    expires_at: Instant
    command: tuple[str, ...] | str
    image: str | None
    env: dict[str, str]
    secrets: tuple[str, ...]
    locks: tuple[str, ...]
    if_locked: Literal["wait", "fail"]
    timeout_seconds: int
    queue_timeout_seconds: int | None
    cpu: int | None
    memory_mib: int | None
    git: AskedRepository | None
    playbook: str | None
    labels: dict[str, str]
    name: str | None
    isolation: Literal["", "process", "container"]


class SignedRequestAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """GET executions/{id}/request: `request` as `key_id` signed it, or in words why there is none to be had (`missing`), and the
    `receipt`, once it is decided. `object_sha256` is the digest of the object in the inbox that it came in, a batch's if it has a
    `batch_id`; `content_digest` that of the request itself, by which a repeated one is known."""

    execution_id: str
    state: Literal["admitted", "pending", "refused"]
    key_id: str
    object_sha256: str = ""
    batch_id: str | None = None
    request: SignedRequest | None = None
    content_digest: str = ""
    missing: str = ""
    receipt: Receipt | None = None


def to_signed_request(request: RunRequest) -> SignedRequest:
    """The request, whose own encoding is a row of values, by the names of its fields."""
    fields = {name: getattr(request, name) for name in request.__struct_fields__ if name != "git"}
    git = request.git
    asked = None if git is None else AskedRepository(repo=git.repo, ref=git.ref, path=git.path)
    return SignedRequest(**fields, git=asked)
