"""What the launcher hands over on stdin: one JSON object, ended by end of file.

A launcher that dies while writing leaves a truncated payload. A truncated JSON object is never a valid one, so such a
runner ends without claiming the run.
"""

from __future__ import annotations

import binascii
import json
import os

MAX_BYTES = 64 * 1024 * 1024
_KEY_BYTES = 32
_SHELL = [b"/bin/sh", b"-c"]
_MARK = b"RUNVOY_MARK"


class PayloadError(Exception):
    """The payload is truncated or malformed: nothing may be claimed."""


class Payload:
    """One attempt, ready to be run. Everything that reaches execve is bytes without NUL already.

    No NamedTuple and no dataclass: importing what makes them would take a tenth of the time until the command starts.
    """

    def __init__(self, fields: dict[str, object]) -> None:
        """Raises PayloadError, KeyError, TypeError or ValueError."""
        self.execution_id = _text(fields["execution_id"])
        self.attempt = int(_number(fields["attempt"]))
        self.execution_key = bytes.fromhex(_text(fields["execution_key"]))
        if len(self.execution_key) != _KEY_BYTES:
            raise PayloadError(f"the execution key has {len(self.execution_key)} bytes")
        self.argv = _argv(fields["command"])
        self.env = {_name(name): _word(value) for name, value in _mapping(fields.get("env")).items()}
        self.secrets = {_name(name): _secret(value) for name, value in _mapping(fields.get("secrets")).items()}
        self.timeout_seconds = _number(fields["timeout_seconds"])
        self.grace_seconds = _number(fields.get("grace_seconds", 30))
        # Where the runner is beside the command's container and uploads:
        self.start_seconds = _number(fields.get("start_seconds", 600))
        self.ship_seconds = _number(fields.get("ship_seconds", 600))
        self.grant = _mapping(fields.get("grant"))
        self.git = None if fields.get("git") is None else Checkout(_mapping(fields.get("git")))
        credentials = _mapping(fields.get("git_credentials"))
        self.git_credentials = {_name(name): _secret(value) for name, value in credentials.items()}
        self.max_log_bytes = int(_number(fields.get("max_log_bytes", 0)))  # 0 is no bound
        self.git_commit: str | None = None  # once it is checked out
        self.mark = b"[runvoy:%s]" % os.urandom(8).hex().encode() if self._aligns else b""
        """What the command writes on both streams where a step begins; empty if it writes none. Nobody else knows it."""
        if self.mark:
            self.env[_MARK] = self.mark

    @property
    def announces(self) -> bool:
        """Whether the command is a playbook, which says on stderr what it is about to run."""
        return self.argv[:2] == _SHELL and any(text.startswith(b"# playbook ") for text in self.argv[2:3])

    @property
    def _aligns(self) -> bool:
        return self.announces and _MARK in self.argv[2]

    @property
    def masked(self) -> dict[bytes, bytes]:
        """All that must not be seen in the log, by what it is called."""
        if not self.git_credentials:
            return self.secrets
        from runvoy_agent.runner.git_commands import PUBLIC, TOKEN, split_token

        found = self.secrets | {name: value for name, value in self.git_credentials.items() if name not in PUBLIC}
        if TOKEN in found:
            found[TOKEN + b" without its user"] = split_token(found[TOKEN])[1]
        return found

    def checkout_variables(self, shared_folder: str) -> dict[bytes, bytes]:
        """What the command is told of its checkout. In a folder that another user made (not "") git must be told to work."""
        if self.git_commit is None:
            return {}
        told = {b"RUNVOY_GIT_COMMIT": self.git_commit.encode()}
        if shared_folder and b"GIT_CONFIG_COUNT" not in self.env:
            trusted = {b"COUNT": b"1", b"KEY_0": b"safe.directory", b"VALUE_0": shared_folder.encode()}
            told |= {b"GIT_CONFIG_" + name: value for name, value in trusted.items()}
        return told


class Checkout:
    """A repository to clone before the command. `depth` 0 is the whole history."""

    def __init__(self, fields: dict[str, object]) -> None:
        self.repo, self.ref, self.path = (_argument(fields.get(name, "")) for name in ("repo", "ref", "path"))
        self.depth = int(_number(fields.get("depth", 1)))
        self.timeout_seconds = _number(fields.get("timeout_seconds", 600))
        if not self.repo or ".." in self.path.split("/") or self.path.startswith("/"):
            raise PayloadError("the repository has no address, or its folder leads out of it")


def parse(raw: bytes) -> Payload:
    """Raises PayloadError."""
    try:
        fields = json.loads(raw)
        if not isinstance(fields, dict):
            raise PayloadError("the payload is no object")
        return Payload(fields)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        # No repr: that of a UnicodeDecodeError holds the whole payload, secrets and all.
        raise PayloadError(f"the payload is malformed: {type(error).__name__}: {error}") from None


def _argv(command: object) -> list[bytes]:
    if isinstance(command, str):
        return [*_SHELL, _word(command)]
    if not isinstance(command, list) or not command:
        raise PayloadError("the command is neither text nor a list of words")
    return [_word(word) for word in command]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise PayloadError(f"text expected, not {type(value).__name__}")
    return value


def _argument(value: object) -> str:
    """What becomes an argument of git's: never an option."""
    text = _text(value)
    if text.startswith("-") or "\0" in text:
        raise PayloadError("an option cannot be part of a repository's address")
    return text


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
