"""Requests on their way: what a file of the inbox stands for is on disk, with its id, before it is sent.

An entry lies under the digest of the file's name and content, so that the same file after a crash is the same request. It
goes once the file and its receipt are where they belong; the same file dropped again after that is a new request.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import msgspec

from runvoy_protocol import requests
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.receipts import Receipt
from runvoy_protocol.requests import RunRequest
from runvoy_sync.tree import STATE, Tree

_FOLDER = (*STATE, "outgoing")


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`name` and `content` are the file's, bytes as they are; `request` is canonical, its times are set at each sending."""

    name: bytes
    content: bytes
    request: bytes
    version: int = 1
    receipt: Receipt | None = None
    committed: str | None = None  # the path in the repository, of a request that was committed to Git

    @property
    def file_name(self) -> str:
        return os.fsdecode(self.name)

    def run_request(self) -> RunRequest:
        return requests.decode(self.request)


class Outgoing:
    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    @staticmethod
    def tag(name: str, content: bytes) -> str:
        return hashlib.sha256(os.fsencode(name) + b"\0" + content).hexdigest()[:32]

    def get(self, tag: str) -> Entry | None:
        """The entry of a file, if it was begun. A damaged one is INTERNAL: its file may have been sent, so it is no new one."""
        raw = self._tree.read(*_FOLDER, f"{tag}.json")
        if raw is None:
            return None
        try:
            entry = msgspec.json.decode(raw, type=Entry)
            entry.run_request()
        except (msgspec.MsgspecError, RunvoyError, UnicodeDecodeError, RecursionError) as error:
            raise RunvoyError(
                ErrorCode.INTERNAL,
                f"{'/'.join(_FOLDER)}/{tag}.json is damaged: {error}",
                "Its request may have been sent already. Remove that file to have it sent as a new one.",
            ) from error
        return entry

    def put(self, tag: str, entry: Entry) -> None:
        """Durable when it returns, its name as well."""
        self._tree.write(*_FOLDER, f"{tag}.json", content=msgspec.json.encode(entry), is_name_durable=True)

    def remove(self, tag: str) -> None:
        self._tree.remove(*_FOLDER, f"{tag}.json")

    def tags(self) -> Iterator[str]:
        for name in sorted(self._tree.names(*_FOLDER)):
            if name.endswith(".json") and not name.startswith("."):
                yield name.removesuffix(".json")
