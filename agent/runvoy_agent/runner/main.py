"""The order of things: payload, lock, claim, command, output, result.

Exit status: 0 the run is over and nothing of it lives (or it was another runner's all along), 3 something of it could
not be ended, 64 the payload was no good and nothing was claimed, 75 the run could not be claimed.
"""

from __future__ import annotations

import os
import signal
import sys

from runvoy_agent.runner import claim
from runvoy_agent.runner.payload import MAX_BYTES, Payload, PayloadError, parse
from runvoy_agent.runner.run import run
from runvoy_agent.runner.signals import Signals

EXIT_SURVIVORS = 3
EXIT_BAD_PAYLOAD = 64
EXIT_NOT_CLAIMED = 75


def main(argv: list[str]) -> int:
    """Run the execution whose folder is the only argument."""
    if len(argv) != 2:
        print("usage: runner RUN_DIR < payload", file=sys.stderr)
        return EXIT_BAD_PAYLOAD
    run_dir = os.path.abspath(argv[1])  # noqa: PTH100 - pathlib costs start-up time
    signals = Signals()  # before the claim, which tells others where to send them
    try:
        payload = _read_payload(run_dir)
    except PayloadError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_PAYLOAD
    try:
        alive = claim.claim(run_dir, payload.attempt)
    except OSError as error:
        print(f"the run cannot be claimed: {error}", file=sys.stderr)
        return EXIT_NOT_CLAIMED
    _answer(b"taken\n" if alive is None else b"claimed\n")
    if alive is None:
        return 0
    return 0 if run(run_dir, payload, signals, alive) else EXIT_SURVIVORS


def _read_payload(run_dir: str) -> Payload:
    parts: list[bytes] = []
    size = 0
    while part := os.read(0, 1 << 20):
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise PayloadError(f"the payload is over {MAX_BYTES:,} bytes")
    payload = parse(b"".join(parts))
    if payload.execution_id != os.path.basename(run_dir):  # noqa: PTH119
        raise PayloadError("the payload is another execution's")
    empty = os.open("/dev/null", os.O_RDWR)
    os.dup2(empty, 0)
    os.close(empty)
    return payload


def _answer(word: bytes) -> None:
    """Tell the launcher, which reads stdout to its end; from here on stdout is where stderr is."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        os.write(1, word)
    except OSError as error:
        print(f"the launcher is gone: {error.strerror}", file=sys.stderr, flush=True)  # it finds the claim later
    os.dup2(2, 1)
