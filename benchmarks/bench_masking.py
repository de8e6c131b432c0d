"""What masking costs the output: with no secrets, with five, with a private key's many lines; in large and small reads."""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Callable

from runvoy_agent.runner.masking import Masker
from runvoy_agent.runner.output import unfiltered

DICE = random.Random(1)
TOTAL_BYTES = 8 * 1024 * 1024


def _text() -> bytes:
    lines = [
        b"2026-01-01T12:%02d:%02d.%03dZ INFO app.server handled request path=/usr/local/lib/python3/%d status=200 took=%dms\n"
        % (number // 60 % 60, number % 60, number % 1000, number, number % 77)
        for number in range(100_000)
    ]
    return b"".join(lines)[:TOTAL_BYTES]


def _secret() -> bytes:
    return b"pass/word+" + DICE.randbytes(9).hex().encode() + b"='\"!"


FIVE = {b"S%d" % number: _secret() for number in range(5)}
PEM = base64.encodebytes(DICE.randbytes(57 * 31))


def main() -> None:
    text = _text()
    encoded = base64.b64encode(DICE.randbytes(TOTAL_BYTES * 3 // 4))
    secret_bearing = b"".join(line + b"token=" + FIVE[b"S1"] + b"\n" for line in text.splitlines(keepends=True)[::9])
    for name, secrets in (("five secrets", FIVE), ("a key of 31 lines", {b"KEY": PEM})):
        started = time.perf_counter()
        masker = Masker(secrets)
        milliseconds = (time.perf_counter() - started) * 1000
        print(f"{f'set up for {name} ({masker.forms} forms)':56} {milliseconds:8.1f} ms")
        _report(f"{name}: a log in reads of 64 KiB", masker.filter, text, 65536)
        _report(f"{name}: a log in reads of a line", masker.filter, text[: TOTAL_BYTES // 8], 112)
        _report(f"{name}: base64 in reads of 64 KiB", masker.filter, encoded, 65536)
    _report("five secrets: one in every second line", Masker(FIVE).filter, secret_bearing, 65536)
    _report("no secrets: a log in reads of 64 KiB", unfiltered, text, 65536)


def _report(what: str, shown: Callable[[str, bytes], bytes], text: bytes, size: int) -> None:
    reads = [text[at : at + size] for at in range(0, len(text), size)]
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for read in reads:
            shown("out", read)
        shown("out", b"")
        best = min(best, time.perf_counter() - started)
    print(f"{what:56} {len(text) / best / 1e6:8.0f} MB/s {best / len(reads) * 1e6:8.1f} µs a read")


if __name__ == "__main__":
    main()
