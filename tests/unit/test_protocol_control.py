"""Signed calls, error bodies, and what a runner reports."""

import json
from datetime import UTC, datetime

import msgspec
import pytest

from runvoy_protocol import codec, control, envelope, keys, requests, run_objects
from runvoy_protocol.errors import ErrorCode, RunvoyError

KEY = keys.SigningKey(bytes(32))
ID = "019ab1c2d3e47f0089abcdef01234567"
AT = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
CALL = control.ControlCall(1, "dep", "GET", "/api/v1/whoami", control.body_digest(b""), AT, bytes(16))


def opened(header):
    parsed = control.parse_authorization(header)
    return control.decode_call(envelope.verified_payload(parsed, KEY.key_id, KEY.public_key))


def refusal(header):
    with pytest.raises(RunvoyError) as caught:
        opened(header)
    return caught.value.code


def test_a_signed_call_is_read():
    header = control.authorization(CALL, KEY)
    assert opened(header) == CALL
    header.encode("ascii")
    assert "\n" not in header


@pytest.mark.parametrize(
    "changed",
    [
        {"deployment_id": "other"},
        {"method": "DELETE"},
        {"target": "/api/v1/whoami?x"},
        {"body_sha256": control.body_digest(b"x")},
        {"issued_at": AT.replace(second=7)},
        {"nonce": bytes(15) + b"\1"},
        {"version": 2},
    ],
    ids=str,
)
def test_every_field_of_a_call_is_signed(changed):
    whole = control.parse_authorization(control.authorization(CALL, KEY))
    payload = codec.encode(msgspec.structs.replace(CALL, **changed))
    forged = msgspec.structs.replace(whole, payload=payload)
    with pytest.raises(RunvoyError) as caught:
        envelope.verified_payload(forged, KEY.key_id, KEY.public_key)
    assert caught.value.code is ErrorCode.SIGNATURE_INVALID


@pytest.mark.parametrize(
    "changed", [{"nonce": b""}, {"nonce": bytes(17)}, {"issued_at": AT.replace(tzinfo=None)}, {"version": 2}], ids=str
)
def test_a_signed_call_that_breaks_the_rules_is_refused(changed):
    header = control.authorization(msgspec.structs.replace(CALL, **changed), KEY)
    assert refusal(header) is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    "header", ["", "Runvoy", "Runvoy ", "Bearer x", "runvoy x", "Runvoy ä", "Runvoy a", "Runvoy !"]
)
def test_what_is_no_signed_call_is_unsigned(header):
    assert refusal(header) is ErrorCode.SIGNATURE_INVALID


def test_a_call_has_one_text():
    """Python's base64 also takes + for -, / for _, and other last bits."""
    for number in range(200):
        header = control.authorization(msgspec.structs.replace(CALL, nonce=bytes([number] * 16)), KEY)
        other = header.replace("-", "+").replace("_", "/")
        if other != header:
            break
    assert other != header
    assert refusal(other) is ErrorCode.SIGNATURE_INVALID
    assert codec.decode_base64url("QQ==") == b"A"
    for text in ("QR==", "QQ", "QQ=", "Q Q==", "QQ==\n", "ä"):
        with pytest.raises(ValueError):
            codec.decode_base64url(text)


def test_every_wrong_character_of_the_header_is_refused_or_changes_nothing():
    header = control.authorization(CALL, KEY)
    for position in range(len(header)):
        for wrong in "A_+/= \tä":
            changed = header[:position] + wrong + header[position + 1 :]
            try:
                assert opened(changed) == CALL
            except RunvoyError as error:
                assert error.code in (ErrorCode.SIGNATURE_INVALID, ErrorCode.INVALID_REQUEST)


def test_a_long_header_is_too_large():
    assert refusal("Runvoy " + "A" * (control.MAX_AUTHORIZATION_BYTES + 1)) is ErrorCode.TOO_LARGE


def test_a_run_request_s_signature_is_no_call():
    request = requests.RunRequest(1, "dep", ID, AT, AT.replace(minute=6), "true")
    sealed = requests.seal_request(request, KEY)
    with pytest.raises(RunvoyError) as caught:
        envelope.parse(sealed, envelope.PayloadType.CONTROL)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_an_error_s_body_is_read_back():
    error = RunvoyError(ErrorCode.CLOCK_SKEW, "message ä", "hint", {"server_time": "x", "more": [1, {"a": None}]})
    read = control.parse_error(control.error_body(error))
    assert vars(read) == vars(error)
    assert read.retryable


