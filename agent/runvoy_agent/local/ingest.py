"""Taking in what runners spooled: log chunks, started.json and result.json move into the outbox.

The files were written under our own user, by the runner or by the command: names, kinds and sizes are checked, and what
does not fit is left where it is, with a warning. Reports prove their origin by their MAC; that is checked by who reads
them.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from runvoy_agent.local import run_claims
from runvoy_agent.local.durable import unavailable
from runvoy_agent.ports import StoredObject
from runvoy_protocol import object_keys
from runvoy_protocol.ids import is_execution_id

_log = logging.getLogger(__name__)
_CHUNK_NAME = re.compile(r"[0-9]{8}\Z")
# A runner closes a chunk at 4 MiB of output, which compresses to a little over that at worst.
_MAX_CHUNK_BYTES = 16 * 1024 * 1024
_MAX_REPORT_BYTES = 64 * 1024
_LOCKS = 64

Report = Literal["started", "result"]


class Outbox(Protocol):
    """The part of FolderObjects that is needed here."""

    def adopt(self, object_key: str, path: Path) -> None: ...

    def get(self, object_key: str, version: str | None = None) -> StoredObject | None: ...


class SpoolIngest:
    """Moves spooled files into the outbox, chunks in order, a result only after all chunks.

    `on_event(execution_id, report)` is called when that report is in the outbox; again after a restart, until the run is
    removed, so an event is never lost and may repeat. Calls for one execution wait for each other. What `adopt` and
    `on_event` raise goes to the caller; calling again continues.
    """

    def __init__(self, runs_folder: Path, outbox: Outbox, on_event: Callable[[str, Report], None]) -> None:
        self._runs_folder = runs_folder.resolve()
        run_claims.make_folder(self._runs_folder)
        self._outbox = outbox
        self._on_event = on_event
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._warned: set[Path] = set()

    def ingest(self, execution_id: str) -> None:
        """Take in what is in the execution's spool now."""
        with self._lock(execution_id):
            self._take_in(execution_id, self._on_event)

    def ingest_all(self) -> None:
        """At the start: take in every spool, and tell again of reports that are in the outbox of runs not yet removed."""
        for folder in sorted(self._runs_folder.iterdir()):
            if not is_execution_id(folder.name):
                continue
            try:
                with self._lock(folder.name):
                    self._open(folder)
                    if not (folder / "spool").is_dir():
                        continue
                    self._take_in(folder.name)
                    for report in self._present(folder.name):
                        self._on_event(folder.name, report)
            except Exception:  # noqa: BLE001 - logged, and the others go on
                # One run's folder must not keep the stack from starting; its next bell, or its end, tries again.
                _log.exception("the spool of execution %s could not be taken in", folder.name)

    def remove(self, execution_id: str) -> None:
        """Delete a stopped run's folder, after a last look at its spool. A run that lives stays.

        The claim stays as long as the execution could be launched again: a start that is delivered once more must find
        it. `forget` deletes it, once the execution's record is final and no start of it can be in the queue.
        """
        with self._lock(execution_id):
            self._take_in(execution_id, self._on_event)
            self._remove_folder(execution_id, (run_claims.OLD_CLAIM,))

    def removed(self) -> list[str]:
        """The executions of which only the claim is left, or what a stop before the start left."""
        return run_claims.remains(self._runs_folder)

    def forget(self, execution_id: str) -> None:
        """Delete a removed run's claim. From here on a start of this execution would run it again."""
        with self._lock(execution_id):
            if self._remove_folder(execution_id):
                run_claims.forget(self._runs_folder / execution_id)

    def _remove_folder(self, execution_id: str, kept: tuple[str, ...] = ()) -> bool:
        """Whether nothing of the run lives; then its folder goes, but for what is `kept`."""
        folder = self._runs_folder / execution_id
        if run_claims.is_locked(folder):
            return False
        self._open(folder)
        if folder.is_symlink():
            folder.unlink()  # what it leads to is nothing of the run's
        if folder.is_dir():
            # An older version's lock and claim last: with the lock the run is still found when the stack starts, and removed then.
            last = (run_claims.OLD_LOCK, run_claims.OLD_CLAIM)
            with unavailable(f"{folder} cannot be removed"):
                for entry in sorted(self._entries(folder) or (), key=lambda entry: (entry.name in last, entry.name)):
                    if entry.name not in kept:
                        self._remove(entry)
                if self._entries(folder) == []:
                    folder.rmdir()
        self._warned = {path for path in self._warned if folder not in path.parents}
        return True

    def _lock(self, execution_id: str) -> threading.Lock:
        if not is_execution_id(execution_id):
            raise ValueError("an execution id is a UUID in 32 hex digits")
        return self._locks[int(execution_id[-4:], 16) % _LOCKS]

    def _open(self, folder: Path) -> None:
        """A command may have closed the folder of its run: what is in it is to be read and removed all the same."""
        try:
            info = folder.lstat()
            if stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_IRWXU != stat.S_IRWXU:
                folder.chmod(0o700)
        except OSError as error:
            self._warn_of(folder, error)

    def _take_in(self, execution_id: str, tell: Callable[[str, Report], None] | None = None) -> None:
        """Move what is there, telling of each report as soon as it is moved: what follows may fail."""
        self._open(self._runs_folder / execution_id)
        spool = self._runs_folder / execution_id / "spool"
        result = spool / "result.json"
        # Before the chunks are listed: the runner writes the result after its last chunk, so with a result seen here the
        # list below is complete.
        has_result = self._fits(result, _MAX_REPORT_BYTES)
        started = spool / "started.json"
        if self._fits(started, _MAX_REPORT_BYTES) and self._move(object_keys.started(execution_id), started) and tell:
            tell(execution_id, "started")
        for chunk in self._chunks(spool / "logs"):
            self._move(object_keys.log_chunk(execution_id, int(chunk.name)), chunk)
        if has_result and self._move(object_keys.result(execution_id), result) and tell:
            tell(execution_id, "result")

    def _present(self, execution_id: str) -> list[Report]:
        reports: list[Report] = []
        if self._outbox.get(object_keys.started(execution_id)) is not None:
            reports.append("started")
        if self._outbox.get(object_keys.result(execution_id)) is not None:
            reports.append("result")
        return reports

    def _chunks(self, folder: Path) -> list[Path]:
        try:
            if folder.is_symlink() or folder.parent.is_symlink():
                return []  # not the runner's doing
            paths = sorted(folder.iterdir())
        except OSError as error:
            self._warn_of(folder, error)
            return []
        named = [path for path in paths if _CHUNK_NAME.match(path.name) and int(path.name)]
        return [path for path in named if self._fits(path, _MAX_CHUNK_BYTES)]

    def _fits(self, path: Path, max_bytes: int) -> bool:
        """Whether this is a file to take in. The command could swap it a moment later, for another file of its own user."""
        try:
            info = path.lstat()
        except OSError as error:
            self._warn_of(path, error)
            return False
        if stat.S_ISREG(info.st_mode) and 0 < info.st_size <= max_bytes:
            return True
        if path not in self._warned:
            self._warned.add(path)
            _log.warning("%s is left out: %s, %d bytes", path, stat.filemode(info.st_mode), info.st_size)
        return False

    def _entries(self, folder: Path) -> list[Path] | None:
        """None of one that a command with other rights made another user's. That is no outage, which would be waited out: it
        stays, told of."""
        try:
            return list(folder.iterdir())
        except PermissionError as error:
            self._warn_of(folder, error)
            return None

    def _remove(self, entry: Path) -> None:
        """What cannot be removed stays, told of: a command with other rights may have left another user's files."""
        try:
            _remove(entry)
        except OSError as error:
            _log.warning("%s was not removed: %s", entry, error)

    def _warn_of(self, path: Path, error: OSError) -> None:
        """Not being there is no fault; a loop of links or a closed folder is the command's doing."""
        if not isinstance(error, FileNotFoundError) and path not in self._warned:
            self._warned.add(path)
            _log.warning("%s is left out: %s", path, error.strerror)

    def _move(self, object_key: str, path: Path) -> bool:
        try:
            self._outbox.adopt(object_key, path)
        except (FileNotFoundError, ValueError) as error:
            _log.warning("%s is left out: it changed while it was taken in: %s", path, error)
            return False
        return True


def _remove(path: Path) -> None:
    """Remove a file or a tree, parts of which its owner may have made read-only; raises OSError if it stays."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    path.chmod(0o700)
    for folder, below, _ in os.walk(path):
        for name in below:
            if not Path(folder, name).is_symlink():
                Path(folder, name).chmod(0o700)  # before the walk goes down there
    shutil.rmtree(path)
