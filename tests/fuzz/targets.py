"""What is fuzzed: every decoder of something that somebody else wrote.

A target takes bytes, feeds them to production code, and returns a word for what became of them (`decoded`, or an error's
code). It raises for what must not be: an exception that is not documented, or something decoded that does not come out
the same when it is encoded again. Signed inputs are signed here, over whatever the mutator made: what lies behind a
signature is decoded too, and a member of the team is not trusted.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec
from tests.fuzz.mutators import AT, GZIP_LINES, GZIP_MSGPACK, JSON, MSGPACK, TEXT, Format

from runvoy_agent.core import admission, lifecycle, projection
from runvoy_agent.core.admission import Accepted, Capabilities, Facts
from runvoy_agent.core.images import Registered, fargate_size, resolve
from runvoy_agent.core.locks import empty
from runvoy_agent.core.model import Execution, Image, Key, User
from runvoy_agent.runner import payload as runner_payload
from runvoy_agent.runner.http_calls import Connections
from runvoy_agent.runner.run_grant import RunGrant
from runvoy_protocol import (
    batches,
    claims,
    codec,
    control,
    envelope,
    ids,
    images,
    keys,
    logs,
    object_keys,
    patterns,
    playbooks,
    receipts,
    requests,
    run_objects,
    status,
)
from runvoy_protocol.batches import Batch, BatchedRequest
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import Role
from runvoy_protocol.states import State

KEY = SigningKey(bytes(range(32)))
ID = "019ab1c2d3e47f0089abcdef01234567"
EXECUTION_KEY = b"\x07" * 32
USER = User(name="ada", role=Role.DEVELOPER, created_at=AT)
REGISTERED = Key(key_id=KEY.key_id, public_key=KEY.public_key, user="ada", created_at=AT)
IMAGE = Image(
    name="img",
    reference="host.example/team/img:1",
    registered_by="ada",
    registered_at=AT,
    updated_by="ada",
    updated_at=AT,
)
CAPABILITIES = Capabilities("process", frozenset({"process", "container"}))

Run = Callable[[bytes], str]


class Target(NamedTuple):
    name: str
    format: Format
    seeds: tuple[bytes, ...]
    run: Run


def coded(run: Callable[[bytes], str | None]) -> Run:
    """A run whose RunvoyErrors are answers: they have a code, a message and a hint, and can be sent and read again."""

    def wrapped(raw: bytes) -> str:
        try:
            return run(raw) or "decoded"
        except RunvoyError as error:
            again = control.parse_error(control.error_body(error))
            assert again is not None
            assert (again.code, again.hint) == (error.code, error.hint)
            return error.code.value

    return wrapped


def same(found: object, wanted: object) -> None:
    assert found == wanted, f"encoded again it is {found!r:.200}, not {wanted!r:.200}"


# --- protocol --------------------------------------------------------------------------------------------------------

MINIMAL = requests.RunRequest(1, "dep", ID, AT, AT + timedelta(minutes=5), "echo hello")
FULL = requests.RunRequest(
    version=1,
    deployment_id="dep",
    request_id=ID,
    issued_at=AT,
    expires_at=AT + timedelta(minutes=5),
    command=("sh", "-c", "exit 7"),
    image="img:1",
    env={"A": "1", "B": "ä"},
    secrets=("db",),
    locks=("prod", "dns"),
    if_locked="fail",
    timeout_seconds=90,
    queue_timeout_seconds=60,
    cpu=256,
    memory_mib=512,
    git=requests.GitSource("https://e.example/r", "main", "p"),
    playbook="book",
    labels={"k": "v"},
    name="nightly",
    isolation="container",
)
COMPILED = playbooks.CompiledPlaybook(
    name="book",
    command="true",
    source="host:~/x",
    description="d",
    parameters=(
        playbooks.Parameter(name="stage", enum=("a", "b"), required=True),
        playbooks.Parameter(name="count", type="int", default="2"),
        playbooks.Parameter(name="tag", pattern="[a-z0-9.]{1,3}", description="d"),
        playbooks.Parameter(name="dry", type="bool", default="true"),
        playbooks.Parameter(name="token", secret=True),
    ),
    image="img:1",
    env={"A": "1"},
    secrets=("db",),
    locks=("prod",),
    timeout_seconds=90,
    cpu=256,
    memory_mib=512,
    git=FULL.git,
    labels={"stage": ("on ", playbooks.ParameterValue(parameter="stage"))},
)
BATCH = gzip.compress(
    batches.encode(
        Batch(
            1,
            ID.replace("0", "1", 1),
            tuple(
                BatchedRequest(one.request_id, requests.encode(one))
                for one in (MINIMAL, msgspec.structs.replace(FULL, request_id=ID[:-1] + "8"))
            ),
        )
    ),
    mtime=0,
)
CALL = control.ControlCall(1, "dep", "POST", "/api/v1/grants/inbox", bytes(32), AT, bytes(range(16)))


def run_envelope(raw: bytes) -> None:
    kind = codec.decode(raw, envelope.SCHEMAS, "envelope").payload_type
    expected = envelope.PayloadType(kind) if kind in set(envelope.PayloadType) else envelope.PayloadType.RUN_REQUEST
    sealed = envelope.parse(raw, expected)
    same(codec.encode(sealed), raw)
    same(envelope.verified_payload(sealed, KEY.key_id, KEY.public_key), sealed.payload)


def run_request(raw: bytes) -> None:
    request = requests.decode(raw)
    same(requests.encode(request), raw)
    requests.content_digest(request)
    named = {name: empty(name) for name in request.locks}
    facts = Facts("dep", CAPABILITIES, AT, "0" * 64, REGISTERED, USER, None, named, Registered((IMAGE,)))
    decision = admission.admit(request, KEY.key_id, facts)
    if isinstance(decision, Accepted):
        shown = status.encode(projection.project(decision.execution, 1))
        same(status.encode(status.decode(shown)), shown)
        again = admission.admit(request, KEY.key_id, facts._replace(existing=decision.execution))
        assert isinstance(again, admission.Known)
    try:  # what the deployment takes, the client would have sent
        requests.seal_request(request, KEY)
    except RunvoyError as error:
        assert error.code is ErrorCode.TOO_LARGE, error


def run_batch(raw: bytes) -> str:
    """What a member signed as a batch; each of its requests is decoded on its own."""
    batch = batches.decode(raw)
    same(batches.encode(batch), gzip.decompress(raw))
    assert 1 <= len({one.request_id for one in batch.requests} - {batch.batch_id}) == len(batch.requests)
    opened = 0
    for one in batch.requests:
        try:
            same(requests.encode(batches.open_request(one)), one.payload)
            opened += 1
        except RunvoyError:
            continue
    return "decoded" if opened else "decoded, and nothing in it"


def run_authorization(raw: bytes) -> None:
    header = raw.decode("latin-1")  # as a WSGI server hands it over
    sealed = control.parse_authorization(header)
    call = control.decode_call(envelope.verified_payload(sealed, KEY.key_id, KEY.public_key))
    same(codec.encode(call), sealed.payload)
    same(f"{header.partition(' ')[0]} {_base64url(codec.encode(sealed))}", header)


def _base64url(raw: bytes) -> str:
    import base64

    return base64.urlsafe_b64encode(raw).decode()


def run_playbook(raw: bytes) -> str:
    """What a client says that it compiled: what is taken makes requests that every deployment takes, of one digest."""
    try:
        found = msgspec.json.decode(raw, type=playbooks.CompiledPlaybook)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "none"
    playbooks.check([found])
    same(msgspec.json.decode(msgspec.json.encode(found), type=playbooks.CompiledPlaybook), found)
    pin = playbooks.pin(found)
    requests.check(playbooks.to_request(found, {one.name: "" for one in found.parameters}))
    made = playbooks.to_request(found, {one.name: one.default or "x" for one in found.parameters})
    same(requests.playbook_digest(made, pin.parameters), pin.digest)
    for one in found.parameters:
        one.objection_but_pattern(one.exact("yes"))
    return "decoded"


def run_pattern(raw: bytes) -> str:
    """A colleague's pattern, and a value to hold against it, on the next line."""
    pattern, _, value = raw.decode("utf-8", "replace").partition("\n")
    if patterns.problem_of(pattern):
        return "none"
    data = value.encode()[: patterns.longest(pattern)]
    walk = patterns.walk(pattern, data)
    assert walk.steps <= (patterns.MAX_SIZE + 1) * (len(data) + 1), "the steps are more than size times length"
    one = playbooks.Parameter(name="a", pattern=pattern, required=True)
    assert (one.objection(value) == "") == (patterns.matches(pattern, value) and "\0" not in value)
    return "decoded"


