"""The Secrets port on a folder: NaCl secret boxes under a key file.

`key` (0600) is all that protects the rest: back it up apart from the folder, or not at all. A secret's file is named by a
keyed hash of its name, and its box holds the name too, so that files cannot be swapped.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from pathlib import Path

import nacl.exceptions
import nacl.secret
import nacl.utils

from runvoy_agent.local.durable import make_private_folder, sync, temporary_file, unavailable
from runvoy_agent.ports import PreconditionFailed, Unavailable

_KEY_FILE = "key"
_SUFFIX = ".secret"
_NAME_LENGTH_BYTES = 4


class FolderSecrets:
    """Secrets of any name and value, for any number of threads and processes."""

    def __init__(self, folder: Path) -> None:
        """Open or make the folder; the key is made at first use. Raises Unavailable."""
        self._folder = folder
        self._temporary = folder / ".tmp"
        self._lock = threading.Lock()  # guards the next
        self._master_key: bytes | None = None
        with unavailable(str(folder)):
            for path in (folder, self._temporary):
                make_private_folder(path)

    def put(self, name: str, value: bytes, *, if_absent: bool = False) -> None:
        with unavailable(f"{self._folder}: cannot store a secret"):
            path, box = self._place(name)
            with temporary_file(self._temporary, box.encrypt(_framed(name) + value)) as temporary:
                try:
                    if if_absent:
                        path.hardlink_to(temporary)
                    else:
                        temporary.rename(path)
                except FileExistsError as error:
                    raise PreconditionFailed(f"the secret {name!r} exists") from error
            self._sync_folder()

    def get(self, name: str) -> bytes | None:
        """The value; Unavailable if its file is damaged or was made under another key."""
        with unavailable(f"{self._folder}: cannot read a secret"):
            path, box = self._place(name)
            try:
                sealed = path.read_bytes()
            except FileNotFoundError:
                return None
        try:
            framed = box.decrypt(sealed)
        except (nacl.exceptions.CryptoError, ValueError) as error:
            raise Unavailable(
                f"the secret {name!r} cannot be decrypted: its file or the key file is damaged"
            ) from error
        if not framed.startswith(_framed(name)):
            raise Unavailable(f"the secret {name!r} cannot be decrypted: its file is another secret's")
        return framed[len(_framed(name)) :]

    def delete(self, name: str) -> None:
        with unavailable(f"{self._folder}: cannot delete a secret"):
            path, _ = self._place(name)
            path.unlink(missing_ok=True)
            self._sync_folder()

    def _place(self, name: str) -> tuple[Path, nacl.secret.SecretBox]:
        with self._lock:
            if self._master_key is None:
                self._master_key = self._load_key()
            master_key = self._master_key
        file_key = hashlib.blake2b(key=master_key, person=b"runvoy-names").digest()
        file_name = hashlib.blake2b(_encoded(name), key=file_key, digest_size=32).hexdigest()
        box_key = hashlib.blake2b(key=master_key, person=b"runvoy-values", digest_size=32).digest()
        return self._folder / f"{file_name}{_SUFFIX}", nacl.secret.SecretBox(box_key)

    def _load_key(self) -> bytes:
        path = self._folder / _KEY_FILE
        if not path.exists():
            if any(self._folder.glob(f"*{_SUFFIX}")) and not path.exists():
                raise Unavailable(f"{path} is gone, and without it the secrets beside it cannot be read")
            with (
                temporary_file(self._temporary, nacl.utils.random(nacl.secret.SecretBox.KEY_SIZE)) as temporary,
                contextlib.suppress(FileExistsError),  # one of several processes wins
            ):
                path.hardlink_to(temporary)  # whole from its first moment
        self._sync_folder()  # before anything is sealed under the key: the winner may not have come to it yet
        master_key = path.read_bytes()
        if len(master_key) != nacl.secret.SecretBox.KEY_SIZE:
            raise Unavailable(f"{path} is damaged: it has {len(master_key)} bytes")
        return master_key

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _framed(name: str) -> bytes:
    """What stands before the value in the box: the name, with its length."""
    encoded = _encoded(name)
    return len(encoded).to_bytes(_NAME_LENGTH_BYTES, "big") + encoded
