"""Structure-aware mutation: what is fuzzed is read as the document it is, changed in a place or two, and written again.

Flipping bytes alone finds the first check of a decoder, again and again. Every choice comes from a `random.Random`:
Hypothesis draws one that it can shrink, a long run seeds one, atheris hands over its seed.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from random import Random
from typing import Any, NamedTuple

import msgspec
import yaml

MAX_BYTES = 300_000

_NUMBERS: tuple[Any, ...] = (0, 1, -1, 2, 7, 16, 127, 128, 255, 256, 999, 65_535, 2**31, 2**32, 2**53, 2**53 + 1)
_NUMBERS += (2**63 - 1, 2**63, 2**64 - 1, -(2**63), 0.5, -0.0, 1e308, 253_402_300_799_999, 253_402_300_800_000)
_TEXTS: tuple[str, ...] = (
    "", " ", "\n", "a", "0", "-1", "null", "true", "~", "-", "--", "=", "a=b", "/", "..", "../..", "//", "%", "%00", "%2e%2e%2f",
    "%ff", "+", "\0", "a\0b", "\x1b[2J", "\x1b]52;c;eA==\x07", "\x1bP", "\x9b31m", "\r", "\r\n", "\x7f", "ä", "é", "\u202e",
    "\u2028", "\ufeff", "\uffff", "\U0001f600", "１２", "²", "٣", "9" * 25, "9" * 400, "1e9", "NaN", "Infinity", "0x10", "1_000",
    "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-02-03T04:05:08", "2026-02-03T04:05:08.1234567Z",
    "2026-02-30T00:00:00Z", "99999d", "1d1h1m1s", "wait=25", "wait=9999", "http://", "http://[::1", "http://a:b", "//x",
    "https://h:99999", "http://127.0.0.1:1/x", "https://\u2100", "eA==", "eA", "019ab1c2d3e47f0089abcdef01234567",
    "ffffffffffff7fffbfffffffffffffff", "a" * 32, "A" * 53, "accepted", "refused", "admitted", "pending", "RUNNING", "SUCCEEDED",
    "CLOCK_SKEW", "server_time", "starts-with", "$key", "eq", "x" * 300, "k" * 5_000,
)  # fmt: skip
_BYTES: tuple[bytes, ...] = (
    b"\0", b"\xff", b"\xc1", b"\xc0", b"\x91" * 20, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\xff", b"\xd6\xff\0\0\0\0", b"\xd7\xff" + b"\xff" * 8, b"[" * 30, b"{", b'"',
    b"\\", b"\\ud800", b"\\u0000", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\xc2\x9b", b"\xe2\x80\xae", b"\x1b[",
    b"\x1b]0;", b"\x07", b"\r", b"\n", b"\r\n", b"--", b"- ", b": ", b"!!python/object:x {}", b"&a [*a]", b"<<: *a", b"%YAML 9.9",
    b"\t", b"=", b"&", b";", b",", b"%", b"9" * 30, b"-", b"1e999", b"null", b"true",
)  # fmt: skip

Path = tuple[Any, ...]


class Format(NamedTuple):
    """How a document's bytes become a tree and a tree becomes bytes. Either may raise: then bytes are mutated."""

    load: Callable[[bytes], Any]
    dump: Callable[[Any], bytes]