def run_image(raw: bytes) -> str:
    try:
        asked = msgspec.json.decode(raw, type=images.RegisterImage)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "none"
    images.check(asked)
    assert images.is_image_name(asked.reference)
    fargate_size(asked.cpu, asked.memory_mib)
    name = asked.reference if asked.name is None else asked.name
    made = msgspec.structs.replace(IMAGE, name=name, reference=asked.reference)
    for meant in (name, *images.short_names(asked.reference)):
        same(resolve(meant, (made,)), made)
    return "decoded"


def run_call(raw: bytes) -> None:
    same(codec.encode(control.decode_call(raw)), raw)


def run_claim_token(raw: bytes) -> None:
    text = raw.decode(errors="surrogateescape")  # as an argument comes
    try:
        token = claims.parse_token(text)
    except RunvoyError as error:
        assert len(text) < 20 or text[10:40] not in f"{error!r} {error} {error.hint}", "a token is shown"
        raise
    same(token.to_text(), text.strip())
    assert token.secret.hex() not in repr(token)
    assert len(token.secret) == claims.SECRET_BYTES


def run_claim(raw: bytes) -> None:
    """The payload of a claim, signed by the key that it may name."""
    opened = claims.open_sealed(envelope.seal(envelope.PayloadType.CLAIM, raw, KEY), "dep")
    same(codec.encode(opened), raw)
    same(opened.public_key, KEY.public_key)


