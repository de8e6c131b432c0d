"""How each request file of a `runvoy sync --once` ended, for the exit code."""

from __future__ import annotations

import threading
from collections import defaultdict


class Outcomes:
    """For all threads. Of each file the execution's exit code, or that of its rejection; None until it is known."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._codes: dict[str, int | None] = {}
        self._files: defaultdict[str, set[str]] = defaultdict(set)  # by execution, of those whose end is not known
        self._executions: dict[str, str] = {}

    def began(self, name: str, execution_id: str) -> bool:
        """A file became an execution; whether that is news. Its end may have been told before: look whether it has ended."""
        with self._lock:
            if self._executions.get(name) == execution_id:
                return False
            self._executions[name] = execution_id
            self._codes[name] = None
            self._files[execution_id].add(name)
            return True

    def ended(self, execution_id: str, exit_code: int) -> None:
        with self._lock:
            for name in self._files.pop(execution_id, ()):
                if self._executions.get(name) == execution_id:
                    self._codes[name] = exit_code

    def ended_without(self, name: str, exit_code: int) -> None:
        """A file was rejected or refused."""
        with self._lock:
            self._executions.pop(name, None)
            self._codes[name] = exit_code

    def are_all_known(self) -> bool:
        with self._lock:
            return None not in self._codes.values()

    def exit_code(self) -> int:
        """0, or the first failure's, in the order of the files' names."""
        with self._lock:
            return next((code for _, code in sorted(self._codes.items()) if code), 0)
