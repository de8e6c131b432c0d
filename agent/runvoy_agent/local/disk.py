"""How much room the disk of the state folder has left, and from when on that is too little.

What runs needs some to end: its output, its result and the commits that follow. So the last of it is theirs, and nothing new is
taken in or started.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from runvoy_protocol.control import DiskHealth

log = logging.getLogger("runvoy.disk")

_NEEDED_BYTES = 32 * 1024 * 1024
_NEEDED_PART = 20  # one of so many, where that is less
_MIB = 1024 * 1024


class Disk:
    """The file system of a folder. The log says when its room runs out, and when there is some again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._is_short = False

    def look(self) -> DiskHealth:
        """What is free for this user; nothing is where no further file can be made. Raises OSError."""
        return self._look()[0]

    def shortage(self) -> str | None:
        """Why nothing new can be taken in now, if that is so."""
        try:
            found, closed = self._look()
        except OSError as error:
            return f"the disk of {self._folder} cannot be looked at: {error.strerror}"
        is_short = found.is_short
        left = f"the disk of {self._folder} has {found.free_bytes / _MIB:.1f} MiB left"
        words = closed or f"{left}, and the last {found.needed_bytes / _MIB:.1f} MiB are for what runs"
        with self._lock:
            has_changed, self._is_short = is_short is not self._is_short, is_short
        if has_changed and is_short:
            log.warning("%s: nothing is taken in or started until there is room", words)
        elif has_changed:
            log.info("the disk of %s has room again: %.1f MiB", self._folder, found.free_bytes / _MIB)
        return words if is_short else None

    def _look(self) -> tuple[DiskHealth, str | None]:
        """What is free, and why nothing can be written if it is not for want of room."""
        found = os.statvfs(self._folder)
        closed = self._why_closed(found)
        total = found.f_blocks * found.f_frsize
        has_files = found.f_favail > 0 or found.f_files == 0  # some file systems do not count them
        free = found.f_bavail * found.f_frsize if has_files and closed is None else 0
        needed = min(_NEEDED_BYTES, total // _NEEDED_PART)
        return DiskHealth(free_bytes=free, total_bytes=total, needed_bytes=needed), closed

    def _why_closed(self, found: os.statvfs_result) -> str | None:
        if found.f_flag & os.ST_RDONLY:
            return f"the disk of {self._folder} is read-only"
        if not os.access(self._folder, os.W_OK | os.X_OK):
            return f"{self._folder} cannot be written to: permission denied"
        return None