def run_claim_envelope(raw: bytes) -> None:
    opened = claims.open_sealed(raw, "dep")
    keys.check_public_key(opened.public_key)


def run_api_key(raw: bytes) -> None:
    text = raw.decode(errors="surrogateescape")  # as an environment variable comes
    try:
        same(SigningKey.from_api_key(text).to_api_key(), text.strip())
    except RunvoyError as error:
        assert len(text) < 20 or text[10:40] not in f"{error!r} {error} {error.hint}", "a key is shown"
        raise


def run_object_key(raw: bytes) -> str:
    text = raw.decode(errors="replace")
    parts = object_keys.parse_request(text)
    if parts is None:
        return "none"
    same(object_keys.request(*parts), text)
    assert keys.is_key_id(parts.key_id)
    assert ids.is_execution_id(parts.request_id)
    ids.made_at(parts.request_id)
    return "decoded"


_LARGE_TEXT = 1024 * 1024


def run_chunk(raw: bytes) -> None:
    records = logs.decode_chunk(raw)
    for record in records:
        same(record.text.encode(errors="replace").decode(), record.text)
        assert isinstance(record.data, bytes)
    lines = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
    import gzip

    same(logs.decode_chunk(gzip.compress(lines, 1)), records)


def run_chunk_text(raw: bytes) -> str:
    """A chunk's own text, where it is kept, is JSON and holds the records that were decoded. What can be decoded can be read."""
    try:
        found = logs.read_chunk(raw)
    except RunvoyError as refused:
        try:
            logs.decode_chunk(raw)
        except RunvoyError as error:
            raise refused from error
        raise AssertionError("what can be decoded was refused") from refused
    if found.lines is None:
        return "none"
    if len(found.lines) < _LARGE_TEXT:
        kept = [json.loads(line) for line in found.lines.split(b"\n")[:-1]]
        holding = [record for record in found.records if record.m or record.b]
        same([(one["n"], one.get("m", "")) for one in kept], [(one.n, one.m) for one in holding])
    return "decoded"


def run_error_body(raw: bytes) -> str:
    error = control.parse_error(raw)
    if error is None:
        return "none"
    again = control.parse_error(control.error_body(error))
    assert again is not None
    same((again.code, again.message, again.details), (error.code, error.message, error.details))
    return "decoded"


# --- what a runner, or the command in its place, reports --------------------------------------------------------------

STARTED = {"execution_id": ID, "attempt": 1, "started_at_ms": 1770091510250, "pid": 4242}
RESULT = {
    "execution_id": ID,
    "attempt": 1,
    "outcome": "exited",
    "exit_code": 7,
    "signal": None,
    "message": "no",
    "started_at_ms": 1770091510250,
    "ended_at_ms": 1770091511000,
    "lines": 5,
    "chunks": 1,
    "lost_bytes": 0,
}


def _execution() -> Execution:
    facts = Facts("dep", CAPABILITIES, AT, "0" * 64, REGISTERED, USER, None, {})
    decision = admission.admit(MINIMAL, KEY.key_id, facts)
    assert isinstance(decision, Accepted)
    starting = lifecycle.begin_start(decision.execution, AT)
    assert starting is not None
    return starting


STARTING = _execution()


def _signed(kind: bytes, raw: bytes) -> bytes:
    body = raw.decode(errors="replace")
    return msgspec.json.encode({"body": body, "mac": run_objects.mac_of(EXECUTION_KEY, kind, body)})


