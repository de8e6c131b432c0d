"""New keys on this machine: made, kept until the deployment knows them, then handed to whoever asked.

A key is written down before its public half is sent. Whoever is cut off in between tries again with the same key, and the
deployment gives the same answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from runvoy_cli.home.files import private_folder, told_about, write_private
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.keys import SEED_BYTES, SigningKey

_FOLDER = "pending_keys"


def make() -> SigningKey:
    return SigningKey(os.urandom(SEED_BYTES))


@contextlib.contextmanager
def pending(home: Path, purpose: str) -> Iterator[SigningKey]:
    """The key for a purpose: the one that an earlier try left, or a new one. Forgotten once the block has come to its end,
    or once the deployment refused it for good; kept if anything else cuts the block off."""
    with told_about(home):
        key = _left(_path(home, purpose))
        if key is None:
            key = make()
            private_folder(home / _FOLDER)
            write_private(_path(home, purpose), f"{key.to_api_key()}\n{purpose}\n".encode())
    try:
        yield key
    except RunvoyError as error:
        if not error.retryable:
            forget(home, purpose)
        raise
    forget(home, purpose)


def unfinished_purpose(home: Path, key: SigningKey) -> str | None:
    """What `key` was made for, if whatever it was made for was never finished."""
    for path in sorted((home / _FOLDER).glob("*")):
        left = _left(path)
        if left is not None and left.key_id == key.key_id:
            return path.read_text(encoding="utf-8", errors="replace").splitlines()[1]
    return None


def forget(home: Path, purpose: str) -> None:
    _path(home, purpose).unlink(missing_ok=True)


def _path(home: Path, purpose: str) -> Path:
    return home / _FOLDER / hashlib.sha256(purpose.encode()).hexdigest()[:32]


def _left(path: Path) -> SigningKey | None:
    try:
        key, purpose = path.read_text(encoding="ascii", errors="replace").splitlines()
        return SigningKey.from_api_key(key) if purpose else None
    except (FileNotFoundError, ValueError, RunvoyError):
        return None  # a damaged one was never registered whole: nobody can have it
