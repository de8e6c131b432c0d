"""Listing a folder of objects in the order of their keys."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from runvoy_agent.ports import ObjectInfo
from runvoy_protocol import object_keys

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Wanted(NamedTuple):
    """Which objects a listing is to find."""

    prefix: str
    after: str
    up_to: str | None
    limit: int

    def may_hold(self, path: str, name: str) -> bool:
        """Whether this may be such an object, or the folder of one. Of a folder with a million files it has to say no to most, and
        a file's name alone says it: as a folder's its key would be longer."""
        key = path + name
        if self.up_to is not None and key > self.up_to:
            return False
        if key <= self.after and not self.after.startswith(key):
            return False
        return key.startswith(self.prefix) or self.prefix.startswith(key)


def walk(folder: int, path: str, wanted: Wanted, found: list[ObjectInfo]) -> None:
    """Append the objects under `path` in key order, up to the limit."""
    with os.scandir(folder) as entries:
        # A folder sorts as its name with the slash: `a-b` stands before `a/b`, and `a0` after it.
        children = [
            (f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name, entry)
            for entry in entries
            if wanted.may_hold(path, entry.name) and object_keys.SEGMENT.match(entry.name)
        ]
    children.sort(key=lambda child: child[0])
    for name, entry in children:
        if len(found) >= wanted.limit:
            return
        key = path + name
        if wanted.up_to is not None and key > wanted.up_to:
            return
        if name.endswith("/"):
            passed = key < wanted.after and not wanted.after.startswith(key)
            if not passed and (key.startswith(wanted.prefix) or wanted.prefix.startswith(key)):
                with _child(folder, entry.name) as child:
                    walk(child, key, wanted, found)
        elif key > wanted.after and key.startswith(wanted.prefix) and entry.is_file(follow_symlinks=False):
            with contextlib.suppress(FileNotFoundError):  # deleted since
                info = entry.stat(follow_symlinks=False)
                found.append(ObjectInfo(key, info.st_size, datetime.fromtimestamp(info.st_mtime, UTC)))


@contextlib.contextmanager
def _child(folder: int, name: str) -> Iterator[int]:
    descriptor = os.open(name, FOLDER, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
