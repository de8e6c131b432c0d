"""Listing a folder of objects in the order of their keys."""

from __future__ import annotations

import contextlib
import os
import stat
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


def walk(folder: int, path: str, wanted: Wanted, found: list[ObjectInfo]) -> None:
    """Append the objects under `path` in key order, up to the limit."""
    # A folder sorts as its name with the slash: `a-b` stands before `a/b`, and `a0` after it.
    children = sorted(
        (f"{entry.name}/" if is_folder else entry.name, entry.name) for entry, is_folder in _named(folder, path, wanted)
    )
    for name, own_name in children:
        key = path + name
        if len(found) >= wanted.limit or (wanted.up_to is not None and key > wanted.up_to):
            return
        if name.endswith("/"):
            passed = key < wanted.after and not wanted.after.startswith(key)
            if not passed and (key.startswith(wanted.prefix) or wanted.prefix.startswith(key)):
                with _child(folder, own_name) as child:
                    walk(child, key, wanted, found)
        elif key > wanted.after and key.startswith(wanted.prefix):
            with contextlib.suppress(FileNotFoundError):  # deleted since
                info = os.stat(own_name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISREG(info.st_mode):
                    found.append(ObjectInfo(key, info.st_size, datetime.fromtimestamp(info.st_mtime, UTC)))


def _named(folder: int, path: str, wanted: Wanted) -> Iterator[tuple[os.DirEntry[str], bool]]:
    """What is in the folder of which the name does not say that it is not wanted; and whether it is a folder. Of a million names the
    first comparison has to do for most."""
    low = wanted.after.removeprefix(path) if wanted.after.startswith(path) else ""
    high = wanted.up_to.removeprefix(path) if wanted.up_to is not None and wanted.up_to.startswith(path) else None
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            # A folder's name is shorter than the keys in it, which may be wanted where it is not.
            if (
                (name > low or low.startswith(name))
                and (high is None or name <= high)
                and object_keys.SEGMENT.match(name)
            ):
                yield entry, entry.is_dir(follow_symlinks=False)


@contextlib.contextmanager
def _child(folder: int, name: str) -> Iterator[int]:
    descriptor = os.open(name, FOLDER, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