def _shows(execution: Execution) -> None:
    """The record can be kept, read again and shown."""
    kept = msgspec.json.encode(execution)
    same(msgspec.json.encode(msgspec.json.decode(kept, type=Execution)), kept)
    shown = status.decode(status.encode(projection.project(execution, 3)))
    assert 0 <= status.exit_code_of(shown) <= 255


def run_started(raw: bytes) -> None:
    started = run_objects.open_signed(_signed(b"started", raw), run_objects.RunStarted, EXECUTION_KEY, ID, 1)
    noted = lifecycle.note_started(STARTING, started, AT)
    assert noted is not None
    _shows(noted)
    lifecycle.expire_run(noted, AT, timedelta(minutes=1))


def run_result(raw: bytes) -> None:
    result = run_objects.open_signed(_signed(b"result", raw), run_objects.RunResult, EXECUTION_KEY, ID, 1)
    settled = lifecycle.settle(STARTING, result, AT)
    assert settled is not None
    assert settled.state is not State.SUCCEEDED or result.exit_code == 0
    _shows(settled)


def run_report(raw: bytes) -> None:
    run_objects.open_signed(raw, run_objects.RunResult, EXECUTION_KEY, ID, 1)


def run_payload(raw: bytes) -> str:
    try:
        payload = runner_payload.parse(raw)
    except runner_payload.PayloadError:
        return "refused"
    for words in (payload.argv, payload.env, payload.secrets, payload.env.values(), payload.secrets.values()):
        assert all(isinstance(word, bytes) and b"\0" not in word for word in words)
    assert payload.argv
    assert len(payload.execution_key) == 32
    assert not any(b"=" in name or not name for name in (*payload.env, *payload.secrets))
    return "decoded"


def run_runner_call(raw: bytes) -> None:
    header = raw.decode("latin-1")
    call = run_objects.parse_runner_authorization(header)
    same(f"Runvoy-Runner {call.execution_id}.{call.attempt}.{call.issued_at_ms}.{call.mac}".encode("latin-1"), raw)
    call.issued_near(AT)
    if call.is_signed(EXECUTION_KEY, "POST", "/", b""):
        same(call.issued_at_ms, 1770091510250)


def run_runner_grant(raw: bytes) -> str:
    """A grant as the runner reads it, from its payload or from an answer."""
    payload = runner_payload.parse(msgspec.json.encode(PAYLOAD))
    try:
        payload.grant = json.loads(raw)
    except (ValueError, RecursionError):
        return "none"
    if not isinstance(payload.grant, dict):
        return "none"
    try:
        grant = RunGrant(payload, Connections())
    except runner_payload.PayloadError:
        return "refused"
    for policy in grant._policies.values():
        assert all(isinstance(text, str) for text in (policy.url, policy.content_type, *policy.fields.values()))
    return "decoded"


PAYLOAD = run_objects.RunnerPayload(
    execution_id=ID,
    attempt=1,
    execution_key=EXECUTION_KEY.hex(),
    command=("sh", "-c", "exit 7"),
    timeout_seconds=90,
    env={"A": "1"},
    secrets={"DB_PASSWORD": b"hunter22"},
)
POLICY = run_objects.UploadPolicy(
    url="https://outbox.example.com/", fields={"policy": "e30="}, content_type="application/gzip", max_bytes=9
)
RUN_GRANT = run_objects.RunGrant(
    key_prefix=f"executions/{ID}/run/",
    logs=POLICY,
    reports=POLICY,
    expires_at=AT,
    renew_url="https://example.com/grant",
)
RECORDS = [
    {"n": 1, "t": 1770091510250, "s": "out", "m": "one\ntwo\n"},
    {"n": 3, "t": 1770091510251, "s": "err", "m": "half a l", "p": True},
    {"n": 3, "t": 1770091510400, "s": "err", "m": "ine\n"},
    {"n": 4, "t": 1770091510401, "s": "out", "b": "//4K"},
    {"n": 6, "t": 1770091511000, "s": "sys", "end": True},
]
SHOWN = projection.project(STARTING, 4)
ENDED = msgspec.structs.replace(SHOWN, state=State.FAILED, exit_code=7, started_at=AT, ended_at=AT, lines=5, chunks=1)
REFUSED = receipts.Receipt(
    outcome="refused",
    execution_id=ID,
    key_id=KEY.key_id,
    object_sha256=hashlib.sha256(b"x").hexdigest(),
    at=AT,
    code=ErrorCode.CLOCK_SKEW,
    message="the clock is off",
    details={"server_time": "2026-02-03T04:05:08Z"},
)
ACCEPTED = msgspec.structs.replace(
    REFUSED,
    outcome="accepted",
    code=None,
    resolved=receipts.Resolved(owner="ada", isolation="process", timeout_seconds=9, locks=("a",)),
)


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)


