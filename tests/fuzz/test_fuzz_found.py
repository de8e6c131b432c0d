"""What fuzzing found: an input of each, so that it is not found again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.fuzz.engine import TARGETS
from tests.fuzz.targets import CALL, ENDED, MINIMAL, STARTED
from tests.fuzz.targets_client import CONFIG, SKEW

from runvoy_protocol import control, logs, requests
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.keys import SigningKey

KEY_TEXT = str(CONFIG["api_key"])


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
@pytest.mark.parametrize(
    ("fields", "position", "decode"),
    [
        (msgspec.to_builtins(MINIMAL), 3, requests.decode),
        (msgspec.to_builtins(MINIMAL), 4, requests.decode),
        (msgspec.to_builtins(CALL, builtin_types=(bytes,)), 5, control.decode_call),
    ],
)
def test_a_time_in_no_year_of_utc_is_malformed(
    fields: list[object], position: int, decode: Callable[[bytes], object], text: str
) -> None:
    """It can be decoded, and encoding it to see whether it was canonical raised OverflowError: a delivery that is signed
    by a member and fails for ever."""
    changed = list(fields)
    changed[position] = text
    with pytest.raises(RunvoyError) as caught:
        decode(msgspec.msgpack.encode(changed))
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_the_last_time_a_runner_may_report_can_be_added_to() -> None:
    """The command may hold its execution key; a start in the year 9999 broke each round of the reconciler."""
    latest = STARTED | {"started_at_ms": logs.MAX_TIME_MS}
    assert TARGETS["started"].run(json.dumps(latest).encode()) == "decoded"
    assert TARGETS["started"].run(json.dumps(STARTED | {"started_at_ms": logs.MAX_TIME_MS + 1}).encode()) != "decoded"


def test_an_api_key_has_one_text() -> None:
    """+ and / were taken for - and _."""
    text = SigningKey(b"\xfb\xef" * 16).to_api_key()
    other = text.replace("-", "+").replace("_", "/")
    assert other != text
    assert TARGETS["api-key"].run(text.encode()) == "decoded"
    assert TARGETS["api-key"].run(other.encode()) == "INVALID_REQUEST"


@pytest.mark.parametrize("uri", ["http://[::1", "//[x", "/api/v1/executions?" + "a=b&" * 65])
def test_a_request_line_is_answered(uri: str) -> None:
    TARGETS["gateway"].run(json.dumps({"method": "GET", "uri": uri}).encode())


@pytest.mark.parametrize(
    "cached",
    [
        {"offset_seconds": 1.5, "offset_learned_at": "2099-11-24T00:58:19"},
        {"inbox_grant": json.loads(TARGETS["cache"].seeds[0])["inbox_grant"] | {"expires_at": "2099-01-01T00:00:00"}},
    ],
    ids=["offset", "grant"],
)
def test_a_broken_cache_is_none(cached: dict[str, object]) -> None:
    TARGETS["cache"].run(json.dumps(cached).encode())


def test_a_cache_nested_without_end_is_none() -> None:
    TARGETS["cache"].run(b'{"x":' + b"[" * 100_000)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_server_s_time_out_of_all_bounds_is_not_learned(text: str) -> None:
    TARGETS["clock-skew"].run(SKEW.replace(b"2026-02-03T04:05:08Z", text.encode()))


@pytest.mark.parametrize("text", ["2026-02-03T04:05:06", "2026-02-03T04:05:06\0Z"])
def test_a_status_whose_times_have_no_zone_is_no_status(text: str) -> None:
    fields = msgspec.to_builtins(ENDED) | {"started_at": text}
    assert TARGETS["status"].run(json.dumps(fields).encode()) == "UNAVAILABLE"


def test_an_answer_nested_without_end_is_no_answer() -> None:
    whole = msgspec.json.encode(ENDED)
    assert TARGETS["status"].run(whole[:-1] + b',"x":' + b"[" * 100_000) == "UNAVAILABLE"


def test_a_key_put_into_the_wrong_place_is_not_shown() -> None:
    TARGETS["config"].run(json.dumps(CONFIG | {"timeout": CONFIG["api_key"]}).encode())


def test_a_key_in_the_place_of_an_endpoint_is_not_shown() -> None:
    TARGETS["config"].run(json.dumps(CONFIG | {"endpoint": CONFIG["api_key"]}).encode())
    TARGETS["config"].run(json.dumps(CONFIG | {"endpoint": f"https://host:8{KEY_TEXT[5:]}"}).encode())
    TARGETS["config"].run(json.dumps(CONFIG | {"endpoint": KEY_TEXT[5:]}).encode())
    profile = {"ci": {"endpoint": CONFIG["api_key"], "deployment_id": "d", "api_key": "https://e.example"}}
    TARGETS["config"].run(json.dumps(CONFIG | {"profiles": profile}).encode())


def test_a_key_in_the_place_of_a_name_is_not_shown() -> None:
    name = f"deploym{CONFIG['api_key']}ent_id"
    TARGETS["config"].run(json.dumps(CONFIG | {name: "d"}).encode())
    TARGETS["config"].run(json.dumps(CONFIG | {"profiles": {"ci": {name: "d"}}}).encode())
    TARGETS["config"].run(json.dumps(CONFIG).replace("{", f'{{"{name}": "d", "{name}": "d", ', 1).encode())


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_time_in_no_year_of_utc_ends_no_client(text: str) -> None:
    """In `--since`, in a status and in a cached grant."""
    TARGETS["values"].run(text.encode())
    for field in ("admitted_at", "started_at", "ended_at"):
        TARGETS["status"].run(json.dumps(msgspec.to_builtins(ENDED) | {field: text}).encode())
    grant = json.loads(TARGETS["cache"].seeds[0])["inbox_grant"] | {"expires_at": text}
    TARGETS["cache"].run(json.dumps({"inbox_grant": grant}).encode())


@pytest.mark.parametrize("opening", ["[", "{a: "])
def test_a_nested_config_is_refused(opening: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(opening * 40_000)
    program = "import sys, pathlib; from runvoy_cli.home import config_file; from runvoy_cli.input import problems\n"
    program += "try: config_file.load(pathlib.Path(sys.argv[1]))\nexcept problems.UsageProblem: sys.exit(7)"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "config.yaml")], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 7