def _dump_json(tree: Any) -> bytes:
    return json.dumps(tree, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _load_lines(raw: bytes) -> list[Any]:
    return [json.loads(line) for line in gzip.decompress(raw).splitlines()]


def _dump_lines(lines: Any) -> bytes:
    assert isinstance(lines, list)
    return gzip.compress(b"".join(_dump_json(line) + b"\n" for line in lines), 1, mtime=0)


def _no_tree(_: Any) -> Any:
    raise ValueError("this format is bytes only")


MSGPACK = Format(msgspec.msgpack.decode, msgspec.msgpack.encode)
JSON = Format(json.loads, _dump_json)
YAML = Format(yaml.safe_load, lambda tree: yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode())
GZIP_LINES = Format(_load_lines, _dump_lines)
GZIP_MSGPACK = Format(
    lambda raw: msgspec.msgpack.decode(gzip.decompress(raw)),
    lambda tree: gzip.compress(msgspec.msgpack.encode(tree), 1, mtime=0),
)
TEXT = Format(_no_tree, _no_tree)


def mutate(raw: bytes, kind: Format, random: Random) -> bytes:
    """`raw` changed in one to three places; never longer than MAX_BYTES."""
    mutated = raw
    for _ in range(random.randint(1, 3)):
        mutated = _mutate_once(mutated, kind, random)
    return mutated[:MAX_BYTES]


def _mutate_once(raw: bytes, kind: Format, random: Random) -> bytes:
    if random.random() < 0.7:
        try:
            return kind.dump(_mutate_tree(kind.load(raw), random))
        except Exception:  # noqa: BLE001 - some trees cannot be read or written in some formats
            return _mutate_bytes(raw, random)
    return _mutate_bytes(raw, random)


def _mutate_tree(tree: Any, random: Random) -> Any:
    path = random.choice(list(_paths(tree)))
    return _at(tree, path, lambda node: _change(node, random))


def _paths(tree: Any, prefix: Path = ()) -> list[Path]:
    found: list[Path] = [prefix]
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for step, child in children:
        if len(prefix) < 12:
            found += _paths(child, (*prefix, step))
    return found


def _at(tree: Any, path: Path, change: Callable[[Any], Any]) -> Any:
    if not path:
        return change(tree)
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = _at(copy[path[0]], path[1:], change)
    return copy


def _change(node: Any, random: Random) -> Any:
    if random.random() < 0.35:
        return _any_value(random, 0)
    if isinstance(node, bool) or node is None:
        return random.choice([None, True, False, 0, ""])
    if isinstance(node, int | float):
        return random.choice([node + 1, node - 1, -node, node * 2, random.choice(_NUMBERS), str(node), float(node)])
    if isinstance(node, str):
        return _change_text(node, random)
    if isinstance(node, bytes):
        return _mutate_bytes(node, random)
    if isinstance(node, list):
        return _change_list(node, random)
    if isinstance(node, dict):
        return _change_dict(node, random)
    return _any_value(random, 0)


def _change_text(text: str, random: Random) -> Any:
    piece = random.choice(_TEXTS)
    position = random.randint(0, len(text))
    match random.randint(0, 6):
        case 0:
            return piece
        case 1:
            return text[:position] + piece + text[position:]
        case 2:
            return text[:position] + text[position + 1 :]
        case 3:
            return text * random.choice([2, 3, 50])
        case 4:
            return random.choice([text.upper(), text.lower(), text.title(), text[::-1], text.encode().hex()])
        case 5:
            return (
                text[:position]
                + chr(random.choice([0, 9, 0x1B, 0x7F, 0x9B, 0xE9, 0x202E, 0xFFFD, 0x1F600]))
                + text[position:]
            )
        case _:
            return text[:position]


def _change_list(items: list[Any], random: Random) -> Any:
    changed = list(items)
    position = random.randint(0, len(items))
    match random.randint(0, 4):
        case 0:
            changed.insert(position, _any_value(random, 1))
        case 1:
            del changed[position : position + 1]
        case 2:
            changed[position:position] = items[position : position + 1] * random.choice([1, 2, 100])
        case 3:
            random.shuffle(changed)
        case _:
            return {str(number): item for number, item in enumerate(items)}
    return changed


def _change_dict(fields: dict[Any, Any], random: Random) -> Any:
    if not fields:
        return {random.choice(_TEXTS): _any_value(random, 1)}
    name = random.choice(list(fields))
    changed = dict(fields)
    match random.randint(0, 4):
        case 0:
            del changed[name]
        case 1:
            changed[random.choice(_TEXTS)] = changed.pop(name)
        case 2:
            changed[random.choice(_TEXTS)] = _any_value(random, 1)
        case 3:
            other = random.choice(list(fields))
            changed[name], changed[other] = changed[other], changed[name]
        case _:
            return list(fields.items())
    return changed


def _any_value(random: Random, depth: int) -> Any:
    match random.randint(0, 8 if depth < 2 else 6):
        case 0:
            return None
        case 1:
            return random.choice([True, False])
        case 2 | 3:
            return random.choice(_NUMBERS)
        case 4 | 5:
            return random.choice(_TEXTS)
        case 6:
            nested: Any = random.choice([[], {}, 1])
            for _ in range(random.choice([1, 2, 15, 16, 40])):
                nested = [nested] if random.random() < 0.8 else {"a": nested}
            return nested
        case 7:
            return [_any_value(random, depth + 1) for _ in range(random.randint(0, 3))]
        case _:
            return {random.choice(_TEXTS): _any_value(random, depth + 1) for _ in range(random.randint(0, 3))}


def _mutate_bytes(raw: bytes, random: Random) -> bytes:
    position = random.randint(0, len(raw))
    end = min(len(raw), position + random.choice([1, 1, 2, 4, 16, 200]))
    match random.randint(0, 7):
        case 0 if raw:
            position = random.randrange(len(raw))
            return raw[:position] + bytes([raw[position] ^ 1 << random.randint(0, 7)]) + raw[position + 1 :]
        case 1 if raw:
            position = random.randrange(len(raw))
            return raw[:position] + bytes([random.randint(0, 255)]) + raw[position + 1 :]
        case 2:
            return raw[:position] + raw[end:]
        case 3:
            return raw[:position] + raw[position:end] * random.choice([2, 3, 64]) + raw[end:]
        case 4:
            return raw[:position]
        case 5:
            begin = random.randint(0, len(raw))
            return raw[:position] + raw[begin : begin + 40] + raw[position:]
        case 6:
            return raw[:position] + random.choice(_TEXTS).encode() + raw[end:]
        case _:
            return raw[:position] + random.choice(_BYTES) + raw[end:]


def form_to_bytes(fields: list[Any], boundary: str) -> bytes:
    """A multipart body of what a mutated tree says: [[disposition, content], …]."""
    parts = []
    for field in fields:
        head, content = field if isinstance(field, list) and len(field) == 2 else (field, "")
        parts.append(f"--{boundary}\r\n".encode() + as_bytes(head) + b"\r\n\r\n" + as_bytes(content) + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def as_text(value: Any) -> str:
    """What a mutated tree holds where text was, as text that can be encoded."""
    text = value if isinstance(value, str) else str(value)
    return text.encode("utf-8", "replace").decode()


def as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else as_text(value).encode()


def as_fields(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict):
        return {}
    return {as_text(name): as_text(field) for name, field in value.items()}


AT = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
