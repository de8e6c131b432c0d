"""What states, reasons, exit codes and locks are called when people are told of them."""

from __future__ import annotations

from datetime import datetime

import msgspec

from runvoy_cli.render import moment, ran_for, span
from runvoy_protocol.states import Reason, State
from runvoy_protocol.status import EXIT_CODES_OF_RUNVOY, ExecutionStatus, LockStatus, decided_by, exit_code_of

SIGNALS = {
    1: "SIGHUP",
    2: "SIGINT",
    3: "SIGQUIT",
    4: "SIGILL",
    5: "SIGTRAP",
    6: "SIGABRT",
    8: "SIGFPE",
    9: "SIGKILL",
    11: "SIGSEGV",
    13: "SIGPIPE",
    14: "SIGALRM",
    15: "SIGTERM",
}  # those whose numbers are the same everywhere: the command ran elsewhere

REASONS = {
    Reason.EXIT: "the command exited by itself",
    Reason.SIGNAL: "a signal ended it that runvoy did not send",
    Reason.EXEC_FAILED: "it could not be executed",
    Reason.DEADLINE: "its deadline passed",
    Reason.QUEUE: "it waited for longer than its queue timeout",
    Reason.START: "it did not begin in time",
    Reason.KILLED: "a user had it killed",
    Reason.REVOKED: "it lost its right to run, or to what it needs, before it started",
    Reason.LAUNCH_FAILED: "the platform would not run it",
    Reason.SETUP_FAILED: "its surroundings could not be made",
    Reason.LOST: "its task vanished without a result",
    Reason.LOCK: "it waits for a lock",
    Reason.CAPACITY: "it waits for room on the platform",
}

_ENDINGS = {
    State.TIMED_OUT: "the command timed out",
    State.STOPPED: "the command was killed",
    State.UNKNOWN: "nobody knows how the command ended",
    State.FAILED: "the command was not run to its end",
}
_TOLD_BY_THE_STATE = frozenset({Reason.EXIT, Reason.SIGNAL, Reason.KILLED})
_SIGNAL_BASE = 128
_MOST_SIGNALS = 64


def exit_meaning(status: ExecutionStatus) -> str:
    """What the exit code that `wait` has for an ended execution means."""
    code = exit_code_of(status)
    if decided_by(status) == "runvoy":
        return EXIT_CODES_OF_RUNVOY[code]
    if status.signal is not None:
        return f"killed by {SIGNALS.get(status.signal, f'signal {status.signal}')}"
    if code == 0:
        return "success"
    if code == 126:
        return "found, but could not be executed"
    if code == 127:
        return "command not found"
    if _SIGNAL_BASE < code <= _SIGNAL_BASE + _MOST_SIGNALS:
        number = code - _SIGNAL_BASE  # a shell's way to tell of its child; a program may mean something else by it
        return f"as after {SIGNALS.get(number, f'signal {number}')}"
    return "failure"


def code_text(status: ExecutionStatus) -> str:
    """An ended execution's exit code, with what it means where that is more than that it failed."""
    code, meaning = exit_code_of(status), exit_meaning(status)
    return str(code) if meaning in ("success", "failure") else f"{code} ({meaning})"


def ending(status: ExecutionStatus) -> str:
    """How a run ended that the command itself did not end."""
    text = _ENDINGS.get(status.state, status.state.value)
    if status.reason is Reason.QUEUE:
        return f"the command was never started: {status.message or REASONS[Reason.QUEUE]}"
    if status.reason is Reason.DEADLINE:
        return f"{text} after {status.timeout_seconds} s"
    if status.reason is not None and status.reason not in _TOLD_BY_THE_STATE:
        text += f": {REASONS[status.reason]}"
    return text + (f" ({status.message})" if status.message else "")


def summary(status: ExecutionStatus, now: datetime) -> str:
    """One line: what became of an execution."""
    duration = ran_for(status, now)
    text = f"{status.execution_id} {status.state.value}, exit code {code_text(status)}"
    return text + (f", {duration}" if duration else "") + (f": {status.message}" if status.message else "")


def result_json(status: ExecutionStatus, exit_code: int | None = None) -> dict[str, object]:
    """What programs want to know of an execution that was waited for; `exit_code` if that was given up."""
    if exit_code is not None:
        verdict: dict[str, object] = {"exit_code": exit_code, "decided_by": "runvoy"}
        verdict["exit_meaning"] = EXIT_CODES_OF_RUNVOY[exit_code]
    else:
        verdict = {"exit_code": exit_code_of(status), "decided_by": decided_by(status)}
        verdict["exit_meaning"] = exit_meaning(status)
    return {"execution_id": status.execution_id, "state": status.state.value, **verdict, "status": status}


def status_json(status: ExecutionStatus) -> dict[str, object]:
    """The status as it is published and, once the execution has ended, the exit code that `wait` has for it."""
    found: dict[str, object] = msgspec.to_builtins(status)
    if status.is_terminal:
        found["exit_code_of"] = exit_code_of(status)
        found["decided_by"] = decided_by(status)
        found["exit_meaning"] = exit_meaning(status)
    return found


def ended_itself(status: ExecutionStatus) -> bool:
    return status.reason in (None, Reason.EXIT, Reason.SIGNAL) and status.exit_code is not None


def cpu_text(units: int | None) -> str:
    return "" if units is None else f"{units / 1024:g} vCPU"


def memory_text(mib: int | None) -> str:
    if mib is None:
        return ""
    return f"{mib // 1024} GiB" if mib % 1024 == 0 else f"{mib} MiB"


def image_text(status: ExecutionStatus) -> str:
    """The image of an execution, by the name it is registered as."""
    if status.image is None or status.image_name in (None, status.image):
        return status.image or ""
    return f"{status.image_name} ({status.image})"


def short_id(execution_id: str) -> str:
    """Enough of an id to know it again. The beginning alone is its time: ids of one minute have it in common."""
    return f"{execution_id[:8]}…{execution_id[-4:]}"


def place(position: int) -> str:
    """A waiter's place in a queue whose holder has position 0: next, 2nd, 3rd."""
    if position == 1:
        return "next"
    ending_ = "th" if position % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(position % 10, "th")
    return f"{position}{ending_}"


def lock_text(lock: LockStatus, now: datetime) -> str:
    """How it stands with one lock of an execution."""
    if lock.fence is not None:
        return f"held, fence {lock.fence}"
    if lock.position is None:
        return ""
    if lock.position == 0:
        return "first in line, and waits for its other locks"
    if lock.holder is None:
        return place(lock.position)
    owner = f" ({lock.holder_owner})" if lock.holder_owner else ""
    if lock.held_since is None:
        return f"{place(lock.position)}; {lock.holder}{owner} is before it and waits too"
    duration = span((now - lock.held_since).total_seconds())
    return f"{place(lock.position)}, held by {lock.holder}{owner} for {duration}, since {moment(lock.held_since)}"


def short_lock_text(lock: LockStatus, now: datetime) -> str:
    """The same in a live row, of which a narrow terminal shows the beginning."""
    if lock.position is None or lock.position == 0 or lock.holder is None:
        return lock_text(lock, now)
    who = lock.holder_owner or "somebody"
    holds = (
        f"held by {who} for {span((now - lock.held_since).total_seconds())}" if lock.held_since else f"{who} waits too"
    )
    return f"{place(lock.position)}, {holds}, {short_id(lock.holder)}"
