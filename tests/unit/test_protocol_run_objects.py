"""A runner's payload and its signed calls."""

import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from runvoy_protocol import run_objects
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.run_objects import RunGrant, RunnerPayload, UploadPolicy

ID = "019ab1c2d3e47f0089abcdef01234567"
AT = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
AT_MS = int(AT.timestamp() * 1000)
KEY = bytes(range(32))
TARGET = "/api/v1/runs/grant?x=1"
HEADER = run_objects.runner_authorization(KEY, ID, 3, "POST", TARGET, AT_MS, b"body")
MAC = HEADER.rpartition(".")[2]


def test_a_call_is_read_and_signed_for_all_that_it_is():
    call = run_objects.parse_runner_authorization(HEADER)
    assert (call.execution_id, call.attempt, call.issued_at_ms, call.mac) == (ID, 3, AT_MS, MAC)
    assert call.is_signed(KEY, "POST", TARGET, b"body")
    assert not call.is_signed(KEY[::-1], "POST", TARGET, b"body")
    assert not call.is_signed(KEY, "GET", TARGET, b"body")
    assert not call.is_signed(KEY, "POST", TARGET + "2", b"body")
    assert not call.is_signed(KEY, "POST", TARGET, b"")
    later = msgspec.structs.replace(call, issued_at_ms=AT_MS + 1)
    assert not later.is_signed(KEY, "POST", TARGET, b"body")


def test_the_mac_is_over_the_documented_text():
    text = f"call\nPOST\n{TARGET}\n{AT_MS}\n{hashlib.sha256(b'body').hexdigest()}"
    assert hmac.new(KEY, text.encode(), "sha256").hexdigest() == MAC
    derived = hmac.new(KEY, f"runvoy execution key v1\n{ID}\n3".encode(), "sha256").digest()
    assert run_objects.execution_key(KEY, ID, 3) == derived


def test_a_call_without_a_body_signs_the_empty_one():
    header = run_objects.runner_authorization(KEY, ID, 1, "POST", TARGET, AT_MS)
    assert run_objects.parse_runner_authorization(header).is_signed(KEY, "POST", TARGET, b"")


def test_a_call_lives_for_a_minute_to_either_side():
    call = run_objects.parse_runner_authorization(HEADER)
    minute, moment = timedelta(seconds=60), timedelta(milliseconds=1)
    for near in (AT, AT + minute, AT - minute):
        assert call.issued_near(near)
    for far in (AT + minute + moment, AT - minute - moment):
        assert not call.issued_near(far)


@pytest.mark.parametrize("text", [f"{ID}.1.0.{MAC}", f"{ID}.999999.999999999999999.{MAC}"])
def test_the_least_and_the_most_of_a_call(text):
    assert run_objects.parse_runner_authorization(f"Runvoy-Runner {text}").mac == MAC


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Runvoy-Runner",
        f"Runvoy {ID}.1.0.{MAC}",
        f"Runvoy-Runner  {ID}.1.0.{MAC}",
        f"Runvoy-Runner {ID}.1.0.{MAC}\n",
        f"Runvoy-Runner {ID}.0.0.{MAC}",
        f"Runvoy-Runner {ID}.01.0.{MAC}",
        f"Runvoy-Runner {ID}.1000000.0.{MAC}",
        f"Runvoy-Runner {ID}.1.00.{MAC}",
        f"Runvoy-Runner {ID}.1.1000000000000000.{MAC}",
        f"Runvoy-Runner {ID}.1.0.{MAC[:-1]}",
        f"Runvoy-Runner {ID}.1.0.{MAC.upper()}",
        f"Runvoy-Runner {'0' * 32}.1.0.{MAC}",
        f"Runvoy-Runner {ID}.1.٣.{MAC}",
    ],
)
def test_what_is_no_call_of_a_runner(header):
    with pytest.raises(RunvoyError) as caught:
        run_objects.parse_runner_authorization(header)
    assert caught.value.code is ErrorCode.SIGNATURE_INVALID


def test_a_payload_s_repr_shows_nothing_that_opens_anything():
    policy = UploadPolicy(url="https://o.example", fields={"policy": "cG9saWN5"}, content_type="x/y", max_bytes=9)
    grant = RunGrant(key_prefix="k/", logs=policy, reports=policy, expires_at=AT, renew_url="https://renew.example")
    payload = RunnerPayload(
        execution_id=ID,
        attempt=1,
        execution_key="c2VjcmV0",
        command="true",
        timeout_seconds=9,
        env={"REGION": "eu"},
        secrets={"TOKEN": b"hunter22"},
        grant=grant,
    )
    shown = repr(payload)
    for hidden in ("c2VjcmV0", "hunter22", "cG9saWN5"):
        assert hidden not in shown
    for told in (ID, "command='true'", "timeout_seconds=9", "REGION", "execution_key=…", "secrets=…", "grant=…"):
        assert told in shown


def test_a_payload_that_says_no_more_means_the_defaults():
    payload = RunnerPayload(execution_id=ID, attempt=1, execution_key="", command="true", timeout_seconds=9)
    assert (payload.grace_seconds, payload.start_seconds, payload.ship_seconds) == (30, 600, 600)
    assert (payload.env, payload.secrets, payload.grant) == ({}, {}, None)
    assert set(msgspec.to_builtins(payload)) == {
        "execution_id",
        "attempt",
        "execution_key",
        "command",
        "timeout_seconds",
    }


def test_the_bounds_of_uploads_stay():
    assert run_objects.MAX_CHUNK_OBJECT_BYTES == 16_777_216
    assert (run_objects.CHUNK_CONTENT_TYPE, run_objects.REPORT_CONTENT_TYPE) == ("application/gzip", "application/json")


def test_a_report_of_just_the_most_bytes_is_read():
    body = b'{"execution_id":"%s","attempt":1,"started_at_ms":0,"pid":7}' % ID.encode()
    raw = msgspec.json.encode({"body": body.decode(), "mac": run_objects.mac_of(KEY, b"started", body.decode())})
    most = raw + b" " * (65_536 - len(raw))
    assert run_objects.open_signed(most, run_objects.RunStarted, KEY, ID, 1).pid == 7
    with pytest.raises(RunvoyError) as caught:
        run_objects.open_signed(most + b" ", run_objects.RunStarted, KEY, ID, 1)
    assert caught.value.code is ErrorCode.TOO_LARGE
