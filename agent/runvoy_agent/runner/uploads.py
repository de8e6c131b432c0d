"""Shipping on AWS: each object one presigned POST, in order, by a thread of its own.

A store that is down for a while loses nothing at first: objects wait in memory and are tried again. When as many wait as
may, the command waits with them, as with any slow pipe, but not for long: then output is dropped and counted.
"""

from __future__ import annotations

import collections
import os
import random
import threading
import time
from collections.abc import Callable

from runvoy_agent.runner.http_calls import Connections, NoAnswer
from runvoy_agent.runner.remarks import remark
from runvoy_agent.runner.run_grant import RunGrant
from runvoy_agent.runner.shipping import FIRST_DELAY_SECONDS, Shipper

PENDING_BYTES = 32 * 1024 * 1024
PATIENCE_SECONDS = 20.0
_BEHIND = 2
_LONGEST_DELAY_SECONDS = 1.0
_DELAY_FACTOR = 1.5
_QUIET_SECONDS = 3.0
_LOOK_SECONDS = 0.05
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 10.0
_ANSWER_SECONDS = 60.0
_FORBIDDEN = 403


class Uploader(Shipper):
    """Uploads under a grant. `finish` once nothing more is put."""

    def __init__(
        self, grant: RunGrant, *, pending_bytes: int = PENDING_BYTES, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._grant = grant
        self._limit = pending_bytes
        self._patience_seconds = patience_seconds
        self._connections = Connections()
        self._changed = threading.Condition()
        self._pending: collections.deque[tuple[str, bytes]] = collections.deque()
        self._pending_bytes = 0
        self._progress_at = 0.0  # when something was last taken over, or the limit was reached
        self._put_at = -_QUIET_SECONDS
        self._delay = FIRST_DELAY_SECONDS
        self._is_over = False
        self._thread = threading.Thread(target=self._upload_all, name="uploads", daemon=True)
        self._thread.start()

    @property
    def is_behind(self) -> bool:
        return len(self._pending) >= _BEHIND

    @property
    def is_busy(self) -> bool:
        return self._pending_bytes >= self._limit and not self._is_stuck()

    @property
    def is_full(self) -> bool:
        return self._pending_bytes >= self._limit and self._is_stuck()

    @property
    def due(self) -> float | None:
        return time.monotonic() + _LOOK_SECONDS if self.is_busy else None

    def delay_seconds(self) -> float:
        """Short for what comes after a silence, longer where output goes on: each object is a request that costs."""
        is_quiet = time.monotonic() - self._put_at > _QUIET_SECONDS
        self._delay = FIRST_DELAY_SECONDS if is_quiet else min(self._delay * _DELAY_FACTOR, _LONGEST_DELAY_SECONDS)
        return self._delay

    def put(self, name: str, data: bytes) -> None:
        with self._changed:
            self._put_at = time.monotonic()
            if self._pending_bytes < self._limit <= self._pending_bytes + len(data):
                self._progress_at = self._put_at
            self._pending.append((name, data))
            self._pending_bytes += len(data)
            self._changed.notify_all()

    def finish(self, give_up_at: Callable[[], float]) -> bool:
        """Stay until everything was taken over, or it is `give_up_at` (monotonic); whether it was."""
        with self._changed:
            while self._pending and not self._grant.refusal and time.monotonic() < give_up_at():
                self._changed.wait(_LOOK_SECONDS)
            self._is_over = True
            self._changed.notify_all()
            return not self._pending

    def _is_stuck(self) -> bool:
        return time.monotonic() - self._progress_at > self._patience_seconds

    def _upload_all(self) -> None:
        failures = 0
        while (first := self._next()) is not None:
            failure = self._upload(*first)
            if not failure:
                failures = 0
                self._note_progress(len(first[1]))
                continue
            failures += 1
            self.failure = failure
            if failures == 1 or failures % 10 == 0:
                remark(f"{first[0]} was not uploaded: {self.failure}; it is tried again")
            longest = min(_FIRST_PAUSE_SECONDS * 2 ** min(failures, 20), _LONGEST_PAUSE_SECONDS)
            time.sleep(longest * (0.5 + random.random() / 2))  # noqa: S311 - to keep many runners apart

    def _next(self) -> tuple[str, bytes] | None:
        with self._changed:
            while not self._pending and not self._is_over:
                self._changed.wait()
            return None if self._is_over else self._pending[0]

    def _note_progress(self, size: int) -> None:
        with self._changed:
            self._pending.popleft()
            self._pending_bytes -= size
            self._progress_at = time.monotonic()
            self._changed.notify_all()

    def _upload(self, name: str, data: bytes) -> str:
        """Try once; why it failed."""
        policy, object_key = self._grant.policy_for(name)
        boundary = os.urandom(16).hex()
        fields = {"key": object_key, "Content-Type": policy.content_type, **policy.fields}
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        try:
            body = _form(fields, data, policy.content_type, boundary)
            status, answer = self._connections.exchange("POST", policy.url, headers, body, _ANSWER_SECONDS)
        except NoAnswer as error:
            return str(error)
        if 200 <= status < 300:
            return ""
        if status == _FORBIDDEN:
            self._grant.renew()  # it may have expired by the store's clock
        return f"HTTP {status} {answer[:300].decode(errors='replace')}"


def _form(fields: dict[str, str], data: bytes, content_type: str, boundary: str) -> bytes:
    head = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    head += f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n'
    head += f"Content-Type: {content_type}\r\n\r\n"
    return b"".join((head.encode(), data, f"\r\n--{boundary}--\r\n".encode()))
