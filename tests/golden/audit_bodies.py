"""Golden messages of the audit's proof, of its traces, and of the deployment's health."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import msgspec

from runvoy_protocol import audit, control, evidence, seals, trace

ID = "019ab1c2d3e47f0089abcdef01234567"
OTHER_ID = "019ab1c2d3e47f0089abcdef01234568"
RECORD = b'{"event_id":"019ab1c2d3e47f0089abcdef01234567"}'


def _at(second: int) -> datetime:
    return datetime(2026, 2, 3, 4, 5, second, tzinfo=UTC)


LEAVES = seals.pack([seals.leaf(ID, RECORD), seals.leaf(OTHER_ID, b"late")])
SEAL = seals.Seal(
    number=7,
    previous="ab" * 32,
    begins="2026-02-03T04:04:00.000",
    ends=f"2026-02-03T04:05:00.000~{ID}",
    made_at=_at(59),
    count=1,
    late=1,
    leaves_sha256=hashlib.sha256(LEAVES).hexdigest(),
    leaves=LEAVES,
)
HEAD = seals.SealHead(
    number=7, hash=seals.hash_of(SEAL), began="2026-02-02T00:00:00.000", sealed_until="2026-02-03T04:05:00.000"
)
ENTRY = audit.AuditEntry(event_id=ID, at=_at(6), actor="ada", action="admit", outcome="accepted", execution_id=ID)

BODIES: dict[str, msgspec.Struct] = {
    "audit-head": HEAD,
    "audit-seals": seals.SealsAnswer(seals=(SEAL, msgspec.structs.replace(SEAL, leaves=None)), first=7, head=HEAD),
    "audit-records": seals.KeptRecords(
        part=3, records=(seals.KeptRecord(ID, RECORD),), after=f"2026-02-03T04:05:00.000~audit#{ID}"
    ),
    "audit-records-request": seals.RecordsRequest(event_ids=(ID, OTHER_ID)),
    "audit-records-found": seals.FoundRecords(records=(seals.KeptRecord(ID, RECORD),)),
    "evidence": evidence.Evidence(
        execution_id=ID,
        deployment_id="dep-golden",
        object_key=f"requests/key/{OTHER_ID}.batch",
        object_bytes=5,
        offset=0,
        piece=b"whole",
        object_sha256=hashlib.sha256(b"whole").hexdigest(),
        batch_id=OTHER_ID,
        key_id="key",
        public_key=bytes(32),
        key_user="ada",
        launched_request=b"canonical",
        owner="ada",
        command=("make", "all"),
        image="registry.example.com/team/tools:1.2",
        image_name="tools",
        locks=("prod/db",),
        secrets=("db/password",),
        timeout_seconds=90,
        isolation="container",
        labels={"team": "core"},
        name="nightly",
        admissions=(seals.KeptRecord(ID, RECORD),),
    ),
    "trace-page": trace.TracePage(
        entries=(ENTRY,),
        steps=(trace.TraceStep(at=_at(7), who="deployment", what="locks-granted", about="prod/db with fence 7"),),
        after=f"2026-02-03T04:05:06.000~{ID}",
    ),
    "health-queues": control.QueuesAnswer(
        queues=(
            control.QueueHealth(name="inbox", visible=2, delayed=1, in_flight=1, dead=3, oldest_seconds=12.5),
            control.QueueHealth(name="ends", visible=0, delayed=0, in_flight=0, dead=0),
        ),
        reconciled_at=_at(0),
        audit_sealed_until=_at(0),
    ),
    "health-queues-disk": control.QueuesAnswer(
        queues=(),
        disk=control.DiskHealth(free_bytes=1_000_000, total_bytes=50_000_000, needed_bytes=2_500_000),
    ),
    "redrive-request": control.RedriveRequest(queue="inbox"),
    "redrive-answer": control.RedriveAnswer(queues=(control.Redriven(queue="inbox", redriven=3, left=0),)),
}
