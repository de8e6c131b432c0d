"""Known answers: valid signed messages and every single-field tamper of them, each with what a reader must say.

`just vectors` writes vectors.json, which tests/unit/test_vectors.py and vectors.mjs hold three independent Ed25519s to.
What a vector must be answered with stands in this file, by hand: it is never asked of the code under test. The generator
uses runvoy's key and PAE, whose bytes the same tests rebuild without it.

Another implementation can use vectors.json as it is: every byte string in it is hex.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from runvoy_protocol import ids
from runvoy_protocol.envelope import PayloadType, pae
from runvoy_protocol.keys import SigningKey, key_id_of

FILE = Path(__file__).parent / "vectors.json"

KEY = SigningKey(bytes(range(32)))
OTHER = SigningKey(bytes(range(32, 64)))
ID = "019ab1c2d3e47f0089abcdef01234567"
AT = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)

OK = "OK"
INVALID = "INVALID_REQUEST"
FORGED = "SIGNATURE_INVALID"
TOO_LARGE = "TOO_LARGE"

Fields = list[Any]
Vector = dict[str, Any]

# Canonical by hand: fields in the order of docs/protocol.md, map keys sorted.
RUN: Fields = [1, "dep", ID, AT, AT + timedelta(minutes=5), ["sh", "-c", "exit 7"]]
RUN += ["img:1", {"A": "1", "B": "2"}, ["db"], ["prod"], "wait", 90, 60, 256, 512, ["https://e.example/r", "main", "p"]]
RUN += ["book", {"k": "v"}, "nightly", "container"]
RUN_NAMES = [
    "version",
    "deployment_id",
    "request_id",
    "issued_at",
    "expires_at",
    "command",
    "image",
    "env",
    "secrets",
    "locks",
    "if_locked",
    "timeout_seconds",
    "queue_timeout_seconds",
    "cpu",
    "memory_mib",
    "git",
    "playbook",
    "labels",
    "name",
    "isolation",
]
CALL: Fields = [1, "dep", "POST", "/api/v1/grants/inbox", bytes(32), AT, bytes(range(16))]
CALL_NAMES = ["version", "deployment_id", "method", "target", "body_sha256", "issued_at", "nonce"]

# Another good value of each field: under the old signature it is a forgery.
OTHER_RUN: Mapping[str, Any] = {
    "version": 2,
    "deployment_id": "deq",
    "request_id": "019ab1c2d3e47f0089abcdef01234568",
    "issued_at": AT + timedelta(seconds=1),
    "expires_at": AT + timedelta(minutes=6),
    "command": ["sh", "-c", "exit 0"],
    "image": "img:2",
    "env": {"A": "1", "B": "3"},
    "secrets": ["dc"],
    "locks": [],
    "if_locked": "fail",
    "timeout_seconds": 91,
    "queue_timeout_seconds": None,
    "cpu": None,
    "memory_mib": 513,
    "git": ["https://e.example/r", "mean", "p"],
    "playbook": None,
    "labels": {"k": "w"},
    "name": "nightlx",
    "isolation": "",
}
OTHER_CALL: Mapping[str, Any] = {
    "version": 2,
    "deployment_id": "deq",
    "method": "PUT",
    "target": "/api/v1/grants/outbox",
    "body_sha256": bytes(31) + b"\1",
    "issued_at": AT + timedelta(seconds=1),
    "nonce": bytes(range(1, 17)),
}

# Values that no reader may take although they are signed.
BAD_RUN: Mapping[str, list[tuple[str, Any, str]]] = {
    "version": [("newer", 2, INVALID), ("zero", 0, INVALID), ("text", "1", INVALID), ("true", True, INVALID)],
    "deployment_id": [("empty", "", INVALID), ("with a space", "a b", INVALID), ("nil", None, INVALID)],
    "request_id": [
        ("in capitals", ID.upper(), INVALID),
        ("a UUIDv4", "019ab1c2d3e44f0089abcdef01234567", INVALID),
        ("with a newline", ID + "\n", INVALID),
        ("short", ID[:-1], INVALID),
        ("as bytes", bytes.fromhex(ID), INVALID),
    ],
    "issued_at": [
        ("after it expires", AT + timedelta(minutes=6), INVALID),
        ("as text", "2026-02-03T04:05:06Z", INVALID),
        ("without a zone", "2026-02-03T04:05:06", INVALID),
        ("as a number", 1770091506, INVALID),
        ("before the year 1, in UTC", "0001-01-01T00:00:00+23:59", INVALID),
        ("after the year 9999, in UTC", "9999-12-31T23:59:59-23:59", INVALID),
    ],
    "expires_at": [
        ("at once", AT, INVALID),
        ("after more than an hour", AT + timedelta(hours=1, microseconds=1), INVALID),
        ("nil", None, INVALID),
    ],
    "command": [
        ("no word", [], INVALID),
        ("an empty first word", [""], INVALID),
        ("an empty line", "", INVALID),
        ("with NUL", ["a\0b"], INVALID),
        ("a number in it", ["sh", 1], INVALID),
    ],
    "image": [("empty", "", INVALID), ("with a newline", "a\nb", INVALID), ("513 characters", "a" * 513, INVALID)],
    "env": [
        ("a name with =", {"A=B": ""}, INVALID),
        ("a reserved name", {"RUNVOY_X": ""}, INVALID),
        ("a value with NUL", {"A": "\0"}, INVALID),
        ("a value that is no text", {"A": 1}, INVALID),
        ("a list", [["A", "1"]], INVALID),
    ],
    "secrets": [("twice the same", ["db", "db"], INVALID), ("65", [f"s{n}" for n in range(65)], INVALID)],
    "locks": [
        ("twice the same", ["a", "a"], INVALID),
        ("nine", [f"l{n}" for n in range(9)], INVALID),
        ("129 characters", ["a" * 129], INVALID),
        ("an empty name", [""], INVALID),
    ],
    "if_locked": [("another word", "ask", INVALID), ("nil", None, INVALID)],
    "timeout_seconds": [
        ("zero", 0, INVALID),
        ("over a week", 604_801, INVALID),
        ("negative", -1, INVALID),
        ("a fraction", 1.5, INVALID),
        ("over 64 bits", 2**64 - 1, INVALID),
    ],
    "queue_timeout_seconds": [("zero", 0, INVALID), ("over a week", 604_801, INVALID)],
    "cpu": [("63", 63, INVALID), ("16,385", 16_385, INVALID)],
    "memory_mib": [("63", 63, INVALID), ("122,881", 122_881, INVALID)],
    "git": [
        ("an option as repository", ["--upload-pack=x", "", ""], INVALID),
        ("an option as ref", ["https://e.example/r", "-x", ""], INVALID),
        ("an option as path", ["https://e.example/r", "", "-x"], INVALID),
        ("no repository", ["", "", ""], INVALID),
        ("its ref left out", ["https://e.example/r"], INVALID),
    ],
    "playbook": [("empty", "", INVALID), ("129 characters", "a" * 129, INVALID)],
    "labels": [
        ("an empty name", {"": "v"}, INVALID),
        ("a value of 257 characters", {"k": "v" * 257}, INVALID),
        ("33 of them", {f"k{n:02d}": "" for n in range(33)}, INVALID),
        ("a value with an escape", {"k": "\x1b[0m"}, INVALID),
    ],
    "name": [("empty", "", INVALID), ("129 characters", "a" * 129, INVALID)],
    "isolation": [("another word", "vm", INVALID), ("nil", None, INVALID)],
}
BAD_CALL: Mapping[str, list[tuple[str, Any, str]]] = {
    "version": [("newer", 2, INVALID), ("zero", 0, INVALID), ("text", "1", INVALID)],
    "deployment_id": [("nil", None, INVALID), ("as bytes", b"dep", INVALID)],
    "method": [("nil", None, INVALID), ("a number", 1, INVALID)],
    "target": [("nil", None, INVALID), ("a list", ["/"], INVALID), ("over 4 KiB", "/" * 4096, TOO_LARGE)],
    "body_sha256": [("nil", None, INVALID), ("hex", "00" * 32, INVALID)],
    "issued_at": [
        ("without a zone", "2026-02-03T04:05:06", INVALID),
        ("as text", "2026-02-03T04:05:06Z", INVALID),
        ("as a number", 1770091506, INVALID),
        ("before the year 1, in UTC", "0001-01-01T00:00:00+23:59", INVALID),
    ],
    "nonce": [("15 bytes", bytes(15), INVALID), ("17 bytes", bytes(17), INVALID), ("empty", b"", INVALID)],
}
# Good values at the edge of what is allowed.
GOOD_RUN: Mapping[str, list[tuple[str, Any]]] = {
    "request_id": [("a UUIDv8", "019ab1c2d3e48f00bfffffffffffffff")],
    "expires_at": [("after an hour", AT + timedelta(hours=1))],
    "issued_at": [("to the microsecond", AT + timedelta(microseconds=1))],
    "command": [("a line for the shell", "echo ü; echo $(date)"), ("empty words", ["printf", "", "ä\n"])],
    "image": [("nil", None), ("512 characters", "a" * 512)],
    "env": [("none", {}), ("an empty value", {"_": ""})],
    "secrets": [("64", [f"s{n}" for n in range(64)])],
    "locks": [("eight", [f"l{n}" for n in range(8)])],
    "timeout_seconds": [("one", 1), ("a week", 604_800)],
    "cpu": [("64", 64), ("16,384", 16_384)],
    "memory_mib": [("64", 64), ("122,880", 122_880)],
    "git": [("nil", None), ("a repository alone", ["https://e.example/r", "", ""])],
    "labels": [("32", {f"k{n:02d}": "" for n in range(32)})],
    "name": [("nil", None), ("128 characters", "n" * 128)],
    "isolation": [("left open", ""), ("a process", "process")],
}


def pack(value: object) -> bytes:
    """Msgpack of plain values; times become timestamps."""
    return msgspec.msgpack.encode(value)


def sign(kind: str, payload: bytes, key: SigningKey = KEY) -> list[Any]:
    return [key.key_id, key.sign(pae(kind, payload))]


def envelope(kind: str, payload: bytes, signatures: list[Any] | None = None, version: Any = 1) -> bytes:
    return pack([version, kind, payload, [sign(kind, payload)] if signatures is None else signatures])


def vector(kind: PayloadType, what: str, raw: bytes, answer: str, is_signed: bool | None) -> Vector:
    """`is_signed`: whether the key's first signature in it is good, whatever else is wrong; None where the bytes are no
    envelope, so that there is nothing to verify."""
    return {
        "what": f"{kind.name.lower().replace('_', ' ')}: {what}",
        "payload_type": kind.value,
        "envelope": raw.hex(),
        "answer": answer,
        "is_signed": is_signed,
    }


PAYLOADS: Mapping[PayloadType, bytes] = {
    PayloadType.RUN_REQUEST: pack(RUN),
    PayloadType.CONTROL: pack(CALL),
    # Reserved: what they hold is not decoded yet, so any bytes will do.
    PayloadType.BATCH: b"\x91\x01",
    PayloadType.CLAIM: b"\x91\x02",
}


def envelope_tampers(kind: PayloadType) -> Iterator[Vector]:
    """Each field of the envelope, changed alone."""
    payload, text = PAYLOADS[kind], kind.value
    (key_id, signature), second = sign(text, payload), sign(text, payload, OTHER)
    another = next(other for other in PayloadType if other is not kind)

    def v(what: str, raw: bytes, answer: str, is_signed: bool | None) -> Vector:
        return vector(kind, what, raw, answer, is_signed)

    def signed_by(*signatures: list[Any]) -> bytes:
        return envelope(text, payload, list(signatures))

    yield v("valid", envelope(text, payload), OK, True)
    yield v("valid, with a second signer before", signed_by(second, [key_id, signature]), OK, True)
    yield v("valid, with a second signer after", signed_by([key_id, signature], second), OK, True)
    yield v("envelope version: newer", envelope(text, payload, version=2), INVALID, None)
    yield v("envelope version: text", envelope(text, payload, version="1"), INVALID, None)
    yield v("payload_type: another", envelope(another.value, payload, [[key_id, signature]]), INVALID, False)
    yield v("payload_type: another, signed", envelope(another.value, payload), INVALID, True)
    yield v("payload_type: nobody's, signed", envelope("application/json", payload), INVALID, True)
    yield v("payload_type: as bytes", pack([1, text.encode(), payload, [[key_id, signature]]]), INVALID, None)
    for name, changed in (
        ("a bit", bytes([payload[0] ^ 1]) + payload[1:]),
        ("empty", b""),
        ("longer", payload + b"\0"),
    ):
        yield v(f"payload: {name}", envelope(text, changed, [[key_id, signature]]), FORGED, False)
    yield v("payload: as text", pack([1, text, "x", [[key_id, signature]]]), INVALID, None)
    yield v("signatures: none", signed_by(), FORGED, None)
    yield v("signatures: twice the same", signed_by([key_id, signature], [key_id, signature]), FORGED, True)
    crowd = [[f"{number}", b""] for number in range(8)]
    yield v("signatures: nine", signed_by([key_id, signature], *crowd), FORGED, True)
    yield v("signatures: eight", signed_by([key_id, signature], *crowd[:7]), OK, True)
    yield v("signatures: another's alone", signed_by(second), FORGED, None)
    yield v("key_id: another's", signed_by([OTHER.key_id, signature]), FORGED, None)
    yield v("key_id: in capitals", signed_by([key_id.upper(), signature]), FORGED, None)
    for name, changed in signature_tampers(signature):
        yield v(f"signature: {name}", signed_by([key_id, changed]), FORGED, False)
    yield v("signature: another's under this key id", signed_by([key_id, second[1]]), FORGED, False)
    yield v("signature: nil", signed_by([key_id, None]), INVALID, None)
    yield from encoding_tampers(kind)


def signature_tampers(signature: bytes) -> Iterator[tuple[str, bytes]]:
    order = 2**252 + 27742317777372353535851937790883648493
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    yield "a bit of R", bytes([signature[0] ^ 1]) + signature[1:]
    yield "the sign of R", signature[:31] + bytes([signature[31] ^ 0x80]) + signature[32:]
    yield "a bit of S", signature[:32] + bytes([signature[32] ^ 1]) + signature[33:]
    yield "S + L, the same S in another form", r + (s + order).to_bytes(32, "little")
    yield "-S", r + ((order - s) % order).to_bytes(32, "little")
    yield "S = 0", r + bytes(32)
    yield "R = 0", bytes(32) + signature[32:]
    yield "R = the identity, S = 0", b"\1" + bytes(63)
    yield "cut off", signature[:-1]
    yield "empty", b""
    yield "a byte too long", signature + b"\0"
    yield "R and S exchanged", signature[32:] + r


def encoding_tampers(kind: PayloadType) -> Iterator[Vector]:
    """The same envelope in bytes that are not its canonical ones, or not msgpack."""
    payload, text = PAYLOADS[kind], kind.value
    raw = envelope(text, payload)
    body = raw[1:]
    for what, changed in (
        ("with an element more", b"\x95" + body + b"\xc0"),
        ("with an element less", b"\x93" + body),
        ("in an array of 16-bit length", b"\xdc\x00\x04" + body),
        ("with its version in two bytes", raw[:1] + b"\xcc\x01" + raw[2:]),
        ("cut off", raw[:-1]),
        ("with a byte more", raw + b"\xc0"),
        ("twice", raw + raw),
        ("empty", b""),
        ("17 levels deep", b"\x91" * 17 + b"\xc0"),
        ("a byte that starts nothing", b"\xc1"),
    ):
        yield vector(kind, f"encoding: {what}", changed, INVALID, None)


def payload_tampers(
    kind: PayloadType,
    fields: Fields,
    names: list[str],
    other: Mapping[str, Any],
    bad: Mapping[str, list[tuple[str, Any, str]]],
) -> Iterator[Vector]:
    """Each field of the payload: another good value under the old signature, bad ones under a good signature."""
    text = kind.value
    signature = sign(text, pack(fields))

    def with_field(name: str, value: object) -> bytes:
        position = names.index(name)
        return pack([*fields[:position], value, *fields[position + 1 :]])

    for name in names:
        changed = with_field(name, other[name])
        yield vector(kind, f"{name}: changed after signing", envelope(text, changed, [signature]), FORGED, False)
        for what, value, answer in bad[name]:
            yield vector(kind, f"{name}: {what}", envelope(text, with_field(name, value)), answer, True)
    for what, changed in (
        ("with a field more", pack([*fields, None])),
        ("with its last field left out", pack(fields[:-1])),
        ("with something after it", pack(fields) + b"\0"),
        ("no array", pack({"version": 1})),
        ("not msgpack", b"\xc1"),
        ("of no bytes", b""),
    ):
        yield vector(kind, f"payload: {what}, signed", envelope(text, changed), INVALID, True)


def run_request_extras() -> Iterator[Vector]:
    kind = PayloadType.RUN_REQUEST
    for name, values in GOOD_RUN.items():
        position = RUN_NAMES.index(name)
        for what, value in values:
            payload = pack([*RUN[:position], value, *RUN[position + 1 :]])
            yield vector(kind, f"valid, {name}: {what}", envelope(kind.value, payload), OK, True)
    head, tail = pack(RUN).split(pack({"A": "1", "B": "2"}))
    for what, env in (
        ("unsorted", b"\x82\xa1B\xa12\xa1A\xa11"),
        ("a name twice", b"\x82\xa1A\xa11\xa1A\xa11"),
        ("a text longer than it need be", b"\x82\xd9\x01A\xa11\xa1B\xa12"),
        ("a text that is not UTF-8", b"\x82\xa1A\xa1\xff\xa1B\xa12"),
        ("a text with half a surrogate pair", b"\x82\xa1A\xa3\xed\xa0\x80\xa1B\xa12"),
    ):
        yield vector(kind, f"env: {what}, signed", envelope(kind.value, head + env + tail), INVALID, True)


def envelopes() -> list[Vector]:
    vectors = [vector for kind in PayloadType for vector in envelope_tampers(kind)]
    vectors += payload_tampers(PayloadType.RUN_REQUEST, RUN, RUN_NAMES, OTHER_RUN, BAD_RUN)
    vectors += run_request_extras()
    vectors += payload_tampers(PayloadType.CONTROL, CALL, CALL_NAMES, OTHER_CALL, BAD_CALL)
    return vectors


def api_keys() -> list[dict[str, Any]]:
    """The text form: what it parses to, or null for what must be refused."""
    good = KEY.to_api_key()
    seeds = [KEY, OTHER, SigningKey(bytes(32)), SigningKey(b"\xff" * 32), SigningKey(b"\xfb\xef" * 16)]
    vectors: list[dict[str, Any]] = [{"text": key.to_api_key(), "public_key": key.public_key.hex()} for key in seeds]
    vectors += [{"text": f" {good}\n", "public_key": KEY.public_key.hex()}]
    raw = base64.urlsafe_b64decode(good[5:])
    for text in (
        "",
        "rvk1_",
        good[5:],
        good.upper(),
        "rvk2_" + good[5:],
        good[:-1],
        good + "A",
        good + "=",
        good[:20] + " " + good[20:],
        good[:20] + "+/" + good[22:],
        seeds[4].to_api_key().replace("-", "+").replace("_", "/"),  # base64, which is not base64url
        "rvk1_" + base64.urlsafe_b64encode(raw[:32]).decode(),
        "rvk1_" + base64.urlsafe_b64encode(raw[:32] + raw[:31:-1]).decode(),  # the checksum little-endian
        "rvk1_" + base64.urlsafe_b64encode(bytes([raw[0] ^ 1]) + raw[1:]).decode(),
        "rvk1_" + base64.urlsafe_b64encode(raw[:35] + bytes([raw[35] ^ 1])).decode(),
    ):
        vectors.append({"text": text, "public_key": None})
    return vectors


def odd_keys() -> list[dict[str, Any]]:
    """Public keys that must not be registered. Points of the 8-torsion subgroup, and KEY plus one of them, by number."""
    p = 2**255 - 19
    order_8 = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"
    other_8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
    numbers = {
        "the identity": 1,
        "order 2": p - 1,
        "order 4": 0,
        "order 4, x negative": 1 << 255,
        "the identity, not canonical (y + p)": p + 1,
        "order 4, not canonical (y = p)": p,
        "the identity, x negative": 1 | 1 << 255,
        "off the curve": 2,
        "y = 2^255 - 1": 2**255 - 1,
    }
    keys = [{"what": what, "public_key": number.to_bytes(32, "little").hex()} for what, number in numbers.items()]
    keys += [{"what": "order 8", "public_key": order_8}, {"what": "order 8, another", "public_key": other_8}]
    # KEY's point plus the point of order 2, (0, -1): its y and x negated, so y becomes p - y and the sign flips.
    encoded = int.from_bytes(KEY.public_key, "little")
    y, sign_of_x = encoded % 2**255, encoded >> 255
    mixed = (p - y) | (1 - sign_of_x) << 255
    keys += [{"what": "a good key plus order 2: mixed order", "public_key": mixed.to_bytes(32, "little").hex()}]
    keys += [{"what": f"{size} bytes", "public_key": bytes(size).hex()} for size in (0, 31, 33)]
    return keys


def document() -> dict[str, Any]:
    texts = ["deploy-42", "", "ü", "a\0b", "x" * 200]
    pae_inputs = [("", b""), ("http://example.com/HelloWorld", b"hello world"), ("ü", bytes(range(256)))]
    pae_inputs += [(kind.value, b"\x91\x01") for kind in PayloadType]
    at = datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)
    randoms = (bytes(10), b"\xff" * 10, bytes(range(10)))
    return {
        "what": "Made by vectors.py beside this file; docs/protocol.md says what the fields mean. Byte strings are hex.",
        "key": {"seed": bytes(range(32)).hex(), "public_key": KEY.public_key.hex(), "key_id": KEY.key_id},
        "envelopes": envelopes(),
        "api_keys": api_keys(),
        "odd_keys": odd_keys(),
        "key_ids": [
            {"public_key": raw.hex(), "key_id": key_id_of(raw)} for raw in (KEY.public_key, bytes(32), b"\xff" * 32)
        ],
        "pae": [{"type": kind, "payload": raw.hex(), "pae": pae(kind, raw).hex()} for kind, raw in pae_inputs],
        "uuid8": [{"key_id": KEY.key_id, "text": text, "id": KEY.execution_id_of(text)} for text in texts],
        "uuid7": [{"ms": int(at.timestamp() * 1000), "random": raw.hex(), "id": ids.uuid7(at, raw)} for raw in randoms],
    }


def text() -> str:
    return json.dumps(document(), indent=0, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
