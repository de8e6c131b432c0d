"""What runners of this machine spooled, uploaded to an outbox elsewhere (see ingest.Outbox)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from runvoy_agent.ports import Objects, StoredObject
from runvoy_protocol import run_objects


class UploadedSpool:
    """Of a report or chunk that was uploaded the file goes; after a crash between the two it is uploaded again."""

    def __init__(self, outbox: Objects) -> None:
        self._outbox = outbox

    def adopt(self, object_key: str, path: Path) -> None:
        """Upload a file and delete it. Raises FileNotFoundError if there is none, ValueError for one that is not the
        runner's: the command runs as the same user, and could have put another in its place."""
        is_report = object_key.endswith(".json")
        most = run_objects.MAX_RUN_OBJECT_BYTES if is_report else run_objects.MAX_CHUNK_OBJECT_BYTES
        data = _read(path, most)
        kind = run_objects.REPORT_CONTENT_TYPE if is_report else run_objects.CHUNK_CONTENT_TYPE
        self._outbox.put(object_key, data, content_type=kind)
        path.unlink(missing_ok=True)

    def get(self, object_key: str, version: str | None = None) -> StoredObject | None:
        return self._outbox.get(object_key, version)


def _read(path: Path, most: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} is no regular file")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{path} is over {most:,} bytes")
    return data