def _seeds() -> dict[str, tuple[bytes, ...]]:
    sealed = tuple(envelope.seal(kind, b"\x91\x01", KEY) for kind in envelope.PayloadType)
    error = RunvoyError(ErrorCode.CLOCK_SKEW, "off", "Set it.", {"server_time": "2026-02-03T04:05:08Z", "n": 1})
    return {
        "envelope": (*sealed, requests.seal_request(FULL, KEY)),
        "batch": (BATCH, gzip.compress(gzip.decompress(BATCH), 1, mtime=0)),
        "request": (requests.encode(MINIMAL), requests.encode(FULL)),
        "authorization": (control.authorization(CALL, KEY).encode(),),
        "call": (codec.encode(CALL),),
        "claim token": (claims.Token(b"\x07" * 32, "https://runvoy.example", "dep").to_text().encode(),),
        "claim": tuple(codec.encode(claims.Claim(1, "dep", secret, KEY.public_key)) for secret in (b"", b"\x07" * 32)),
        "claim envelope": (claims.seal("dep", b"\x07" * 32, KEY),),
        "api key": (KEY.to_api_key().encode(), b" " + SigningKey(b"\xfb\xef" * 16).to_api_key().encode() + b"\n"),
        "object key": (object_keys.request(KEY.key_id, ID).encode(),),
        "chunk": (GZIP_LINES.dump(RECORDS),),
        "error body": (control.error_body(error),),
        "started": (_json(STARTED),),
        "result": (_json(RESULT), _json(RESULT | {"outcome": "timed_out", "exit_code": None, "signal": 9})),
        "report": (_signed(b"result", _json(RESULT)),),
        "payload": (_json(PAYLOAD),),
        "image": (
            b'{"reference":"h.example:5000/a/b__c:1.2@sha256:00112233445566778899aabbccddeeff","cpu":512,"version":3}',
            b'{"reference":"a","name":"n","memory_mib":3072,"platform":"linux/arm64","task_role":"r","is_default":true}',
        ),
        "runner call": (run_objects.runner_authorization(EXECUTION_KEY, ID, 1, "POST", "/", 1770091510250).encode(),),
        "runner grant": (_json(RUN_GRANT),),
    }


SEEDS = _seeds()

PROTOCOL_TARGETS = [
    Target("envelope", MSGPACK, SEEDS["envelope"], coded(run_envelope)),
    Target("run-request", MSGPACK, SEEDS["request"], coded(run_request)),
    Target("batch", GZIP_MSGPACK, SEEDS["batch"], coded(run_batch)),
    Target("authorization", TEXT, SEEDS["authorization"], coded(run_authorization)),
    Target("compiled-playbook", JSON, (msgspec.json.encode(COMPILED),), coded(run_playbook)),
    Target("pattern", TEXT, (b"(a+)+b\naaab", rb"v[0-9]{1,3}(\.[^.x]+)*|(a|bc?){2,}" + b"\nv1.2"), coded(run_pattern)),
    Target("register-image", JSON, SEEDS["image"], coded(run_image)),
    Target("control-call", MSGPACK, SEEDS["call"], coded(run_call)),
    Target("claim-token", TEXT, SEEDS["claim token"], coded(run_claim_token)),
    Target("claim", MSGPACK, SEEDS["claim"], coded(run_claim)),
    Target("claim-envelope", MSGPACK, SEEDS["claim envelope"], coded(run_claim_envelope)),
    Target("api-key", TEXT, SEEDS["api key"], coded(run_api_key)),
    Target("object-key", TEXT, SEEDS["object key"], coded(run_object_key)),
    Target("log-chunk", GZIP_LINES, SEEDS["chunk"], coded(run_chunk)),
    Target("log-chunk-text", GZIP_LINES, SEEDS["chunk"], coded(run_chunk_text)),
    Target("error-body", JSON, SEEDS["error body"], coded(run_error_body)),
    Target("started", JSON, SEEDS["started"], coded(run_started)),
    Target("result", JSON, SEEDS["result"], coded(run_result)),
    Target("report", JSON, SEEDS["report"], coded(run_report)),
    Target("runner-payload", JSON, SEEDS["payload"], coded(run_payload)),
    Target("runner-call", TEXT, SEEDS["runner call"], coded(run_runner_call)),
    Target("runner-grant", JSON, SEEDS["runner grant"], coded(run_runner_grant)),
]
