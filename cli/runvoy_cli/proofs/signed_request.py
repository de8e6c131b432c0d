"""Checking an execution's signed request again, on this machine: the object that the inbox keeps, its signature, the digest that
was recorded at admission, and whether what ran is what was signed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from runvoy_cli.deployment.client import Client
from runvoy_protocol import batches, envelope, keys, requests
from runvoy_protocol.audit import AuditEntry
from runvoy_protocol.envelope import PayloadType
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.evidence import Evidence
from runvoy_protocol.requests import RunRequest

_CUT = "…"


class Check(NamedTuple):
    """One thing that was looked at: whether it `holds`, and what was found."""

    name: str
    holds: bool
    message: str


class RequestProof(NamedTuple):
    execution_id: str
    key_id: str
    owner: str
    batch_id: str | None
    object_key: str
    object_sha256: str
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        return all(check.holds for check in self.checks)


def check_request(client: Client, execution_id: str) -> RequestProof:
    """Check one execution. NOT_FOUND if it has no record; whatever else is wrong is a check that does not hold."""
    evidence, kept = _fetch(client, execution_id)
    return RequestProof(
        execution_id=execution_id,
        key_id=evidence.key_id,
        owner=evidence.owner,
        batch_id=evidence.batch_id,
        object_key=evidence.object_key,
        object_sha256=evidence.object_sha256,
        checks=tuple(_checks(evidence, kept, client.target.deployment_id)),
    )


def _fetch(client: Client, execution_id: str) -> tuple[Evidence, bytes]:
    path = f"/audit/evidence/{execution_id}"
    evidence = client.ask(Evidence, "GET", path)
    kept = evidence.piece
    while len(kept) < evidence.object_bytes:
        more = client.ask(Evidence, "GET", path, query={"offset": str(len(kept))}).piece
        if not more:
            break
        kept += more
    return evidence, kept


def _checks(evidence: Evidence, kept: bytes, deployment_id: str) -> Iterator[Check]:
    if not kept:
        yield Check("kept", False, f"{evidence.object_key} is kept no more, so nothing can be checked")
        return
    digest = hashlib.sha256(kept).hexdigest()
    yield Check("kept", True, f"{evidence.object_key}, {len(kept):,} bytes")
    same = digest == evidence.object_sha256
    recorded = "as recorded at admission" if same else f"{digest}, and at admission it was {evidence.object_sha256}"
    yield Check("digest", same, f"sha256 {recorded}")
    yield _audited(evidence, digest)
    yield _key(evidence)
    try:
        payload = _verified(evidence, kept)
        request = requests.decode(payload)
    except RunvoyError as error:
        yield Check("signature", False, error.message)
        return
    yield Check("signature", True, f"by the key {evidence.key_id}" + (" over its batch" if evidence.batch_id else ""))
    yield _same("id", request.request_id, evidence.execution_id)
    yield _same("deployment", request.deployment_id, deployment_id)
    yield _launched(evidence, payload)
    yield from _recorded(evidence, request)


def _audited(evidence: Evidence, digest: str) -> Check:
    """The digest in the audit's own record, which is sealed: it cannot be changed as silently as an execution's record."""
    accepted = []
    for record in evidence.admissions:
        try:
            entry = msgspec.json.decode(record.body, type=AuditEntry)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if entry.outcome == "accepted" and entry.execution_id == evidence.execution_id:
            accepted.append(entry)
    if not accepted:
        return Check("audit", False, "the audit has no record of its admission")
    entry = accepted[0]
    if entry.subject != f"sha256:{digest}":
        return Check(
            "audit", False, f"the audit's record {entry.event_id} says {entry.subject or 'nothing'} of its object"
        )
    if (entry.actor, entry.key_id) != (evidence.owner, evidence.key_id):
        return Check(
            "audit", False, f"the audit's record {entry.event_id} names {entry.actor} and the key {entry.key_id}"
        )
    return Check("audit", True, f"the record {entry.event_id} names the same object, owner and key")


def _key(evidence: Evidence) -> Check:
    if not evidence.public_key:
        return Check("key", False, f"the key {evidence.key_id} has no record")
    if keys.key_id_of(evidence.public_key) != evidence.key_id:
        return Check("key", False, f"the public key on record is not that of {evidence.key_id}")
    if evidence.key_user != evidence.owner:
        return Check("key", False, f"the key is {evidence.key_user}'s, and the execution {evidence.owner}'s")
    return Check("key", True, f"{evidence.key_id} of {evidence.key_user}")


def _verified(evidence: Evidence, kept: bytes) -> bytes:
    """The canonical bytes of the request that the key signed, alone or in a batch."""
    if evidence.batch_id is None:
        sealed = envelope.parse(kept, PayloadType.RUN_REQUEST)
        return envelope.verified_payload(sealed, evidence.key_id, evidence.public_key)
    batch = batches.open_batch(kept, evidence.key_id, evidence.public_key)
    for one in batch.requests:
        if one.request_id == evidence.execution_id:
            return one.payload
    return b""


def _launched(evidence: Evidence, payload: bytes) -> Check:
    if not evidence.launched_request:
        return Check("launched", False, "the request that it was launched from has no record")
    same = evidence.launched_request == payload
    return Check(
        "launched", same, "from the very bytes that were signed" if same else "from other bytes than were signed"
    )


def _recorded(evidence: Evidence, request: RunRequest) -> Iterator[Check]:
    """What its record says of what ran, against what was signed."""
    same = _is_shown(evidence.command, request.command)
    yield Check("command", same, "as signed" if same else f"recorded as {_short(evidence.command)}")
    yield _image(evidence, request)
    yield _same("locks", evidence.locks, request.locks)
    yield _same("secrets", evidence.secrets, request.secrets)
    yield _same("timeout", evidence.timeout_seconds, request.timeout_seconds)
    yield _same("labels", evidence.labels, request.labels)
    yield _same("name", evidence.name, request.name)
    if request.isolation:
        yield _same("isolation", evidence.isolation, request.isolation)


def _is_shown(shown: tuple[str, ...] | str, signed: tuple[str, ...] | str) -> bool:
    """Whether a command is recorded as it was signed: whole, or cut where it is long."""
    if isinstance(shown, str) or isinstance(signed, str):
        is_cut = isinstance(shown, str) and shown.endswith(_CUT) and isinstance(signed, str)
        return shown == signed or (is_cut and str(signed).startswith(str(shown)[: -len(_CUT)]))
    if shown == signed:
        return True
    *whole, last = shown or ("",)
    place = len(whole)
    is_cut = last.endswith(_CUT) and len(signed) > place
    return is_cut and tuple(whole) == signed[:place] and signed[place].startswith(last[: -len(_CUT)])


def _image(evidence: Evidence, request: RunRequest) -> Check:
    if request.image is None:
        what = "the default" if evidence.image_name else "none"
        return Check("image", evidence.image is None or evidence.image_name is not None, f"{what}: none was signed")
    if evidence.image is None:
        return Check("image", False, f"{request.image} was signed, and it ran in none")
    named = {evidence.image, evidence.image_name}
    # A short name is the end of a reference, with or without its tag or digest.
    is_short = evidence.image_name is not None and request.image in evidence.image
    is_meant = request.image in named or is_short
    registered = f", registered as {evidence.image_name}" if evidence.image_name else ""
    return Check("image", is_meant, f"{request.image} was signed; it ran in {evidence.image}{registered}")


def _same(name: str, recorded: object, signed: object) -> Check:
    same = recorded == signed
    return Check(
        name, same, "as signed" if same else f"{_short(signed)} was signed, and {_short(recorded)} is recorded"
    )


def _short(value: object) -> str:
    text = " ".join(value) if isinstance(value, tuple) else str(value)
    return repr(text if len(text) <= 120 else text[:120] + _CUT)
