"""What the protocol costs: signing and judging a request, and reading a log."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import msgspec

from runvoy_protocol import envelope, keys, logs, requests

KEY = keys.SigningKey(bytes(32))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID = "019ab1c2d3e47f0089abcdef01234567"
SMALL = requests.RunRequest(1, "dep", ID, NOW, NOW + timedelta(hours=1), ("terraform", "plan"))
LARGE = msgspec.structs.replace(SMALL, command=("x", *(f"word-{number}" for number in range(20_000))))
TEXT = "".join(f"a line of a log, number {number}\n" for number in range(2000))


def main() -> None:
    for name, request in (("small", SMALL), ("20,000 words", LARGE)):
        sealed = requests.seal_request(request, KEY)
        _report(f"sign a request ({name})", partial(requests.seal_request, request, KEY))
        _report(f"judge a request ({name})", partial(_judge, sealed))
    record = msgspec.json.encode(logs.LogRecord(1, 1, "out", TEXT)) + b"\n"
    chunk = gzip.compress(record * 60, compresslevel=1)
    seconds = _report("read a log chunk of 4 MB", lambda: logs.decode_chunk(chunk))
    print(f"{'':40} {len(TEXT) * 60 / seconds / 1e6:10.0f} MB/s")


def _judge(sealed: bytes) -> None:
    parsed = envelope.parse(sealed, envelope.PayloadType.RUN_REQUEST)
    requests.decode(envelope.verified_payload(parsed, KEY.key_id, KEY.public_key))


def _report(what: str, action: Callable[[], object]) -> float:
    """Print and return the best of several rounds, in seconds: the least disturbed one."""
    best = float("inf")
    deadline = time.perf_counter() + 1
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - started)
    print(f"{what:40} {best * 1e6:10.0f} µs")
    return best
