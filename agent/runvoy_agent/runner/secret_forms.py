"""The forms in which a secret's value turns up in output: as it is, quoted by the usual tools, or encoded.

A value is looked for without the white space around it: what trails it (a newline, mostly) is no secret, and differs
between a file, a variable and what is printed. Each line of a value is looked for like a value of its own.
"""

from __future__ import annotations

import binascii
import json
import re
import urllib.parse

MIN_BYTES = 8  # anything shorter turns up by chance, and masking it would shred the output
# Of a value with more, single lines are looked for as they are: a key has 52, and setting up takes time.
ENCODED_LINES = 100

_CHARACTER_BITS = 6  # of base64
_SAFE = (
    "",  # Python's quote(safe=""), Go's QueryEscape, curl
    "/",  # Python's quote
    "!'()*",  # JavaScript's encodeURIComponent
    "$&+:=@",  # Go's PathEscape
    ";,/?:@&=+$!'()*#",  # JavaScript's encodeURI
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|.)")  # in JSON; whatever is escaped is passed over whole, a backslash too
_NO_HTML = {ord("<"): r"\u003c", ord(">"): r"\u003e", ord("&"): r"\u0026"}


def is_too_short(value: bytes) -> bool:
    """Whether there is something to hide, and too little of it."""
    return 0 < len(value.strip()) < MIN_BYTES


def forms(value: bytes) -> tuple[set[bytes], set[bytes]]:
    """The forms to look for: those that stand as they are, and those in base64 or hexadecimal, which tools wrap."""
    if len(value.strip()) < MIN_BYTES:
        return set(), set()
    plain: set[bytes] = set()
    encoded: set[bytes] = set()
    whole = value.strip()
    lines = {line for line in map(bytes.strip, value.splitlines()) if len(line) >= MIN_BYTES}
    plain |= lines
    for unit in {whole} | (lines if len(lines) <= ENCODED_LINES else set()):
        plain |= _quoted(unit) | _percent_encoded(unit)
        encoded |= _base64(unit)
        encoded |= {unit.hex().encode(), unit.hex().upper().encode()}
    return plain, encoded - plain


def _quoted(unit: bytes) -> set[bytes]:
    """As it is; inside JSON, a JSON text inside JSON, Python's repr, and a shell's single quotes (`set -x`)."""
    found = {unit, unit.replace(b"'", rb"'\''"), unit.replace(b"'", b"'\"'\"'")}
    # Which quotes repr takes, and so which it escapes, depends on all of the text around the secret.
    found |= {repr(unit)[2:-1].encode(), repr(b'"' + unit)[3:-1].encode()}
    # What is not UTF-8 is kept by some programs, and replaced by others.
    for text in {unit.decode("utf-8", "surrogateescape"), unit.decode("utf-8", "replace")}:
        found.add(_bytes(text))
        for inside in _json(text):
            found |= {_bytes(inside), _bytes(_dumped(inside, ascii_only=True))}
        for show in (repr, ascii):
            found |= {_bytes(show(text)[1:-1]), _bytes(show('"' + text)[2:-1])}
    return found


def _json(text: str) -> set[str]:
    """The text as the inside of a JSON string, as different libraries write it."""
    found = {_dumped(text, ascii_only=ascii_only) for ascii_only in (True, False)}
    found |= {_ESCAPE.sub(_upper_hex, inside) for inside in found}
    found |= {inside.replace("/", r"\/") for inside in found}  # PHP
    # Go and Rails keep JSON from being taken for HTML.
    return found | {inside.translate(_NO_HTML) for inside in found}


def _dumped(text: str, *, ascii_only: bool) -> str:
    return json.dumps(text, ensure_ascii=ascii_only)[1:-1]


def _upper_hex(escape: re.Match[str]) -> str:
    return rf"\u{escape[1].upper()}" if escape[1] else escape[0]


def _bytes(text: str) -> bytes:
    # surrogateescape gives the bytes back that were not UTF-8 to begin with.
    return text.encode("utf-8", "surrogateescape")


def _percent_encoded(unit: bytes) -> set[bytes]:
    some = {urllib.parse.quote_from_bytes(unit, safe).replace("%20", " ") for safe in _SAFE}
    # HTML forms and Java: these keep `*` and encode `~`.
    some.add(urllib.parse.quote_from_bytes(unit, "*").replace("~", "%7E").replace("%20", " "))
    some = {text.replace(" ", space) for text in some for space in ("%20", "+")}
    some.add("".join(f"%{byte:02X}" for byte in unit))
    return {text.encode() for text in some} | {_lower_hex(text).encode() for text in some}


def _lower_hex(text: str) -> str:
    first, *rest = text.split("%")
    return "%".join([first, *(part[:2].lower() + part[2:] for part in rest)])


def _base64(unit: bytes) -> set[bytes]:
    """What base64 makes of the unit wherever it begins in the encoded bytes: the characters it alone determines, and
    where it (or it and a newline, as from `echo`) ends the encoded bytes, the characters to the end."""
    found: set[bytes] = set()
    for offset in range(3):
        first = -(-offset * 8 // _CHARACTER_BITS)
        last = (offset + len(unit)) * 8 // _CHARACTER_BITS
        for tail in (b"", b"\n"):
            whole = binascii.b2a_base64(bytes(offset) + unit + tail, newline=False)
            found |= {whole[first:last], whole[first:].rstrip(b"="), whole[first:]}
    return found | {form.translate(bytes.maketrans(b"+/", b"-_")) for form in found}
