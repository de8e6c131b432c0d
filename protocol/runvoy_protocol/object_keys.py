"""Where things lie in the inbox, the outbox and staging. Every part derives an object key here and nowhere else."""

from __future__ import annotations

import re
from typing import NamedTuple

from runvoy_protocol import ids, keys

MAX_KEY_LENGTH = 512
SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}\Z")  # 200: a version's file name must fit in 255
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_CHUNK_DIGITS = 8
_BATCH_SUFFIX = ".batch"


def split(object_key: str) -> list[str]:
    """The segments of an object key; ValueError for what is none."""
    segments = object_key.split("/")
    if len(object_key) > MAX_KEY_LENGTH or not all(map(SEGMENT.match, segments)):
        raise ValueError(f"{object_key[:80]!r} is no object key")
    return segments


def check_prefix(prefix: str) -> None:
    """ValueError for what no object key begins with."""
    *folders, name = prefix.split("/")
    if len(prefix) > MAX_KEY_LENGTH or not all(map(SEGMENT.match, folders)) or (name and not SEGMENT.match(name)):
        raise ValueError(f"{prefix[:80]!r} is no prefix of an object key")


class RequestKey(NamedTuple):
    """What the object key of a request says; the signed request must say the same."""

    key_id: str
    request_id: str


class BatchKey(NamedTuple):
    """What the object key of a batch says; the signed batch must say the same."""

    key_id: str
    batch_id: str


def inbox_prefix(key_id: str) -> str:
    """All that a key may write to."""
    return f"requests/{key_id}/"


def request(key_id: str, request_id: str) -> str:
    return f"{inbox_prefix(key_id)}{request_id}"


def parse_request(object_key: str) -> RequestKey | None:
    """The parts of a request's object key; None if it is no such key."""
    match object_key.split("/"):
        case ["requests", key_id, request_id] if keys.is_key_id(key_id) and ids.is_execution_id(request_id):
            return RequestKey(key_id, request_id)
    return None


def batch(key_id: str, batch_id: str) -> str:
    return f"{inbox_prefix(key_id)}{batch_id}{_BATCH_SUFFIX}"


def parse_batch(object_key: str) -> BatchKey | None:
    """The parts of a batch's object key; None if it is no such key."""
    if not object_key.endswith(_BATCH_SUFFIX):
        return None
    place = parse_request(object_key.removesuffix(_BATCH_SUFFIX))
    return None if place is None else BatchKey(place.key_id, place.request_id)


def receipts_prefix(key_id: str, request_id: str) -> str:
    return f"receipts/{key_id}/{request_id}/"


def receipt(key_id: str, request_id: str, object_sha256: str) -> str:
    """A receipt's place: under the digest of the object it answers, so that nobody can squat another's id. That of a
    request in a batch lies under the digest of the batch's object; that of the batch as a whole under the batch's id."""
    if not _DIGEST.match(object_sha256):
        raise ValueError("a receipt lies under a SHA-256 in hex")
    return f"{receipts_prefix(key_id, request_id)}{object_sha256}.json"


def execution_prefix(execution_id: str) -> str:
    return f"executions/{execution_id}/"


def status(execution_id: str) -> str:
    return f"{execution_prefix(execution_id)}status.json"


def run_prefix(execution_id: str) -> str:
    """All that an execution's runner may write to."""
    return f"{execution_prefix(execution_id)}run/"


def log_prefix(execution_id: str) -> str:
    """What the keys of an execution's chunks begin with."""
    return f"{run_prefix(execution_id)}logs/"


def log_chunk(execution_id: str, number: int) -> str:
    """The chunk's place; chunks are numbered from 1."""
    return f"{log_prefix(execution_id)}{number:0{_CHUNK_DIGITS}d}"


def started(execution_id: str) -> str:
    return f"{run_prefix(execution_id)}started.json"


def result(execution_id: str) -> str:
    return f"{run_prefix(execution_id)}result.json"


def payload(execution_id: str) -> str:
    return f"payloads/{execution_id}"


def payload_of_launch(execution_id: str, launch: str) -> str:
    """Where one try to launch leaves the payload: each its own, so that whoever cleans up takes nobody else's."""
    return f"{payload(execution_id)}/{launch}"
