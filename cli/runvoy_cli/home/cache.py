"""What a client remembers of a deployment between two commands: the upload grant, its clock's offset, what it submitted last.

A lost or broken cache costs one request, or a short way to write an id: so nothing here ever fails.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import msgspec

from runvoy_cli.home.files import private_folder, write_private
from runvoy_protocol.control import CALL_LIFETIME, InboxGrant
from runvoy_protocol.ids import is_execution_id
from runvoy_protocol.instants import Instant

FAR_APART = CALL_LIFETIME
"""Clocks that are further apart have calls and requests refused."""

_EXPIRY_MARGIN = timedelta(seconds=60)
_MOST_SECONDS_OFF = 10 * 365 * 24 * 3600.0
_WEEK_SECONDS = 7 * 24 * 3600
_OFFSET_LIFETIME = timedelta(hours=1)  # a clock that was wrong may be set meanwhile


class _Content(msgspec.Struct, omit_defaults=True):
    inbox_grant: InboxGrant | None = None
    offset_seconds: float = 0.0
    offset_learned_at: Instant | None = None


_decoder = msgspec.json.Decoder(_Content)  # made here, and so by one thread: the clients of several have caches


class Cache:
    """The cache of one key at one endpoint: a file of mode 0600, for a grant lets its bearer upload."""

    def __init__(self, home: Path, endpoint: str, key_id: str) -> None:
        name = hashlib.sha256(f"{endpoint}\0{key_id}".encode()).hexdigest()[:32]
        self._path = home / "cache" / f"{name}.json"
        # A file of its own: a command that has run for long would write an old one back with the rest.
        self._last_path = self._path.with_suffix(".last")
        self._content = _Content()
        with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            content = _decoder.decode(self._path.read_bytes())
            if abs(content.offset_seconds) <= _MOST_SECONDS_OFF:
                self._content = content

    def now(self) -> datetime:
        """The server's time as well as it is known, in whole milliseconds, which is what travels."""
        now = datetime.now(UTC) + self.offset
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    @property
    def offset(self) -> timedelta:
        """The server's time beyond ours, as it was learned within the hour; none otherwise."""
        learned_at = self._content.offset_learned_at
        if learned_at is None or abs(datetime.now(UTC) - learned_at) >= _OFFSET_LIFETIME:
            return timedelta()
        return timedelta(seconds=self._content.offset_seconds)

    def learn_time(self, server_time: str) -> bool:
        """Keep the clock's offset by the server's time, which is that of now; whether it is one that a clock shows."""
        try:
            self._learn(datetime.fromisoformat(server_time))
        except (ValueError, TypeError, OverflowError):
            return False
        return True

    def hear_time(self, date: str, began: datetime) -> None:
        """Mend the kept offset by an answer's `Date`, where that is far from what is kept: for what is sent without a call, against which
        every clock is held. `began`: when the request was sent, by this machine's clock.

        Of an exchange that took long nothing is learned: a machine that slept in it reads an answer of before.
        """
        ended = datetime.now(UTC)
        if not timedelta() <= ended - began < FAR_APART:
            return
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            given = parsedate_to_datetime(date).astimezone(UTC)
            if abs(given - ended - self.offset) > FAR_APART:
                self._learn(given)

    def _learn(self, server_time: datetime) -> None:
        now = datetime.now(UTC)
        offset_seconds = (server_time - now).total_seconds()
        if abs(offset_seconds) > _MOST_SECONDS_OFF:
            raise ValueError("the server's time is years away")
        self._content.offset_seconds = offset_seconds
        self._content.offset_learned_at = now
        self._save()

    @property
    def inbox_grant(self) -> InboxGrant | None:
        grant = self._content.inbox_grant
        return grant if grant is not None and grant.expires_at > self.now() + _EXPIRY_MARGIN else None

    @inbox_grant.setter
    def inbox_grant(self, grant: InboxGrant | None) -> None:
        self._content.inbox_grant = grant
        self._save()

    @property
    def last_submitted(self) -> str | None:
        """The execution that was submitted last from this home with this key, by whichever command; None if that is not known."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = self._last_path.read_text(encoding="ascii")
            return text if is_execution_id(text) else None
        return None

    @last_submitted.setter
    def last_submitted(self, execution_id: str) -> None:
        with contextlib.suppress(OSError):
            write_private(self._last_path, execution_id.encode(), durable=False)

    def _save(self) -> None:
        with contextlib.suppress(OSError):
            private_folder(self._path.parent)
            self._forget_the_others()
            write_private(self._path, msgspec.json.encode(self._content), durable=False)

    def _forget_the_others(self) -> None:
        """Remove what was not touched for a week: deployments come and go, the embedded stack's ports above all."""
        oldest = time.time() - _WEEK_SECONDS
        for path in self._path.parent.iterdir():
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()
