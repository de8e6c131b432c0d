"""The processes of the command's container, seen from the runner's beside it: both share one PID namespace."""

from __future__ import annotations

import os


class Neighbours:
    """What runs in the container of `wrapper`, the shell that was its first process.

    They share its cgroup. Where that is the runner's own as well (no containers), they are what descends from the
    wrapper, and what is in its session or one that was once seen to be a descendant's.
    """

    def __init__(self, wrapper: int) -> None:
        """Raises ProcessLookupError if the wrapper has ended."""
        self._wrapper = wrapper
        self._cgroup = _cgroup(wrapper)
        self._is_apart = self._cgroup not in (b"", _cgroup(os.getpid()), _cgroup(1))
        self._sessions = {os.getsid(wrapper)} - {os.getsid(0)}

    def living(self) -> list[int]:
        """Every living process of them but the wrapper."""
        table = _processes()
        spared = {1, self._wrapper, *_line_of(os.getpid(), table)}
        found = self._in_cgroup(table) if self._is_apart else self._in_family(table)
        return [pid for pid in found if pid not in spared]

    def _in_cgroup(self, table: dict[int, tuple[int, int]]) -> list[int]:
        return [pid for pid in table if _cgroup(pid) == self._cgroup]

    def _in_family(self, table: dict[int, tuple[int, int]]) -> list[int]:
        family = {pid for pid in table if self._wrapper in _line_of(pid, table)}
        self._sessions |= {table[pid][1] for pid in family} - {os.getsid(0)}
        return [pid for pid, (_, session) in table.items() if pid in family or session in self._sessions]


def _processes() -> dict[int, tuple[int, int]]:
    """Parent and session of every living process."""
    table: dict[int, tuple[int, int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib costs start-up time
        if not name.isdigit():
            continue
        stat = _read(f"/proc/{name}/stat")
        if stat:
            state, parent, _, session = stat.rpartition(b")")[2].split()[:4]
            if state not in (b"Z", b"X"):
                table[int(name)] = int(parent), int(session)
    return table


def _line_of(pid: int, table: dict[int, tuple[int, int]]) -> list[int]:
    """A process and all above it."""
    line = []
    while pid in table and pid not in line:
        line.append(pid)
        pid = table[pid][0]
    return line


def _cgroup(pid: int) -> bytes:
    return _read(f"/proc/{pid}/cgroup")


def _read(path: str) -> bytes:
    """What a file of /proc says; nothing if its process ended meanwhile."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
