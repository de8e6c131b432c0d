"""Targets of the audit's proof: seals and evidence as a deployment hands them out, which may be anybody's by then."""

from __future__ import annotations

import hashlib

import msgspec
from tests.fuzz.mutators import JSON
from tests.fuzz.targets import KEY, Target
from tests.golden.audit_bodies import BODIES, SEAL
from tests.golden.generate import DEPLOYMENT, FULL, ID

from runvoy_cli.proofs import signed_request
from runvoy_protocol import requests, seals
from runvoy_protocol.audit import AuditEntry
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.evidence import Evidence
from runvoy_protocol.seals import KeptRecord, Seal

OBJECT = requests.seal_request(FULL, KEY)
DIGEST = hashlib.sha256(OBJECT).hexdigest()
ADMITTED = AuditEntry(
    event_id=ID,
    at=FULL.issued_at,
    actor="ada",
    action="admit",
    outcome="accepted",
    execution_id=ID,
    key_id=KEY.key_id,
    subject=f"sha256:{DIGEST}",
)
SIGNED = Evidence(
    execution_id=ID,
    deployment_id=DEPLOYMENT,
    object_key=f"requests/{KEY.key_id}/{ID}",
    object_bytes=len(OBJECT),
    offset=0,
    piece=OBJECT,
    object_sha256=DIGEST,
    key_id=KEY.key_id,
    public_key=KEY.public_key,
    key_user="ada",
    launched_request=requests.encode(FULL),
    owner="ada",
    command=FULL.command,
    image="registry.example.com/team/tools:1.2",
    image_name="tools",
    locks=FULL.locks,
    secrets=FULL.secrets,
    timeout_seconds=FULL.timeout_seconds,
    isolation=FULL.isolation,
    labels=FULL.labels,
    name=FULL.name,
    admissions=(KeptRecord(ID, msgspec.json.encode(ADMITTED)),),
)


def run_seal(raw: bytes) -> str:
    try:
        seal = msgspec.json.decode(raw, type=Seal)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "malformed"
    digest = seals.hash_of(seal)
    assert digest == "" or len(digest) == 64
    try:
        leaves = seals.unpack(seal)
    except RunvoyError:
        return "not these leaves"
    assert seals.pack(leaves) == seal.leaves
    return "decoded"


def run_evidence(raw: bytes) -> str:
    try:
        evidence = msgspec.json.decode(raw, type=Evidence)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "malformed"
    checks = list(signed_request._checks(evidence, evidence.piece, DEPLOYMENT))
    assert checks
    return "decoded" if all(check.holds for check in checks) else checks[-1].name


PROOF_TARGETS = [
    Target("seal", JSON, (msgspec.json.encode(SEAL),), run_seal),
    Target("evidence", JSON, (msgspec.json.encode(SIGNED), msgspec.json.encode(BODIES["evidence"])), run_evidence),
]
