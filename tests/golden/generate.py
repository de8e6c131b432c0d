"""Golden messages: one fixed example of everything that travels, and the bytes it has in schema version 1.

tests/unit/test_protocol_golden.py holds the code to the files beside this one. Run this (`just golden`) only on purpose:
where the bytes of a *signed* message change, every client in use breaks, so that is a new schema version and a new
folder; the old folder stays, and stays readable.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from tests.golden import audit_bodies

from runvoy_protocol import (
    audit,
    batches,
    claims,
    codec,
    control,
    costs,
    dry_runs,
    envelope,
    images,
    logs,
    members,
    playbooks,
    receipts,
    requests,
    run_objects,
    secret_messages,
    signed_requests,
    status,
)
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.states import Reason, State

HERE = Path(__file__).parent
VERSION = "v1"

KEY = SigningKey(bytes(range(32)))
ID = "019ab1c2d3e47f0089abcdef01234567"
DEPLOYMENT = "dep-golden"
OBJECT_SHA256 = hashlib.sha256(b"golden").hexdigest()
EXECUTION_KEY = run_objects.execution_key(b"\x07" * 32, ID, 1)


def at(second: int, microsecond: int = 0) -> datetime:
    return datetime(2026, 2, 3, 4, 5, second, microsecond, tzinfo=UTC)


class Golden(NamedTuple):
    """One message: its file, its bytes as made today, how it is read, and what reading must give."""

    file: str
    made: bytes
    read: Callable[[bytes], Any]
    value: Any
    what: str


FULL = requests.RunRequest(
    version=1,
    deployment_id=DEPLOYMENT,
    request_id=ID,
    issued_at=at(6, 789000),
    expires_at=datetime(2026, 2, 3, 5, 5, 6, 789000, tzinfo=UTC),
    command=("sh", "-c", 'printf "%s\\n" "$1" ümläut', "", "--help", "two\nlines", "\\"),
    image="tools:1.2",
    env={"B": "2", "A": "ä", "_C9": ""},
    secrets=("db/password",),
    locks=("prod/db", "prod/dns"),
    if_locked="fail",
    timeout_seconds=90,
    queue_timeout_seconds=3600,
    cpu=1024,
    memory_mib=2048,
    git=requests.GitSource("https://example.com/infra.git", "main", "envs/prod"),
    playbook="deploy",
    labels={"team": "core", "env": "prod"},
    name="nightly",
    isolation="container",
)
MINIMAL = requests.RunRequest(1, DEPLOYMENT, ID, at(6), at(7), "echo hello")
OTHER_ID = "019ab1c2d3e47f0089abcdef01234568"
BATCH = batches.Batch(
    1,
    "019ab1c2d3e47f0089abcdef01234569",
    (
        batches.BatchedRequest(ID, requests.encode(FULL)),
        batches.BatchedRequest(OTHER_ID, requests.encode(msgspec.structs.replace(MINIMAL, request_id=OTHER_ID))),
    ),
)
CALL = control.ControlCall(
    version=1,
    deployment_id=DEPLOYMENT,
    method="GET",
    target="/api/v1/executions?limit=20&owner=ada%40example.com",
    body_sha256=control.body_digest(b""),
    issued_at=at(6),
    nonce=bytes(range(16)),
)
ACCEPTED = receipts.Receipt(
    outcome="accepted",
    execution_id=ID,
    key_id=KEY.key_id,
    object_sha256=OBJECT_SHA256,
    at=at(8),
    resolved=receipts.Resolved(
        owner="ada@example.com",
        isolation="container",
        timeout_seconds=90,
        image="registry.example.com/team/tools:1.2",
        image_name="tools",
        cpu=1024,
        memory_mib=2048,
        platform="linux/arm64",
        task_role="deploy",
        locks=("prod/db",),
    ),
)
REFUSED = receipts.Receipt(
    outcome="refused",
    execution_id=ID,
    key_id=KEY.key_id,
    object_sha256=OBJECT_SHA256,
    at=at(8),
    code=ErrorCode.CLOCK_SKEW,
    message="the request was issued 10 minutes from now",
    hint="Set this machine's clock.",
    details={"server_time": "2026-02-03T04:05:08Z"},
)
RATE = costs.Rate(
    nanodollars_per_hour=39_500_000,
    basis="billed",
    region="us-east-1",
    architecture="ARM64",
    cpu=1024,
    memory_mib=2048,
    prices_of="2026-02-01",
)
COST = costs.Cost(
    rate=RATE, billed_from=at(9), billed_until=at(12), billed_seconds=60, nanodollars=658_333, is_final=True
)
WAITING = status.ExecutionStatus(
    execution_id=ID,
    record_version=1,
    state=State.QUEUED,
    reason=Reason.LOCK,
    owner="ada@example.com",
    key_id=KEY.key_id,
    command="echo hello",
    isolation="process",
    timeout_seconds=600,
    issued_at=at(6),
    admitted_at=at(8),
    locks=(status.LockStatus(name="prod/db"),),
    cost=costs.Cost(rate=RATE),
    explanation=status.Explanation(
        reason="lock", words="it waits for the lock prod/db", hint="`runvoy locks show NAME` shows the queue."
    ),
)
ENDED = status.ExecutionStatus(
    execution_id=ID,
    record_version=5,
    state=State.FAILED,
    reason=Reason.SIGNAL,
    message="killed by SIGKILL",
    owner="ada@example.com",
    key_id=KEY.key_id,
    command=("make", "all"),
    isolation="container",
    timeout_seconds=90,
    issued_at=at(6),
    admitted_at=at(8),
    name="nightly",
    image="registry.example.com/team/tools:1.2",
    image_name="tools",
    cpu=1024,
    memory_mib=2048,
    platform="linux/arm64",
    task_role="deploy",
    labels={"team": "core"},
    locks=(status.LockStatus(name="prod/db", fence=7),),
    starting_at=at(9),
    started_at=at(10, 250000),
    ended_at=at(11),
    exit_code=137,
    signal=9,
    attempt=1,
    lines=3,
    chunks=1,
    lost_bytes=12,
    playbook="deploy",
    cost=COST,
    explanation=status.Explanation(
        reason="signal", words="the command exited with code 137 (killed by SIGKILL)", hint="Ask for more memory."
    ),
)
GIT_COMMIT = "5d1f0c3b9e8a7f6d5c4b3a29181706f5e4d3c2b1"
CHECKED_OUT = msgspec.structs.replace(
    ENDED,
    git=status.GitStatus(repo="https://example.com/infra.git", ref="main", path="envs/prod", commit=GIT_COMMIT),
)
RECORDS = [
    logs.LogRecord(1, 1770091510250, "out", "one\ntwo\n"),
    logs.LogRecord(3, 1770091510251, "err", "half a l", p=True),
    logs.LogRecord(3, 1770091510400, "err", "ine\n"),
    logs.LogRecord(4, 1770091510401, "out", b="//4K"),
    logs.LogRecord(5, 1770091510402, "sys", "12 bytes of output were lost\n"),
    logs.LogRecord(6, 1770091511000, "sys", end=True),
]
PAYLOAD = run_objects.RunnerPayload(
    execution_id=ID,
    attempt=1,
    execution_key=EXECUTION_KEY.hex(),
    command=("sh", "-c", "exit 7"),
    timeout_seconds=90,
    env={"A": "1"},
    secrets={"DB_PASSWORD": b"hunter22"},
)
RUN_GRANT = run_objects.RunGrant(
    key_prefix=f"executions/{ID}/run/",
    logs=run_objects.UploadPolicy(
        url="https://outbox.example.com/",
        fields={"policy": "e30=", "x-amz-signature": "00"},
        content_type=run_objects.CHUNK_CONTENT_TYPE,
        max_bytes=run_objects.MAX_CHUNK_OBJECT_BYTES,
    ),
    reports=run_objects.UploadPolicy(
        url="https://outbox.example.com/",
        fields={"policy": "e30=", "x-amz-signature": "01"},
        content_type=run_objects.REPORT_CONTENT_TYPE,
        max_bytes=run_objects.MAX_RUN_OBJECT_BYTES,
    ),
    expires_at=at(59),
    renew_url=f"https://runvoy.example.com/api/v1/runs/{ID}/grant",
)
TASK_PAYLOAD = msgspec.structs.replace(PAYLOAD, start_seconds=300, ship_seconds=120, grant=RUN_GRANT)
GIT_PAYLOAD = msgspec.structs.replace(
    PAYLOAD,
    git=run_objects.GitCheckout(
        repo="https://example.com/infra.git", ref="main", path="envs/prod", depth=50, timeout_seconds=300
    ),
    git_credentials={"RUNVOY_GIT_TOKEN": b"hunter33"},
)
RUNNER_CALL_TARGET = f"/api/v1/runs/{ID}/grant"
STARTED = run_objects.RunStarted(execution_id=ID, attempt=1, started_at_ms=1770091510250, pid=4242)
RESULT = run_objects.RunResult(
    execution_id=ID,
    attempt=1,
    outcome="exited",
    exit_code=7,
    signal=None,
    message="",
    started_at_ms=1770091510250,
    ended_at_ms=1770091511000,
    lines=5,
    chunks=1,
    lost_bytes=0,
)
GIT_STARTED = msgspec.structs.replace(STARTED, git_commit=GIT_COMMIT)
GIT_RESULT = msgspec.structs.replace(RESULT, git_commit=GIT_COMMIT)
ERROR = RunvoyError(ErrorCode.CLOCK_SKEW, "the clock is off", "Set it.", {"server_time": "2026-02-03T04:05:08Z"})
LIMITS = members.KeyLimits(
    images=("tools:1.2",),
    locks=("prod/db",),
    playbooks=(members.PlaybookPin(name="deploy", digest=OBJECT_SHA256, parameters=("VERSION",)),),
    labels={"env": "prod"},
)
USER = members.UserAnswer(
    name="ada@example.com",
    role=members.Role.DEVELOPER,
    created_at=at(6),
    version=2,
    created_by="root",
    revoked_at=at(58),
)
MEMBER_KEY = members.KeyAnswer(
    key_id=KEY.key_id,
    user="ada@example.com",
    created_at=at(6),
    name="ci",
    limits=LIMITS,
    expires_at=at(59),
    revoked_at=at(58),
    last_used_at=at(7),
    made_by=KEY.key_id,
)
SECRET = secret_messages.SecretAnswer(
    name="prod/db",
    env_name="DB_PASSWORD",
    owner="ada@example.com",
    created_at=at(6),
    updated_at=at(7),
    updated_by="root",
    version=2,
    description="of the database",
    shared_with=("bob@example.com", "*"),
)
SECRET_BYTES = b"quotes \"'\n\xff"
CLAIM = claims.seal(DEPLOYMENT, bytes(range(32)), KEY)
TOKEN = claims.Token(bytes(range(32)), "https://runvoy.example.com", DEPLOYMENT)
IMAGE = images.ImageAnswer(
    name="tools",
    reference="registry.example.com/team/tools:1.2",
    registered_by="ada@example.com",
    registered_at=at(6),
    updated_by="bob@example.com",
    updated_at=at(7),
    version=2,
    is_default=True,
    cpu=1024,
    memory_mib=2048,
    platform="linux/arm64",
    task_role="deploy",
    description="what deploys run in",
)
COMPILED = playbooks.CompiledPlaybook(
    name="deploy",
    command="# playbook deploy\nmake deploy",
    source="laptop:~/shop",
    description="Deploy the shop",
    parameters=(
        playbooks.Parameter(name="stage", description="Where", enum=("test", "prod"), required=True),
        playbooks.Parameter(name="copies", type="int", default="2"),
        playbooks.Parameter(name="tag", pattern="[a-z0-9.]+", required=True),
        playbooks.Parameter(name="dry", type="bool"),
        playbooks.Parameter(name="token", secret=True),
    ),
    image="tools:1.2",
    env={"TOOL": "make"},
    secrets=("prod/db",),
    locks=("prod/db",),
    timeout_seconds=90,
    cpu=1024,
    memory_mib=2048,
    git=FULL.git,
    labels={"stage": ("on ", playbooks.ParameterValue(parameter="stage"))},
)
LOCK = control.LockAnswer(
    name="prod/db",
    fence=7,
    length=3,
    queue=(
        control.LockEntry(
            execution_id=ID, position=0, owner="ann", state=State.RUNNING, admitted_at=at(6), granted_at=at(7, 250000)
        ),
        control.LockEntry(
            execution_id=f"{ID[:-1]}8", position=1, owner="bob", state=State.QUEUED, admitted_at=at(6, 500000)
        ),
    ),
)

BODIES: dict[str, msgspec.Struct] = {
    "publish-playbooks": playbooks.PublishPlaybooks(
        playbooks=(COMPILED, playbooks.CompiledPlaybook(name="least", command="true")), version=3
    ),
    "playbooks": playbooks.PlaybooksAnswer(
        playbooks=(
            playbooks.PublishedPlaybook(
                playbook=COMPILED, digest=playbooks.pin(COMPILED).digest, key_id=KEY.key_id, published_at=at(8)
            ),
        ),
        version=4,
    ),
    "health": control.Health(
        status="ok", version="0.1.0", deployment_id=DEPLOYMENT, time=at(8), instance="019ab1c2d3e47f0089abcdef00000001"
    ),
    "whoami": control.Whoami(
        user="ada@example.com",
        role="developer",
        key_id=KEY.key_id,
        deployment_id=DEPLOYMENT,
        version="0.1.0",
        key_expires_at=at(59),
    ),
    "inbox-grant": control.InboxGrant(
        url="https://inbox.example.com/",
        fields={"policy": "e30=", "x-amz-signature": "00"},
        key_prefix=f"requests/{KEY.key_id}/",
        content_type="application/vnd.runvoy",
        max_bytes=codec.MAX_BATCH_BYTES,
        expires_at=at(59),
    ),
    "outbox-grant-request": control.OutboxGrantRequest(execution_id=ID, from_chunk=65, object_sha256=OBJECT_SHA256),
    "outbox-grant": control.OutboxGrant(
        state="admitted",
        expires_at=at(59),
        receipt_url="https://outbox.example.com/receipt",
        status_url="https://outbox.example.com/status",
        from_chunk=65,
        chunk_urls=("https://outbox.example.com/65", "https://outbox.example.com/66"),
    ),
    "run-grant": RUN_GRANT,
    "outbox-grant-refused": control.OutboxGrant(state="refused", expires_at=at(59), receipt=REFUSED),
    "ticket": members.ClaimTicket(
        user="ada@example.com", role=members.Role.DEVELOPER, secret=bytes(range(32)), expires_at=at(59)
    ),
    "create-user": members.CreateUser(name="ada@example.com", role=members.Role.DEVELOPER),
    "users": members.UsersAnswer(users=(USER,)),
    "quotas": members.QuotasAnswer(
        default=members.Quotas(max_running=8),
        max_unfinished=100_000,
        version=1,
        users=(
            members.QuotaUse(
                user="ada@example.com",
                unfinished=12,
                running=2,
                max_unfinished=50,
                max_running=8,
                own=members.Quotas(max_unfinished=50),
            ),
        ),
    ),
    "set-quotas": members.SetQuotas(version=1, quotas=members.Quotas(max_unfinished=50)),
    "set-log-quota": members.SetQuotas(version=2, quotas=members.Quotas(max_log_mib=100)),
    "recount-quotas": members.RecountQuotas(user="ada@example.com"),
    "recounted": members.RecountAnswer(
        users=(
            members.RecountedUser(
                user="ada@example.com", unfinished=12, running=2, unfinished_added=-3, running_suspected=1
            ),
        )
    ),
    "change-role": members.ChangeRole(role=members.Role.OPERATOR, version=2),
    "revoke-user": members.RevokeUser(version=2, stop_all=True),
    "revoked": members.RevokedAnswer(user=USER, killed=(ID,)),
    "create-key": members.CreateKey(
        claim=CLAIM, terms=members.KeyTerms(name="ci", lifetime_seconds=3600, limits=LIMITS)
    ),
    "create-claim": members.CreateClaim(terms=members.KeyTerms(name="laptop")),
    "rotate-key": members.RotateKey(claim=CLAIM),
    "claim-request": members.ClaimRequest(claim=CLAIM),
    "claim-answer": members.ClaimAnswer(key=MEMBER_KEY, role=members.Role.DEVELOPER, deployment_id=DEPLOYMENT),
    "create-secret": secret_messages.CreateSecret(
        name="prod/db", env_name="DB_PASSWORD", value=SECRET_BYTES, description="of the database", shared_with=("*",)
    ),
    "update-secret": secret_messages.UpdateSecret(
        version=2, env_name="PGPASSWORD", description="", shared_with=(), value=SECRET_BYTES
    ),
    "secret": SECRET,
    "secrets": secret_messages.SecretsAnswer(secrets=(SECRET,)),
    "secret-value": secret_messages.SecretValue(name="prod/db", env_name="DB_PASSWORD", version=2, value=SECRET_BYTES),
    "keys": members.KeysAnswer(keys=(MEMBER_KEY,)),
    "signed-request-answer": signed_requests.SignedRequestAnswer(
        execution_id=ID,
        state="admitted",
        key_id=KEY.key_id,
        object_sha256=OBJECT_SHA256,
        batch_id=OTHER_ID,
        request=signed_requests.to_signed_request(FULL),
        content_digest=requests.content_digest(FULL).hex(),
        receipt=ACCEPTED,
    ),
    "signed-request-answer-missing": signed_requests.SignedRequestAnswer(
        execution_id=ID, state="refused", key_id=KEY.key_id, missing="it is not kept any more", receipt=REFUSED
    ),
    "execution-answer": control.ExecutionAnswer(state="admitted", status=ENDED),
    "lock": LOCK,
    "locks": control.LocksAnswer(locks=(control.LockAnswer(name="prod/dns", fence=1, length=2, queue=LOCK.queue[1:]),)),
    "release-lock": control.ReleaseRequest(execution_id=ID),
    "reconcile": control.ReconcileAnswer(
        repairs=(control.RepairAnswer(subject=ID, problem="its push was lost", action="pushed it again"),), left=2
    ),
    "register-image": images.RegisterImage(
        reference=IMAGE.reference,
        name="tools",
        cpu=1024,
        memory_mib=2048,
        platform="linux/arm64",
        task_role="deploy",
        is_default=True,
        description="what deploys run in",
        version=1,
    ),
    "image": IMAGE,
    "images": images.ImagesAnswer(images=(IMAGE,)),
    "audit-page": audit.AuditPage(
        entries=(
            audit.AuditEntry(
                event_id=ID,
                at=at(8),
                actor="ada@example.com",
                action="admit",
                outcome="accepted",
                execution_id=ID,
                key_id=KEY.key_id,
                subject="prod/db",
                source="192.0.2.7",
                message="as it was asked",
            ),
            audit.AuditEntry(event_id=ID, at=at(7), actor="", action="GET /api/v1/x", outcome="KEY_UNKNOWN"),
        ),
        after=f"2026-02-03T04:05:07.000~{ID}",
    ),
    "cost-page": costs.CostPage(
        by="playbook",
        groups=(
            costs.CostGroup(
                key="deploy", executions=3, billed_seconds=400, nanodollars=4_388_888, unpriced=1, running=1
            ),
            costs.CostGroup(key=""),
        ),
        total=costs.CostGroup(key="", executions=3, billed_seconds=400, nanodollars=4_388_888, unpriced=1, running=1),
        bases=("billed",),
        prices_of=("2026-02-01",),
        after=f"2026-02-03T04:05:07.000~{ID}",
    ),
    "dry-run-request": dry_runs.DryRunRequest(request=requests.encode(MINIMAL)),
    "dry-run-allowed": dry_runs.DryRunAnswer(
        allowed=True,
        resolved=ACCEPTED.resolved,
        secrets=(dry_runs.SecretUse(name="prod/db", env_name="DB_PASSWORD"),),
        locks=(
            status.LockStatus(
                name="prod/db", position=1, holder=OTHER_ID, holder_owner="bob@example.com", held_since=at(5)
            ),
        ),
        waits=True,
        rate=RATE,
        most_nanodollars=987_500,
        is_known=True,
    ),
    "dry-run-refused": dry_runs.DryRunAnswer(
        allowed=False,
        refused=dry_runs.Refused(
            code=ErrorCode.LOCK_HELD,
            rule="A lock is held by another execution and the request asked not to wait.",
            message=f"the lock 'prod/db' is held by execution {OTHER_ID}",
            hint="Submit it without `if_locked: fail` to wait for it.",
        ),
    ),
    "log-grants-request": control.LogGrantsRequest(execution_ids=(ID, OTHER_ID)),
    "log-grants-answer": control.LogGrantsAnswer(
        expires_at=at(59),
        executions=(
            control.LogGrant(
                execution_id=ID,
                chunk_urls=(f"https://outbox.example/executions/{ID}/run/logs/00000001?signature=x",),
            ),
            control.LogGrant(execution_id=OTHER_ID, chunks=(b"\x1f\x8b", b"\x00")),
            control.LogGrant(execution_id=OTHER_ID[::-1]),
        ),
    ),
    "statuses-request": control.StatusesRequest(execution_ids=(ID, OTHER_ID)),
    "statuses-answer": control.StatusesAnswer(
        executions=(
            control.KnownExecution(execution_id=ID, state="admitted", status=ENDED),
            control.KnownExecution(execution_id=OTHER_ID, state="unknown"),
        )
    ),
    "executions-page": control.ExecutionsPage(executions=(ENDED, WAITING), after=ID),
}


def signed_by_runner(kind: bytes, message: msgspec.Struct) -> bytes:
    """What the runner writes: a JSON text, and its MAC under the execution key."""
    body = json.dumps(msgspec.to_builtins(message))
    return json.dumps({"body": body, "mac": run_objects.mac_of(EXECUTION_KEY, kind, body)}).encode()


def read_request_envelope(raw: bytes) -> requests.RunRequest:
    parsed = envelope.parse(raw, envelope.PayloadType.RUN_REQUEST)
    return requests.decode(envelope.verified_payload(parsed, KEY.key_id, KEY.public_key))


def read_authorization(raw: bytes) -> control.ControlCall:
    parsed = control.parse_authorization(raw.decode())
    return control.decode_call(envelope.verified_payload(parsed, KEY.key_id, KEY.public_key))


def read_token(raw: bytes) -> claims.Token:
    return claims.parse_token(raw.decode())


def read_started(raw: bytes) -> run_objects.RunStarted:
    return run_objects.open_signed(raw, run_objects.RunStarted, EXECUTION_KEY, ID, 1)


def read_result(raw: bytes) -> run_objects.RunResult:
    return run_objects.open_signed(raw, run_objects.RunResult, EXECUTION_KEY, ID, 1)


def read_runner_call(raw: bytes) -> run_objects.RunnerCall:
    call = run_objects.parse_runner_authorization(raw.decode())
    assert call.is_signed(EXECUTION_KEY, "POST", RUNNER_CALL_TARGET, b"")
    return call


def read_error(raw: bytes) -> tuple[object, ...]:
    error = control.parse_error(raw)
    assert error is not None
    return (error.code, error.message, error.hint, error.details)


def derived() -> dict[str, str]:
    """What both ends compute from the same input and must agree on."""
    return {
        "api_key": KEY.to_api_key(),
        "key_id": KEY.key_id,
        "public_key": KEY.public_key.hex(),
        "playbook_digest": requests.playbook_digest(FULL, ("A",)),
        "request_content_digest": requests.content_digest(FULL).hex(),
        "id_of_text_deploy-42": KEY.execution_id_of("deploy-42"),
        "execution_key": EXECUTION_KEY.hex(),
    }


def messages() -> list[Golden]:
    """Every message, made by today's code."""
    chunk = b"".join(msgspec.json.encode(record) + b"\n" for record in RECORDS)
    golden = [
        Golden("run-request.msgpack", requests.encode(FULL), requests.decode, FULL, "a run request, every field set"),
        Golden(
            "run-request-minimal.msgpack", requests.encode(MINIMAL), requests.decode, MINIMAL, "defaults left alone"
        ),
        Golden(
            "run-request.envelope", requests.seal_request(FULL, KEY), read_request_envelope, FULL, "the inbox object"
        ),
        Golden(
            "batch.gz",
            gzip.compress(batches.encode(BATCH), mtime=0),
            batches.decode,
            BATCH,
            "what is signed of a batch of two requests",
        ),
        Golden("control-call.msgpack", codec.encode(CALL), control.decode_call, CALL, "a control call"),
        Golden(
            "control-call.authorization",
            control.authorization(CALL, KEY).encode(),
            read_authorization,
            CALL,
            "the Authorization header of a control call",
        ),
        Golden(
            "claim.envelope",
            CLAIM,
            partial(claims.open_sealed, deployment_id=DEPLOYMENT),
            claims.Claim(1, DEPLOYMENT, bytes(range(32)), KEY.public_key),
            "a claim, signed by the key that it registers",
        ),
        Golden("claim-token.txt", TOKEN.to_text().encode(), read_token, TOKEN, "a claim token"),
        Golden("receipt-accepted.json", receipts.encode(ACCEPTED), receipts.decode, ACCEPTED, "an accepted receipt"),
        Golden("receipt-refused.json", receipts.encode(REFUSED), receipts.decode, REFUSED, "a refused receipt"),
        Golden(
            "status-waiting.json", status.encode(WAITING), status.decode, WAITING, "status.json, waiting for a lock"
        ),
        Golden("status-ended.json", status.encode(ENDED), status.decode, ENDED, "status.json, every field set"),
        Golden(
            "status-git.json", status.encode(CHECKED_OUT), status.decode, CHECKED_OUT, "status.json, with a checkout"
        ),
        Golden(
            "log-chunk.gz", gzip.compress(chunk, mtime=0), logs.decode_chunk, RECORDS, "the one and last chunk of a log"
        ),
        Golden(
            "runner-payload.json",
            msgspec.json.encode(PAYLOAD),
            partial(msgspec.json.decode, type=run_objects.RunnerPayload),
            PAYLOAD,
            "what a runner is given",
        ),
        Golden(
            "runner-payload-task.json",
            msgspec.json.encode(TASK_PAYLOAD),
            partial(msgspec.json.decode, type=run_objects.RunnerPayload),
            TASK_PAYLOAD,
            "what a runner that uploads is given",
        ),
        Golden(
            "runner-payload-git.json",
            msgspec.json.encode(GIT_PAYLOAD),
            partial(msgspec.json.decode, type=run_objects.RunnerPayload),
            GIT_PAYLOAD,
            "what a runner is given that clones a repository first",
        ),
        Golden(
            "runner-call.authorization",
            run_objects.runner_authorization(EXECUTION_KEY, ID, 1, "POST", RUNNER_CALL_TARGET, 1770091510250).encode(),
            read_runner_call,
            run_objects.RunnerCall(
                execution_id=ID,
                attempt=1,
                issued_at_ms=1770091510250,
                mac=run_objects.mac_of(
                    EXECUTION_KEY,
                    b"call",
                    f"POST\n{RUNNER_CALL_TARGET}\n1770091510250\n{hashlib.sha256(b'').hexdigest()}",
                ),
            ),
            "the Authorization header of a runner's call",
        ),
        Golden(
            "started.json",
            signed_by_runner(b"started", STARTED),
            read_started,
            STARTED,
            "the runner's word that the command began",
        ),
        Golden(
            "result.json",
            signed_by_runner(b"result", RESULT),
            read_result,
            RESULT,
            "the runner's word on how the command ended",
        ),
        Golden(
            "started-git.json",
            signed_by_runner(b"started", GIT_STARTED),
            read_started,
            GIT_STARTED,
            "the runner's word that the command began in a checkout",
        ),
        Golden(
            "result-git.json",
            signed_by_runner(b"result", GIT_RESULT),
            read_result,
            GIT_RESULT,
            "the runner's word on how a command in a checkout ended",
        ),
        Golden(
            "api-error.json",
            control.error_body(ERROR),
            read_error,
            (ERROR.code, ERROR.message, ERROR.hint, ERROR.details),
            "the body of an answer that is an error",
        ),
        Golden(
            "derived.json", json.dumps(derived(), indent=1).encode(), json.loads, derived(), "ids, digests and keys"
        ),
    ]
    for name, body in {**BODIES, **audit_bodies.BODIES}.items():
        golden.append(
            Golden(
                f"api-{name}.json",
                msgspec.json.encode(body),
                partial(msgspec.json.decode, type=type(body)),
                body,
                f"the control API's {type(body).__name__}",
            )
        )
    granted = BODIES["log-grants-answer"]
    golden.append(
        Golden(
            "api-log-grants-answer.msgpack",
            msgspec.msgpack.encode(granted),
            partial(msgspec.msgpack.decode, type=type(granted)),
            granted,
            "the control API's LogGrantsAnswer for who takes msgpack",
        )
    )
    return golden


def main() -> None:
    folder = HERE / VERSION
    folder.mkdir(exist_ok=True)
    manifest = {}
    for golden in messages():
        (folder / golden.file).write_bytes(golden.made)
        manifest[golden.file] = {"what": golden.what, "sha256": hashlib.sha256(golden.made).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
