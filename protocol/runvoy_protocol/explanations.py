"""Why an execution waits, or how it failed, in words: made of its status alone, so that everybody says the same.

A refusal needs none of this: its receipt, or the error, has its code, a message that names the rule, and a hint.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from runvoy_protocol.exit_codes import EXIT_CODES_OF_RUNVOY
from runvoy_protocol.states import Reason, State
from runvoy_protocol.status import ExecutionStatus, Explanation, LockStatus, decided_by, exit_code_of


class Cause(StrEnum):
    """What `reason` of an explanation may be."""

    LOCK = "lock"
    TURN = "turn"
    CAPACITY = "capacity"
    LAUNCH = "launch"
    STOPPING = "stopping"
    EXIT = "exit"
    NOT_EXECUTABLE = "not_executable"
    COMMAND_NOT_FOUND = "command_not_found"
    SIGNAL = "signal"
    OUT_OF_MEMORY = "out_of_memory"
    DEADLINE = "deadline"
    QUEUE_TIMEOUT = "queue_timeout"
    START_TIMEOUT = "start_timeout"
    KILLED = "killed"
    INTERRUPTED = "interrupted"
    REVOKED = "revoked"
    IMAGE_PULL = "image_pull"
    NO_SHELL = "no_shell"
    LAUNCH_FAILED = "launch_failed"
    SETUP_FAILED = "setup_failed"
    LOST = "lost"


CAUSES = {
    Cause.LOCK: "Another execution holds a lock that it named, or is before it in the lock's queue.",
    Cause.TURN: "It may start, and is about to.",
    Cause.CAPACITY: "The platform has no room for it now, or its owner has as many running as they may.",
    Cause.LAUNCH: "Its task was launched and has not begun.",
    Cause.STOPPING: "It is being ended.",
    Cause.EXIT: "The command exited with a code of its own.",
    Cause.NOT_EXECUTABLE: "Exit code 126: the command was found and could not be executed.",
    Cause.COMMAND_NOT_FOUND: "Exit code 127: the command was not found.",
    Cause.SIGNAL: "A signal that runvoy did not send ended the command, or (exit code 128 + n) what it had started.",
    Cause.OUT_OF_MEMORY: "It was killed for want of memory.",
    Cause.DEADLINE: "Its timeout passed.",
    Cause.QUEUE_TIMEOUT: "Its queue timeout passed before it was started.",
    Cause.START_TIMEOUT: "It was launched and did not begin in time.",
    Cause.KILLED: "A user had it killed.",
    Cause.INTERRUPTED: "It was told to end from outside of runvoy: by the platform (Spot, maintenance), or by hand.",
    Cause.REVOKED: "It lost its right to run, or to what it needs, before it started.",
    Cause.IMAGE_PULL: "Its image could not be pulled.",
    Cause.NO_SHELL: "Its image has no `/bin/sh` that works.",
    Cause.LAUNCH_FAILED: "The platform would not run it.",
    Cause.SETUP_FAILED: "Its surroundings could not be made.",
    Cause.LOST: "Nobody knows how it ended: its task vanished without a result.",
}

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
    Reason.CAPACITY: "it waits for room",
}

_ENDINGS = {
    State.TIMED_OUT: "the command timed out",
    State.STOPPED: "the command was killed",
    State.UNKNOWN: "nobody knows how the command ended",
    State.FAILED: "the command was not run to its end",
}
_TOLD_BY_THE_STATE = frozenset({Reason.EXIT, Reason.SIGNAL, Reason.KILLED})
_SIGNAL_BASE = 128  # a shell exits with 128 + n when signal n ended its child
_MOST_SIGNALS = 64  # Linux's SIGRTMAX
_SIGKILL = 9
_CAUSES = {
    Reason.DEADLINE: Cause.DEADLINE,
    Reason.QUEUE: Cause.QUEUE_TIMEOUT,
    Reason.START: Cause.START_TIMEOUT,
    Reason.KILLED: Cause.KILLED,
    Reason.REVOKED: Cause.REVOKED,
    Reason.LAUNCH_FAILED: Cause.LAUNCH_FAILED,
    Reason.SETUP_FAILED: Cause.SETUP_FAILED,
    Reason.LOST: Cause.LOST,
}
ENDED_FROM_OUTSIDE = "it was told to end, and runvoy was not asked for that"
"""What the message says of a command that was ended without a user's wish; the platform's word follows where it has one."""

# What platforms say: ECS's stop codes, docker's and podman's errors, and runvoy's own words for them.
_OUT_OF_MEMORY = ("outofmemory", "out of memory", "want of memory")
_PULL_FAILED = ("cannotpull", "cannot be pulled", "pull access denied", "manifest unknown")
HINTS = {
    Cause.NOT_EXECUTABLE: "Make the file executable (chmod +x), or name its interpreter, as in `sh FILE`; a program for "
    "another processor fails in this way too.",
    Cause.COMMAND_NOT_FOUND: "Check how it is written, and that it is there where the command runs (the image, or PATH).",
    Cause.OUT_OF_MEMORY: "Ask for more `memory`.",
    Cause.DEADLINE: "Give it a longer `timeout`.",
    Cause.QUEUE_TIMEOUT: "Give it a longer `queue_timeout`; `runvoy locks list` shows who holds what.",
    Cause.START_TIMEOUT: "Its image may be too large to be pulled in time, or the network may not reach the registry.",
    Cause.INTERRUPTED: "Look at how far it came (`runvoy logs`) and submit it again. On Spot this may happen to any command: an "
    "admin can have the deployment use FARGATE.",
    Cause.REVOKED: "Ask an admin; once the right is back, submit it again.",
    Cause.IMAGE_PULL: "Check that the image's name and tag exist and that the deployment may pull it: `runvoy images list`.",
    Cause.NO_SHELL: "The image needs a /bin/sh: use one that has it, or build it in.",
    Cause.LAUNCH_FAILED: "The message is the platform's; an admin finds more in the deployment's log.",
    Cause.LOST: "It may have done its work: look at its output (`runvoy logs`) before you run it again.",
    Cause.CAPACITY: "It is tried again by itself. An admin can have a quota raised: the platform's, or the user's by `runvoy quotas set`; "
    "where the message names a disk or a folder, mend that.",
    Cause.LOCK: "`runvoy locks show NAME` shows the queue; operators can release a lock.",
}


def explained(status: ExecutionStatus) -> ExecutionStatus:
    """The status with its explanation, made anew of all that it says."""
    return msgspec.structs.replace(status, explanation=explain(status))


def explain(status: ExecutionStatus) -> Explanation | None:
    """Why it waits, or how it came to its end; None of one that runs or succeeded."""
    match status.state:
        case State.RUNNING | State.SUCCEEDED:
            return None
        case State.QUEUED if status.reason is Reason.LOCK:
            words = f"it waits for {_locks_text(status.locks)}"
            name = next((lock.name for lock in _missing(status.locks)), "NAME")
            return Explanation(reason=Cause.LOCK, words=words, hint=HINTS[Cause.LOCK].replace("NAME", name))
        case State.QUEUED:
            return Explanation(reason=Cause.TURN, words="it waits for its turn to be started")
        case State.STARTING if status.reason is Reason.CAPACITY:
            words = _with_message(REASONS[Reason.CAPACITY], status)
            return Explanation(reason=Cause.CAPACITY, words=words, hint=HINTS[Cause.CAPACITY])
        case State.STARTING:
            return Explanation(reason=Cause.LAUNCH, words="it was launched and has not begun yet")
        case State.TERMINATING:
            why = f": {REASONS[status.reason]}" if status.reason is not None else ""
            return Explanation(reason=Cause.STOPPING, words=_with_message(f"it is being ended{why}", status))
    return _end(status)


def ended_itself(status: ExecutionStatus) -> bool:
    """Whether the command came to its end by itself, and left an exit code."""
    return status.reason in (None, Reason.EXIT, Reason.SIGNAL) and status.exit_code is not None


def exit_meaning(status: ExecutionStatus) -> str:
    """What the exit code that `wait` has for an ended execution means."""
    code = exit_code_of(status)
    if decided_by(status) == "runvoy":
        return EXIT_CODES_OF_RUNVOY[code]
    if status.signal is not None:
        return f"killed by {_signal(status.signal)}"
    if code == 0:
        return "success"
    if code == 126:
        return "found, but could not be executed"
    if code == 127:
        return "command not found"
    if _SIGNAL_BASE < code <= _SIGNAL_BASE + _MOST_SIGNALS:
        # A shell's way to tell of its child; a program may mean something else by it.
        return f"as after {_signal(code - _SIGNAL_BASE)}"
    return "failure"


def _end(status: ExecutionStatus) -> Explanation:
    cause = _cause_of_end(status)
    hint = HINTS.get(cause, "")
    if cause is Cause.SIGNAL and _number_of_signal(status) == _SIGKILL:
        hint = "Nobody asked runvoy for that; for want of memory the system does it: perhaps ask for more `memory`."
    if decided_by(status) == "command":
        words = f"the command exited with code {exit_code_of(status)}"
        meaning = exit_meaning(status)
        words += f" ({meaning})" if meaning != "failure" else ""
        return Explanation(reason=cause, words=_with_message(words, status), hint=hint)
    return Explanation(reason=cause, words=_ending(status), hint=hint)


def _cause_of_end(status: ExecutionStatus) -> Cause:
    said = status.message.lower()
    if status.state is State.FAILED and any(words in said for words in _OUT_OF_MEMORY):
        return Cause.OUT_OF_MEMORY
    if status.reason is Reason.KILLED and status.message.startswith(ENDED_FROM_OUTSIDE):
        return Cause.INTERRUPTED
    if status.reason in (Reason.LAUNCH_FAILED, Reason.SETUP_FAILED, Reason.START):
        if any(words in said for words in _PULL_FAILED):
            return Cause.IMAGE_PULL
        if "/bin/sh" in said:
            return Cause.NO_SHELL
    if status.reason in _CAUSES:
        return _CAUSES[status.reason]
    if _number_of_signal(status) is not None:
        return Cause.SIGNAL
    if status.exit_code == 126:
        return Cause.NOT_EXECUTABLE
    if status.exit_code == 127:
        return Cause.COMMAND_NOT_FOUND
    return Cause.EXIT if status.exit_code is not None else Cause.LOST


def _number_of_signal(status: ExecutionStatus) -> int | None:
    if status.signal is not None:
        return status.signal
    number = (status.exit_code or 0) - _SIGNAL_BASE
    return number if 0 < number <= _MOST_SIGNALS else None


def _ending(status: ExecutionStatus) -> str:
    """How a run ended that the command itself did not end."""
    text = _ENDINGS.get(status.state, status.state.value)
    if status.reason is Reason.QUEUE:
        return f"the command was never started: {status.message or REASONS[Reason.QUEUE]}"
    if status.reason is Reason.DEADLINE:
        return f"{text} after {status.timeout_seconds} s"
    if status.reason is not None and status.reason not in _TOLD_BY_THE_STATE:
        text += f": {REASONS[status.reason]}"
    return _with_message(text, status)


def _with_message(text: str, status: ExecutionStatus) -> str:
    if not status.message or status.message in text:
        return text
    return f"{text}: {status.message}" if text.endswith(")") else f"{text} ({status.message})"


def _locks_text(locks: tuple[LockStatus, ...]) -> str:
    """The locks that stand between an execution and its start, with who stands before it, as far as that is known."""
    missing = _missing(locks)
    if not missing:
        return "a lock"
    return f"the lock{'s' if len(missing) > 1 else ''} {'; '.join(_lock_text(lock) for lock in missing)}"


def _missing(locks: tuple[LockStatus, ...]) -> list[LockStatus]:
    return [lock for lock in locks if lock.position != 0] or list(locks)


def _lock_text(lock: LockStatus) -> str:
    if lock.position is None:
        return lock.name
    if lock.position == 0:
        return f"{lock.name}, first in line, and for its other locks"
    text = f"{lock.name}, {place(lock.position)} in line"
    if lock.holder is None:
        return text
    who = lock.holder + (f" of {lock.holder_owner}" if lock.holder_owner else "")
    if lock.held_since is None:
        return f"{text} behind {who}, which waits too"
    return f"{text}, held by {who} since {_instant(lock.held_since)}"


def place(position: int) -> str:
    """A waiter's place in a queue whose holder has position 0: next, 2nd, 3rd."""
    if position == 1:
        return "next"
    ending = "th" if position % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(position % 10, "th")
    return f"{position}{ending}"


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _signal(number: int) -> str:
    return SIGNALS.get(number, f"signal {number}")
