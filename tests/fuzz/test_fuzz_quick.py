"""Every fuzz target for a moment, driven by Hypothesis; `just fuzz MINUTES` is the long form.

`RUNVOY_FUZZ_EXAMPLES` sets how many inputs each gets.
"""

from __future__ import annotations

import gzip
import json
import os
import time
import tracemalloc
from collections.abc import Callable
from functools import cache
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fuzz import known
from tests.fuzz.engine import TARGETS, judge
from tests.fuzz.mutators import mutate
from tests.fuzz.targets import Target

from runvoy_protocol.codec import MAX_ENVELOPE_BYTES

EXAMPLES = int(os.environ.get("RUNVOY_FUZZ_EXAMPLES", "250"))
# Their share of the examples, for they use the disk or a slow library.
SLOW = {
    "delivery": 0.05,
    "batch-delivery": 0.05,
    "control-api": 0.3,
    "members-api": 0.3,
    "config": 0.1,
    "playbook": 0.15,
    "request-file": 0.15,
    "request-file-json": 0.15,
    "values": 0.4,
    "cache": 0.2,
    "follow": 0.4,
    "bulk-json": 0.4,
    "bulk-yaml": 0.15,
}
MIB = 1024 * 1024
GZIP = b"\x1f\x8b"


@pytest.mark.parametrize("name", TARGETS)
def test_a_seed_is_what_is_expected_of_it(name: str) -> None:
    """A target whose seeds are refused would fuzz nothing but the first check."""
    answers = {TARGETS[name].run(seed) for seed in TARGETS[name].seeds}
    assert (
        answers & {"decoded", "decoded True", "answered", "200", "200 OK", "204 No Content", "changed"}
        or name == "values"
    )


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_uncaught(name: str) -> None:
    target = TARGETS[name]

    # Two ways to the same mutators. The first draws every choice, so a failure shrinks; the second, a number, is faster.
    @settings(max_examples=max(10, EXAMPLES // 10), suppress_health_check=list(HealthCheck))
    @given(seed=st.sampled_from(target.seeds), random=st.randoms(use_true_random=False))
    def drawn(seed: bytes, random: Random) -> None:
        judge(target, mutate(seed, target.format, random))

    drawn()
    random = Random(f"quick {name}")
    for _ in range(int(EXAMPLES * 4 * SLOW.get(name, 1))):
        raw = mutate(random.choice(target.seeds), target.format, random)
        try:
            judge(target, raw)
        except Exception as error:
            raise AssertionError(f"{name} on {raw!r}") from error


def _deep(opening: bytes, closing: bytes = b"") -> bytes:
    return opening * 100_000 + closing * 100_000


# What is small and may become large: nesting, claimed lengths, many small things, and what compresses well.
@cache
def bombs() -> dict[str, bytes]:
    return {
        "JSON arrays": _deep(b"[", b"]"),
        "JSON objects": _deep(b'{"a":', b"}"),
        "a field nested in a result": json.dumps({"body": "x", "mac": "y"})[:-1].encode() + b',"z":' + _deep(b"[", b"]") + b"}",
        "msgpack arrays": _deep(b"\x91"),
        "msgpack maps": _deep(b"\x81\xa1a"),
        "a claimed array": b"\x94\x01\xdd\xff\xff\xff\xff",
        "a claimed map": b"\x94\x01\xdf\xff\xff\xff\xff",
        "a claimed text": b"\x94\x01\xdb\xff\xff\xff\xff",
        "many nothings": b"\xdd\x00\x00\xff\xf0" + b"\xc0" * 0xFFF0,
        "many empty lists": b"\xdd\x00\x00\xff\xf0" + b"\x90" * 0xFFF0,
        "digits": b"9" * 200_000,
        "a long text": b'"' + b"a" * 200_000 + b'"',
        "escapes": b'"' + b"\\u0041" * 40_000 + b'"',
        "gzip of zeros": gzip.compress(bytes(64 * MIB), 1),
        "gzip of newlines": gzip.compress(b"\n" * (31 * MIB)),
        "gzip of small records": gzip.compress(b'{"n":1,"t":0,"s":"out"}\n' * 100_000, 1),
        "gzip of one long line": gzip.compress(b'{"n":1,"t":0,"s":"out","m":"' + b"a" * (31 * MIB) + b'"}'),
        "gzip in gzip": gzip.compress(gzip.compress(bytes(40 * MIB), 1), 1),
        "YAML anchors": b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(b"%c: &%c [%b]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9)) for n in range(98, 110)),
        "YAML arrays": b"a: " + b"[" * 5_000,
        "YAML of many lines": b"a: b\n" * 20_000,
        "escape sequences": b"\x1b[" * 50_000 + b"\x1b]" * 50_000,
        "returns": b"\r" * 200_000,
        "one open sequence": b"\x1b[" + b"0;" * 100_000,
        "colours": b"\x1b[1;31;42m" * 20_000,
        "slashes": b"/" * 200_000,
        "percent": b"%41" * 60_000 + b"&a=b" * 20_000,
    }  # fmt: skip


# A log chunk is decoded whole: 32 MiB of text at most, and what its records take. At worst (1.4 million empty records)
# that is 170 MiB, measured; here it is a tenth of them, which take a while to count.
_ALLOWED_MIB = {"log-chunk": 160, "log-chunk-text": 160, "batch": 48}


@pytest.mark.slow
@pytest.mark.xdist_group("bombs")  # they take a second to make
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_small_becomes_large(name: str) -> None:
    target = TARGETS[name]
    for what, raw in bombs().items():
        if name in _SIGNERS and len(raw) > MAX_ENVELOPE_BYTES:
            continue  # the target itself would be the one that builds something large
        if (name, what) in known.DEADLY:
            continue
        seconds, peak = _cost(target, raw)
        assert peak < _ALLOWED_MIB.get(name, 24) * MIB + 12 * len(raw), f"{what}: {peak / MIB:.0f} MiB"
        assert seconds < 30, f"{what}: {seconds:.1f} s"


_SIGNERS = {"delivery", "batch-delivery", "started", "result"}


def _cost(target: Target, raw: bytes) -> tuple[float, int]:
    began = time.monotonic()
    tracemalloc.start()
    try:
        judge(target, raw)
        return time.monotonic() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_same_seed_makes_the_same_inputs() -> None:
    def inputs(seed: int) -> list[bytes]:
        random = Random(seed)
        return [mutate(raw, target.format, random) for target in TARGETS.values() for raw in target.seeds]

    assert inputs(1) == inputs(1)
    assert inputs(1) != inputs(2)


def test_inputs_do_not_tell_when_they_were_made() -> None:
    """gzip writes the second into its header (RFC 1952, MTIME): then the same seed makes other bytes a second later."""
    made = [raw for target in TARGETS.values() for raw in target.seeds]
    made += [
        target.format.dump(target.format.load(raw))
        for target in TARGETS.values()
        for raw in target.seeds
        if raw[:2] == GZIP
    ]
    zipped = [raw for raw in made if raw[:2] == GZIP]
    assert len(zipped) > 4
    assert {raw[4:8] for raw in zipped} == {bytes(4)}


def test_a_target_that_raises_is_found() -> None:
    """The harness itself: a bug in a decoder does not pass for an answer."""

    def run(decode: Callable[[bytes], object]) -> str:
        return judge(Target("planted", TARGETS["status"].format, (b"{}",), lambda raw: str(decode(raw))), b"[]")

    assert run(json.loads) == "[]"
    with pytest.raises(AttributeError):
        run(lambda raw: json.loads(raw).items())