def test_an_error_that_quotes_what_is_not_utf_8_can_be_sent():
    read = control.parse_error(
        control.error_body(RunvoyError(ErrorCode.INVALID_REQUEST, "no file caf\udce9", "\udcff"))
    )
    assert read.message == "no file caf?"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>502 Bad Gateway</html>",
        b"{}",
        b'{"error":"x"}',
        b'{"error":{"code":"NOPE","message":"x"}}',
        b"\xff",
        b'{"error":{"code":"INTERNAL","message":"x","details":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}}",
        b"[" * 100_000,
    ],
    ids=lambda raw: repr(raw[:30]),
)
def test_another_body_is_no_error(raw):
    assert control.parse_error(raw) is None


EXECUTION_KEY = run_objects.execution_key(bytes(32), ID, 1)
RESULT = {
    "execution_id": ID,
    "attempt": 1,
    "outcome": "exited",
    "exit_code": 7,
    "signal": None,
    "message": "",
    "started_at_ms": 1,
    "ended_at_ms": 2,
    "lines": 3,
    "chunks": 1,
    "lost_bytes": 0,
}


def reported(fields, key=EXECUTION_KEY, kind=b"result"):
    body = fields if isinstance(fields, str) else json.dumps(fields)
    return json.dumps({"body": body, "mac": run_objects.mac_of(key, kind, body)}).encode()


def result_refusal(raw):
    with pytest.raises(RunvoyError) as caught:
        run_objects.open_signed(raw, run_objects.RunResult, EXECUTION_KEY, ID, 1)
    return caught.value.code


def test_a_result_is_read():
    opened_result = run_objects.open_signed(reported(RESULT), run_objects.RunResult, EXECUTION_KEY, ID, 1)
    assert msgspec.to_builtins(opened_result) == RESULT


def test_a_result_of_another_key_or_kind_is_refused():
    others = [(bytes(32), ID, 2), (bytes(32), ID[:-1] + "0", 1), (b"\1" * 32, ID, 1)]
    for other in others:
        assert result_refusal(reported(RESULT, run_objects.execution_key(*other))) is ErrorCode.SIGNATURE_INVALID
    assert result_refusal(reported(RESULT, kind=b"started")) is ErrorCode.SIGNATURE_INVALID


@pytest.mark.parametrize(
    "changed",
    [
        {"execution_id": ID[:-1] + "0"},
        {"attempt": 2},
        {"outcome": "fine"},
        {"exit_code": 256},
        {"exit_code": -1},
        {"exit_code": "7"},
        {"signal": 0},
        {"signal": 1000},
        {"started_at_ms": -1},
        {"ended_at_ms": 10**17},
        {"lines": -1},
        {"chunks": 1.5},
        {"lost_bytes": None},
    ],
    ids=str,
)
def test_a_well_signed_result_may_still_be_refused(changed):
    """The command may hold the execution key."""
    assert result_refusal(reported(RESULT | changed)) is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"\xff",
        reported(""),
        reported("[" * 30_000),
        reported('{"x":' + "[" * 20_000 + "]" * 20_000 + "}"),
        json.dumps({"body": json.dumps(RESULT), "mac": "ä"}).encode(),
        json.dumps({"body": json.dumps(RESULT), "mac": ""}).encode(),
    ],
    ids=lambda raw: repr(raw[:30]),
)
def test_what_is_no_result_is_refused(raw):
    assert result_refusal(raw) in (ErrorCode.INVALID_REQUEST, ErrorCode.SIGNATURE_INVALID)


def test_a_long_result_is_too_large():
    assert result_refusal(reported(RESULT | {"message": "x" * 70_000})) is ErrorCode.TOO_LARGE


def result_fields(**fields):
    whole = {"execution_id": ID, "attempt": 1, "outcome": "exited", "exit_code": 0, "signal": None, "message": ""}
    whole |= {"started_at_ms": 1, "ended_at_ms": 2, "lines": 0, "chunks": 1, "lost_bytes": 0}
    return json.dumps(whole | fields)


@pytest.mark.parametrize(
    ("field", "least", "most"),
    [
        ("exit_code", 0, 255),
        ("signal", 1, 127),
        ("started_at_ms", 0, 253_370_764_799_999),
        ("ended_at_ms", 0, 253_370_764_799_999),
        ("lines", 0, 2**53 - 1),
        ("chunks", 0, 2**53 - 1),
        ("lost_bytes", 0, 2**53 - 1),
    ],
)
def test_a_results_numbers_have_bounds(field, least, most):
    for value in (least, most):
        read = msgspec.json.decode(result_fields(**{field: value}), type=run_objects.RunResult)
        assert getattr(read, field) == value
    for value in (least - 1, most + 1):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(result_fields(**{field: value}), type=run_objects.RunResult)
