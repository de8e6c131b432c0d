"""What the launcher hands over on stdin: one JSON object, ended by end of file.

A launcher that dies while writing leaves a truncated payload. A truncated JSON object is never a valid one, so such a
runner ends without claiming the run.
"""

from __future__ import annotations

import binascii
import json
from typing import NamedTuple

MAX_BYTES = 64 * 1024 * 1024
_KEY_BYTES = 32


class PayloadError(Exception):
    """The payload is truncated or malformed: nothing may be claimed."""


class Payload(NamedTuple):
    """One attempt, ready to be run. Everything that reaches execve is bytes without NUL already."""

    execution_id: str
    attempt: int
    execution_key: bytes
    argv: list[bytes]
    env: dict[bytes, bytes]
    secrets: dict[bytes, bytes]
    timeout_seconds: float
    grace_seconds: float


def parse(raw: bytes) -> Payload:
    """Raises PayloadError."""
    try:
        fields = json.loads(raw)
        if not isinstance(fields, dict):
            raise PayloadError("the payload is no object")
        return _payload(fields)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise PayloadError(f"the payload is malformed: {error!r}") from error


def _payload(fields: dict[str, object]) -> Payload:
    key = bytes.fromhex(_text(fields["execution_key"]))
    if len(key) != _KEY_BYTES:
        raise PayloadError(f"the execution key has {len(key)} bytes")
    secrets = _mapping(fields.get("secrets"))
    return Payload(
        execution_id=_text(fields["execution_id"]),
        attempt=int(_number(fields["attempt"])),
        execution_key=key,
        argv=_argv(fields["command"]),
        env={_name(name): _word(value) for name, value in _mapping(fields.get("env")).items()},
        secrets={_name(name): _secret(value) for name, value in secrets.items()},
        timeout_seconds=_number(fields["timeout_seconds"]),
        grace_seconds=_number(fields.get("grace_seconds", 30)),
    )


def _argv(command: object) -> list[bytes]:
    if isinstance(command, str):
        return [b"/bin/sh", b"-c", _word(command)]
    if not isinstance(command, list) or not command:
        raise PayloadError("the command is neither text nor a list of words")
    return [_word(word) for word in command]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise PayloadError(f"text expected, not {type(value).__name__}")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        raise PayloadError("a number from 0 was expected")
    return value


def _mapping(value: object) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise PayloadError("an object of names and values was expected")
    return value


def _word(value: object) -> bytes:
    """UTF-8 whatever the locale says, so that arguments arrive byte for byte."""
    word = _text(value).encode("utf-8", "surrogateescape")
    if b"\0" in word:
        raise PayloadError("a NUL cannot be part of an argument or a variable")
    return word


def _name(value: object) -> bytes:
    name = _word(value)
    if not name or b"=" in name:
        raise PayloadError("the name of a variable is empty or holds '='")
    return name


def _secret(value: object) -> bytes:
    """Raises binascii.Error, a ValueError, for what is not base64."""
    raw = binascii.a2b_base64(_text(value), strict_mode=True)
    if b"\0" in raw:
        raise PayloadError("a secret with a NUL cannot be a variable")
    return raw
